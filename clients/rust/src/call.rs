use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Status};

use crate::Error;
use crate::chores::Chores;
use crate::client::Router;
use crate::fallback::Pool;
use crate::replicas::{Replica, Replicas};
use crate::stream::SignatureStream;
use crate::times::{Waits, chance};

/// Before the second and third try. The second helps when a connection broke under the call, the third
/// when the router is back.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];
/// What a caller may ask for at most; clocks cannot add up more.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What all clones of a client share.
pub(crate) struct Shared {
    pub(crate) timeout: Duration,
    pub(crate) replicas: Replicas,
    pub(crate) pool: Pool,
    pub(crate) chores: Chores,
    pub(crate) stream: SignatureStream,
}

/// What a call is about.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    pub(crate) model: &'a str,
    /// The caller's own deadline.
    pub(crate) deadline: Option<Duration>,
    /// They are added to the timeout.
    pub(crate) waits: Waits,
    /// The replica that the call goes to where it has no choice.
    pub(crate) bound: Option<&'a SignatureStream>,
}

/// One try of a call.
pub(crate) struct Try {
    pub(crate) replica: Arc<Replica>,
    /// Since the call began; zero for the first.
    pub(crate) passed: Duration,
    until: Instant,
}

impl Try {
    pub(crate) fn router(&self) -> Router {
        self.replica.router()
    }

    /// The message with the time that is left, which the router then knows too.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.until.saturating_duration_since(Instant::now()));
        request
    }
}

impl Shared {
    /// One RPC, sent again (it is idempotent) while no answer comes and time is left. Where there are replicas, a
    /// try takes its waits and at most half of the rest, so that a frozen one leaves time to ask another.
    pub(crate) async fn call<T, F>(
        &self,
        asked: Asked<'_>,
        mut send: impl FnMut(Try) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let began = Instant::now();
        let wait = asked.waits.both();
        let given = asked.deadline.unwrap_or_else(|| self.timeout.saturating_add(wait));
        let deadline = began + given.min(LONGEST);
        let mut pauses = RETRY_PAUSES.iter();
        let mut passed = Duration::ZERO;
        loop {
            if self.chores.is_open() {
                return Err(Error::RouterUnavailable("it was silent a moment ago".into()));
            }
            let pause =
                pauses.next().map(|pause| pause.mul_f64(1.0 + f64::from(chance() % 256) / 1024.0));
            let left = deadline.saturating_duration_since(Instant::now());
            let until = match pause {
                Some(pause) if self.replicas.are_several && pause < left => {
                    let patience = wait.saturating_sub(began.elapsed());
                    Instant::now() + patience.min(left) + left.saturating_sub(patience) / 2
                }
                _ => deadline,
            };
            let mut replica = None;
            let answer = timeout_at(until, async {
                let picked = match asked.bound.and_then(SignatureStream::replica) {
                    Some(bound) => bound,
                    None => self.replicas.pick().await,
                };
                replica = Some(picked.clone());
                send(Try { replica: picked, passed, until }).await
            });
            let failure = match answer.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => Error::from_status(&status),
                Err(_) => Error::RouterUnavailable(format!("no answer in {:?}", began.elapsed())),
            };
            if !matches!(failure, Error::RouterUnavailable(_)) {
                return Err(failure);
            }
            if let Some(replica) = replica {
                replica.shun();
            }
            self.replicas.look_up_again();
            let pause = pause.filter(|pause| Instant::now() + *pause < deadline);
            let Some(pause) = pause else {
                self.chores.trip(asked.model, &failure);
                return Err(failure);
            };
            sleep(pause).await;
            passed = began.elapsed();
        }
    }
}
