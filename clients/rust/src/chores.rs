use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::call::Shared;
use crate::{Error, ReleaseOutcome, ReleaseRequest, RouteRequest};

const FIRST_PROBE: Duration = Duration::from_millis(100);
const LAST_PROBE: Duration = Duration::from_millis(250);
/// A client that is closed says what is unsaid for so long.
const FAREWELL: Duration = Duration::from_secs(1);
/// Releases that wait for the router to return; the oldest are left to the expiry of their leases.
const MAX_UNSAID: usize = 10_000;

/// What is to be done once the router answers.
#[derive(Default)]
pub(crate) struct Chores {
    /// The model of the call that had no answer, from then until a probe is answered. One failure is
    /// enough, as it costs little: a router that is well answers the first probe.
    silent: Mutex<Option<String>>,
    unsaid: Mutex<VecDeque<ReleaseRequest>>,
    wakes: Notify,
}

impl Chores {
    /// Calls are not sent.
    pub(crate) fn is_open(&self) -> bool {
        self.silent.lock().unwrap().is_some()
    }

    pub(crate) fn trip(&self, model: &str, error: &Error) {
        if self.silent.lock().unwrap().replace(model.to_owned()).is_none() {
            tracing::warn!(%error, "falling back");
        }
        self.wakes.notify_one();
    }

    pub(crate) fn keep(&self, release: ReleaseRequest) {
        let mut unsaid = self.unsaid.lock().unwrap();
        if unsaid.len() == MAX_UNSAID {
            unsaid.pop_front();
        }
        unsaid.push_back(release);
        self.wakes.notify_one();
    }

    pub(crate) fn take(&self) -> Option<ReleaseRequest> {
        self.unsaid.lock().unwrap().pop_front()
    }
}

/// Keeps a release when it is dropped, unless the call behind it had an answer: a caller may give up at any time.
pub(crate) struct Pending<'a> {
    chores: &'a Chores,
    release: Option<ReleaseRequest>,
}

impl<'a> Pending<'a> {
    pub(crate) fn release(chores: &'a Chores, release: &ReleaseRequest) -> Self {
        Self { chores, release: Some(release.clone()) }
    }

    /// Of a route, which may be booked without our knowing its lease.
    pub(crate) fn route(chores: &'a Chores, route: &RouteRequest) -> Self {
        let release = (!route.dry_run && !chores.is_open()).then(|| ReleaseRequest {
            model: route.model.clone(),
            request_id: route.request_id.clone(),
            attempt: route.attempt,
            outcome: ReleaseOutcome::Cancelled.into(),
            ..ReleaseRequest::default()
        });
        Self { chores, release }
    }

    pub(crate) fn settle(mut self) {
        self.release = None;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            self.chores.keep(release);
        }
    }
}

impl Shared {
    /// Finds the router again, then says what is unsaid, until the client is closed.
    pub(crate) async fn do_chores(self: Arc<Self>, mut closes: watch::Receiver<bool>) {
        tokio::select! {
            () = self.do_chores_for_ever() => {}
            _ = closes.wait_for(|&closes| closes) => {}
        }
        let until = Instant::now() + FAREWELL;
        let _ = timeout_at(until, self.say_unsaid()).await;
        let left = std::mem::take(&mut *self.chores.unsaid.lock().unwrap()).len();
        if left > 0 {
            tracing::warn!(left, "releases are left to expire");
        }
    }

    async fn do_chores_for_ever(&self) {
        loop {
            self.chores.wakes.notified().await;
            let mut pause = FIRST_PROBE;
            while self.chores.is_open() {
                sleep(pause).await;
                self.probe().await;
                pause = LAST_PROBE.min(2 * pause);
            }
            self.say_unsaid().await;
        }
    }

    /// Asks the very path that calls take, so that whatever hangs there keeps the breaker open. Any
    /// answer will do, an error too; it books nothing.
    async fn probe(&self) {
        let Some(model) = self.chores.silent.lock().unwrap().clone() else { return };
        let request_id = "eldr-client-probe".to_owned();
        let request = RouteRequest { model, request_id, dry_run: true, ..RouteRequest::default() };
        let asked = timeout(self.timeout, async {
            let replica = self.replicas.pick().await;
            let answer = replica.router().route(request).await;
            answer.map_err(|status| (replica, Error::from_status(&status)))
        });
        match asked.await {
            Err(_) => {}
            Ok(Err((replica, Error::RouterUnavailable(_)))) => replica.shun(),
            Ok(_) => {
                *self.chores.silent.lock().unwrap() = None;
                tracing::info!("the router answers again");
            }
        }
    }

    async fn say_unsaid(&self) {
        while !self.chores.is_open()
            && let Some(release) = self.chores.take()
        {
            self.say(release, None).await;
        }
    }

    /// Sends a release that has no caller to hear how it went.
    pub(crate) async fn say(&self, release: ReleaseRequest, deadline: Option<Duration>) {
        let request_id = release.request_id.clone();
        if let Err(error) = self.release(release, deadline).await {
            tracing::warn!(request_id, %error, "a release was refused");
        }
    }
}
