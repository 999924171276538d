use std::fmt;
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::proto::google::rpc::{self, BadRequest, ErrorInfo, RetryInfo};
use crate::times::to_std;

const DOMAIN: &str = "eldr";

/// Why a call has no answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The router's answer that the call was not served.
    Refused(Box<Refusal>),
    /// No router answered.
    RouterUnavailable(String),
    /// No answer of the contract: a fault of the router, or of something before it.
    RouterFault(Box<Refusal>),
    /// What the client does not send.
    InvalidValue {
        /// Which value.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        found: String,
    },
}

/// A status that the router answered with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Refusal {
    /// The gRPC status.
    pub code: Code,
    /// What a person reads.
    pub message: String,
    /// The router's own word for the cause (`ErrorInfo.reason`); empty where it said none.
    pub reason: String,
    /// Of an INVALID_ARGUMENT: the first field that is wrong.
    pub field: String,
    /// What that field may be.
    pub expected: String,
    /// What it was.
    pub found: String,
    /// How long to wait after a RESOURCE_EXHAUSTED.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "{:?}: {}", refusal.code, refusal.message),
            Self::RouterUnavailable(why) => write!(f, "the router does not answer: {why}"),
            Self::RouterFault(fault) => {
                write!(f, "no answer of the contract: {:?}: {}", fault.code, fault.message)
            }
            Self::InvalidValue { field, expected, found } => {
                write!(f, "{field}: expected {expected}, found {found}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn invalid(
        field: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::InvalidValue { field, expected: expected.into(), found: found.into() }
    }

    /// No answer came, or none of the contract, so that something may be booked.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::RouterUnavailable(_) | Self::RouterFault(_))
    }

    pub(crate) fn from_status(status: &Status) -> Self {
        // Only what this side met with has a source: a connection that broke or never was.
        if std::error::Error::source(status).is_some() {
            return Self::RouterUnavailable(status.message().to_owned());
        }
        let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
        Self::of(status.code(), status.message(), &details)
    }

    pub(crate) fn from_proto(status: &rpc::Status) -> Self {
        Self::of(Code::from_i32(status.code), &status.message, &status.details)
    }

    fn of(code: Code, message: &str, details: &[Any]) -> Self {
        let info: Option<ErrorInfo> = find(details, "google.rpc.ErrorInfo");
        let is_ours = info.as_ref().is_some_and(|info| info.domain == DOMAIN);
        let is_silent =
            matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        if is_silent && !is_ours {
            // Only the router adds its ErrorInfo; without it, gRPC itself gave these. A router that
            // stops cancels what is under way.
            return Self::RouterUnavailable(message.to_owned());
        }
        let refusal = Box::new(Refusal::new(code, message, info, details));
        match code {
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unavailable => Self::Refused(refusal),
            _ => Self::RouterFault(refusal),
        }
    }
}

impl Refusal {
    fn new(code: Code, message: &str, info: Option<ErrorInfo>, details: &[Any]) -> Self {
        let info = info.unwrap_or_default();
        let said = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
        let mut refusal = Self {
            code,
            message: message.to_owned(),
            field: said("field"),
            expected: said("expected"),
            found: said("found"),
            reason: info.reason,
            retry_after: find::<RetryInfo>(details, "google.rpc.RetryInfo")
                .and_then(|retry| retry.retry_delay)
                .map(to_std),
        };
        let bad: Option<BadRequest> = find(details, "google.rpc.BadRequest");
        // The metadata of ErrorInfo says the same without the ambiguity of a sentence, so it comes first.
        if let (true, Some(bad)) = (refusal.field.is_empty(), bad)
            && let Some(first) = bad.field_violations.into_iter().next()
        {
            let text = first.description.strip_prefix("expected ").unwrap_or(&first.description);
            let (expected, found) = text.split_once(", found ").unwrap_or((text, ""));
            (refusal.expected, refusal.found) = (expected.to_owned(), found.to_owned());
            refusal.field = first.field;
        }
        refusal
    }
}

fn find<M: Message + Default>(details: &[Any], name: &str) -> Option<M> {
    let found = details.iter().find(|each| each.type_url.rsplit('/').next() == Some(name))?;
    M::decode(&found.value[..]).ok()
}
