use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::RouteRequest;

/// The contract's time as the standard library's; what is negative or out of range counts as none.
pub(crate) fn to_std(duration: prost_types::Duration) -> Duration {
    duration.try_into().unwrap_or_default()
}

pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    // As long as the contract's times can be, should the caller's be longer.
    duration.try_into().unwrap_or(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 })
}

/// What a request asks the router to wait, one after the other.
#[derive(Clone, Copy, Default)]
pub(crate) struct Waits {
    signature: Duration,
    place: Duration,
}

impl Waits {
    pub(crate) fn of(request: &RouteRequest) -> Self {
        Self {
            signature: request.wait_for_signature.map(to_std).unwrap_or_default(),
            place: request.max_wait.map(to_std).unwrap_or_default(),
        }
    }

    pub(crate) fn both(self) -> Duration {
        self.signature.saturating_add(self.place)
    }

    /// Has a later try ask for what is left of them.
    pub(crate) fn ask_for_rest(self, passed: Duration, request: &mut RouteRequest) {
        if !self.signature.is_zero() {
            request.wait_for_signature = Some(to_proto(self.signature.saturating_sub(passed)));
        }
        if !self.place.is_zero() {
            let passed = passed.saturating_sub(self.signature);
            request.max_wait = Some(to_proto(self.place.saturating_sub(passed)));
        }
    }
}

/// A number that differs from call to call and from client to client, so that they do not move together.
pub(crate) fn chance() -> u32 {
    RandomState::new().hash_one(()) as u32
}
