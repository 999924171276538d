use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::call::Shared;
use crate::client::Client;
use crate::times::{to_proto, to_std};
use crate::{
    ActivationCounts, Error, LeaseReference, Placement, ReleaseOutcome, ReleaseRequest,
    RenewLeasesRequest, RouteRequest,
};

/// A release on the way out has so long, whatever became of its call's deadline.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_OFTEN: Duration = Duration::from_millis(100);

/// A placement whose lease is kept alive until it is released: by [`Held::done`], [`Held::release`], or by
/// dropping it, which says CANCELLED (FAILED in a panic). Set what is known of the decode before that.
#[must_use = "dropping it cancels the booking"]
pub struct Held {
    /// Tokens generated, all sequences.
    pub output_tokens: u32,
    /// From the first to the last token.
    pub decode_duration: Option<Duration>,
    /// The experts that the decode really used.
    pub decode_counts: Option<ActivationCounts>,
    placement: Placement,
    client: Client,
    booking: Option<Booking>,
}

/// What is to be released. A fallback was disowned already, if the router was asked at all; a dry run
/// has no lease.
struct Booking {
    model: String,
    lease: LeaseReference,
    renewal: AbortHandle,
}

impl Client {
    /// [`Client::route`] whose booking is kept alive in the background until it is released.
    ///
    /// # Errors
    ///
    /// Those of [`Client::route`].
    pub async fn place(&self, request: RouteRequest) -> Result<Held, Error> {
        let placement = self.shared.route(&request, self.deadline).await?;
        let booking = (!placement.lease_id.is_empty()).then(|| {
            let RouteRequest { model, request_id, attempt, .. } = request;
            let lease =
                LeaseReference { request_id, attempt, lease_id: placement.lease_id.clone() };
            let leases = RenewLeasesRequest { model: model.clone(), leases: vec![lease.clone()] };
            let every = placement.lease_remaining.map(to_std).unwrap_or_default() / 3;
            let renewal = tokio::spawn(renew(self.shared.clone(), leases, every.max(MOST_OFTEN)));
            Booking { model, lease, renewal: renewal.abort_handle() }
        });
        Ok(Held {
            output_tokens: 0,
            decode_duration: None,
            decode_counts: None,
            placement,
            client: self.clone(),
            booking,
        })
    }
}

async fn renew(shared: Arc<Shared>, leases: RenewLeasesRequest, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // at once
    loop {
        ticks.tick().await;
        if shared.renew_leases(&leases, None).await.is_ok_and(|answer| !answer.unknown.is_empty()) {
            tracing::warn!(request_id = leases.leases[0].request_id, "the booking has ended");
            return;
        }
    }
}

impl Held {
    /// Releases with the outcome that the decode's result tells, COMPLETED or FAILED, and hands it on.
    pub async fn done<T, E>(self, decoded: Result<T, E>) -> Result<T, E> {
        self.release(match decoded {
            Ok(_) => ReleaseOutcome::Completed,
            Err(_) => ReleaseOutcome::Failed,
        })
        .await;
        decoded
    }

    /// Ends the booking with how the decode ended. It never fails: what cannot be said now is said when
    /// the router is back.
    pub async fn release(mut self, outcome: ReleaseOutcome) {
        if let Some(release) = self.end(outcome) {
            self.client.shared.say(release, Some(RELEASE_TIMEOUT)).await;
        }
    }

    /// Once: what is then to be said.
    fn end(&mut self, outcome: ReleaseOutcome) -> Option<ReleaseRequest> {
        let Booking { model, lease, renewal } = self.booking.take()?;
        renewal.abort();
        Some(ReleaseRequest {
            model,
            request_id: lease.request_id,
            attempt: lease.attempt,
            lease_id: lease.lease_id,
            outcome: outcome.into(),
            output_tokens: self.output_tokens,
            decode_duration: self.decode_duration.map(to_proto),
            decode_counts: self.decode_counts.take(),
        })
    }
}

impl Deref for Held {
    type Target = Placement;

    fn deref(&self) -> &Placement {
        &self.placement
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let outcome = match std::thread::panicking() {
            true => ReleaseOutcome::Failed,
            false => ReleaseOutcome::Cancelled,
        };
        if let Some(release) = self.end(outcome) {
            self.client.shared.chores.keep(release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::Options;

    fn held(client: &Client) -> Held {
        let lease = LeaseReference { request_id: "r".into(), attempt: 2, lease_id: "l".into() };
        let renewal = tokio::spawn(std::future::pending::<()>()).abort_handle();
        Held {
            output_tokens: 7,
            decode_duration: None,
            decode_counts: None,
            placement: Placement::default(),
            client: client.clone(),
            booking: Some(Booking { model: "m".into(), lease, renewal }),
        }
    }

    #[tokio::test]
    async fn what_is_dropped_is_released_as_cancelled_and_in_a_panic_as_failed() {
        let client = Client::new("127.0.0.1:1", Options::default()).unwrap();
        let said = || client.shared.chores.take().expect("a release");
        drop(held(&client));
        let release = said();
        assert_eq!(release.outcome(), ReleaseOutcome::Cancelled);
        assert_eq!((release.lease_id.as_str(), release.attempt), ("l", 2));
        assert_eq!(release.output_tokens, 7);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = held(&client);
            panic!("the decode broke");
        }));
        assert!(panicked.is_err());
        assert_eq!(said().outcome(), ReleaseOutcome::Failed);
        assert!(client.shared.chores.take().is_none());
    }
}
