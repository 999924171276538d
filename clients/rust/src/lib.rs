//! Asks an ELDR router for decode placements.
//!
//! The messages are the contract's own ([`proto`]). No call fails because the router is away: [`Client::route`]
//! and [`Client::place`] then answer with a worker of the client's own choice ([`is_fallback`]), and
//! releases are kept until the router is back. A future that is dropped ends what it may have booked.

mod addresses;
mod call;
mod calls;
mod chores;
mod client;
mod counts;
mod error;
mod fallback;
mod held;
pub mod proto;
mod replicas;
mod stream;
mod times;

pub use client::{Client, Options};
pub use counts::Counts;
pub use error::{Error, Refusal};
pub use fallback::{Worker, is_fallback, targets};
pub use held::Held;
pub use proto::eldr::v1::{
    ActivationCounts, LeaseReference, Placement, PlacementReason, RegisterSignatureRequest,
    RegisterSignatureResponse, ReleaseOutcome, ReleaseRequest, ReleaseResult, RenewLeasesRequest,
    RenewLeasesResponse, RouteRequest, StreamSignaturesRequest, WorkerTarget,
};
#[cfg(feature = "tls")]
pub use tonic::transport::{Certificate, ClientTlsConfig, Identity};
