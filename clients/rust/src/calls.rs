use std::time::Duration;

use crate::call::{Asked, Shared, Try};
use crate::chores::Pending;
use crate::client::Client;
use crate::proto::eldr::v1::stream_signatures_response::Result as Streamed;
use crate::times::Waits;
use crate::{
    Error, Placement, RegisterSignatureRequest, RegisterSignatureResponse, ReleaseRequest,
    ReleaseResult, RenewLeasesRequest, RenewLeasesResponse, RouteRequest, StreamSignaturesRequest,
};

impl Client {
    /// Picks a worker and books it. Release it when the decode has ended, or use [`Client::place`]. When
    /// the router does not answer in time, the placement is the client's own ([`crate::is_fallback`])
    /// and books nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] by the router; [`Error::RouterUnavailable`] where no worker is known to fall back on.
    pub async fn route(&self, request: RouteRequest) -> Result<Placement, Error> {
        self.shared.route(&request, self.deadline).await
    }

    /// Adds one chunk of a request's counts to what the router holds of it.
    ///
    /// # Errors
    ///
    /// Whatever kept the router from holding it.
    pub async fn register_signature(
        &self,
        request: RegisterSignatureRequest,
    ) -> Result<RegisterSignatureResponse, Error> {
        let asked = Asked { model: &request.model, deadline: self.deadline, ..Asked::default() };
        let send = |given: Try| {
            let message = given.request(request.clone());
            async move { given.router().register_signature(message).await }
        };
        self.shared.call(asked, send).await.map(tonic::Response::into_inner)
    }

    /// [`Client::register_signature`] by a stream that stays open. With `route` in the request, the request
    /// is placed once the chunk is added, and that is the placement; it is never a fallback.
    ///
    /// # Errors
    ///
    /// Whatever kept the router from holding or placing it.
    pub async fn stream_signature(
        &self,
        request: StreamSignaturesRequest,
    ) -> Result<Option<Placement>, Error> {
        self.shared.stream_signature(&request, self.deadline).await
    }

    /// Keeps bookings alive; the answer names those that are not.
    ///
    /// # Errors
    ///
    /// Whatever kept the router from renewing.
    pub async fn renew_leases(
        &self,
        request: RenewLeasesRequest,
    ) -> Result<RenewLeasesResponse, Error> {
        self.shared.renew_leases(&request, self.deadline).await
    }

    /// Ends a booking; twice is fine. The result is `None` where the router does not answer: the release is
    /// kept and sent once it does.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] by the router.
    pub async fn release(&self, request: ReleaseRequest) -> Result<Option<ReleaseResult>, Error> {
        self.shared.release(request, self.deadline).await
    }
}

impl Shared {
    pub(crate) async fn route(
        &self,
        request: &RouteRequest,
        deadline: Option<Duration>,
    ) -> Result<Placement, Error> {
        let pending = Pending::route(&self.chores, request);
        let waits = Waits::of(request);
        let asked = Asked { model: &request.model, deadline, waits, bound: None };
        let send = |given: Try| {
            let mut message = request.clone();
            if !given.passed.is_zero() {
                waits.ask_for_rest(given.passed, &mut message);
            }
            let message = given.request(message);
            async move { given.router().route(message).await }
        };
        match self.call(asked, send).await {
            Ok(answer) => {
                pending.settle();
                let placement = answer.into_inner().placement.unwrap_or_default();
                self.pool.learn(&request.model, &placement);
                Ok(placement)
            }
            Err(error) if error.is_silence() => self.pool.place(request).ok_or_else(|| {
                Error::RouterUnavailable(format!(
                    "no worker of {} is known: {error}",
                    request.model
                ))
            }),
            Err(error) => {
                pending.settle();
                Err(error)
            }
        }
    }

    async fn stream_signature(
        &self,
        request: &StreamSignaturesRequest,
        deadline: Option<Duration>,
    ) -> Result<Option<Placement>, Error> {
        let named = request.route.as_ref().map(|route| RouteRequest {
            model: request.model.clone(),
            request_id: request.request_id.clone(),
            attempt: route.attempt,
            dry_run: route.dry_run,
            ..RouteRequest::default()
        });
        let pending = named.map(|named| Pending::route(&self.chores, &named));
        let waits = request.route.as_ref().map(Waits::of).unwrap_or_default();
        let bound = Some(&self.stream);
        let send = |given: Try| {
            let mut message = request.clone();
            if let Some(route) = message.route.as_mut().filter(|_| !given.passed.is_zero()) {
                waits.ask_for_rest(given.passed, route);
            }
            self.stream.exchange(message, given)
        };
        let asked = Asked { model: &request.model, deadline, waits, bound };
        let answer = self.call(asked, send).await;
        let result = match answer.map(|answer| answer.result) {
            Ok(Some(Streamed::Status(status))) => Err(Error::from_proto(&status)),
            Ok(Some(Streamed::Placement(placement))) => {
                self.pool.learn(&request.model, &placement);
                Ok(Some(placement))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        if let (Some(pending), false) = (pending, result.as_ref().is_err_and(Error::is_silence)) {
            pending.settle();
        }
        result
    }

    pub(crate) async fn renew_leases(
        &self,
        request: &RenewLeasesRequest,
        deadline: Option<Duration>,
    ) -> Result<RenewLeasesResponse, Error> {
        let asked = Asked { model: &request.model, deadline, ..Asked::default() };
        let send = |given: Try| {
            let message = given.request(request.clone());
            async move { given.router().renew_leases(message).await }
        };
        self.call(asked, send).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn release(
        &self,
        request: ReleaseRequest,
        deadline: Option<Duration>,
    ) -> Result<Option<ReleaseResult>, Error> {
        let pending = Pending::release(&self.chores, &request);
        let asked = Asked { model: &request.model, deadline, ..Asked::default() };
        let send = |given: Try| {
            let message = given.request(request.clone());
            async move { given.router().release(message).await }
        };
        match self.call(asked, send).await {
            Err(Error::RouterUnavailable(_)) => Ok(None), // pending, as the booking must end anyway
            answer => {
                pending.settle();
                answer.map(|answer| Some(answer.into_inner().result()))
            }
        }
    }
}
