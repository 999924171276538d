"""A request router of Ray Serve that decodes where ELDR says."""

import asyncio
import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from eldr_client import EldrError, ReleaseOutcome
from eldr_client.aio import RouterClient
from ray.serve.request_router import (
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)
from ray.util.metrics import Counter

from eldr_ray.identity import worker_id
from eldr_ray.leg import Booking, Leg

logger = logging.getLogger("eldr_ray")

FALLBACK = "RAY_FALLBACK"


class EldrRequestRouter(LocalityMixin, MultiplexMixin, RequestRouter):
    """Sends a request to the replica that ELDR has booked for it.

    It handles requests with `kv_transfer_params.eldr`, which prefill engines with ELDR's connector
    put in their answers: it asks the daemon with the counts in it, the replicas being the
    candidates, and replaces it by what the decode engine needs to know. A replica to which Ray
    cannot send the request is not a candidate again. All other requests, and those for a
    multiplexed model, go to the less loaded of two random replicas, Ray's default, and so do all
    requests while the daemon is down, does not answer within `timeout`, or has no capacity left.

    The daemon chooses and books in one step. The booking ends with the decode engine's own report;
    in case there is none, this router ends it `release_after` seconds after the answer's end.
    """

    def initialize_state(
        self,
        *,
        router: str = "127.0.0.1:50051",
        model: str = "",
        timeout: float = 0.05,
        signature_wait: float = 0.005,
        lease_ttl: float = 60.0,
        release_after: float = 2.0,
        token: str = "",
        token_file: str = "",
        tls: bool = False,
        root_certificates: str = "",
        client_key: str = "",
        client_certificate: str = "",
    ) -> None:
        """Take `request_router_kwargs`; strings may name environment variables.

        Parameters
        ----------
        router : str
            HOST:PORT of the daemon, or several replicas.
        model : str
            The model's name at the daemon, if the prefill's answer has none.
        timeout : float
            Seconds that placing may add to a request.
        signature_wait : float
            Seconds of `timeout` that the daemon may wait for a signature not in the answer.
        lease_ttl : float
            Seconds that a booking lasts without a report that lists it.
        release_after : float
            Seconds after the answer's end at which this router ends the booking.
        token, token_file, tls, root_certificates, client_key, client_certificate
            How to reach the daemon: a bearer token, or the file that holds it; TLS with the
            system's roots; PEM files.

        Raises
        ------
        OSError
            A file cannot be read.
        """
        self._client = RouterClient(
            os.path.expandvars(router),
            timeout=timeout,
            token=os.path.expandvars(token) or _text(token_file),
            tls=tls,
            root_certificates=_bytes(root_certificates),
            client_key=_bytes(client_key),
            client_certificate=_bytes(client_certificate),
        )
        self._model = model
        self._timeout = timeout
        self._signature_wait = min(signature_wait, timeout / 2)
        self._lease_ttl = lease_ttl
        self._release_after = release_after
        # Sent, or about to be. All calls of one request share its Ray id.
        self._held: defaultdict[tuple[ReplicaID, str], list[Booking]] = defaultdict(list)
        self._releases: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._placements = Counter(
            "eldr_ray_placements",
            description="Requests with a signature, by the reason of their placement.",
            tag_keys=("application", "deployment", "reason"),
        ).set_default_tags({"application": self.app_name, "deployment": self._deployment_id.name})

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The booked replica alone, or two at random.

        Ray calls this again for the same request if it could not send it to the replica.
        """
        leg = Leg.of(pending_request, self._model)
        if pending_request is None or leg is None or pending_request.metadata.multiplexed_model_id:
            return self._two_at_random(pending_request)
        pending_request.routing_context.should_backoff = True
        try:
            replica = await self._place(leg, candidate_replicas, pending_request)
        except Exception:  # Ray would drop the request
            logger.exception("ELDR failed to place a request; it is routed by load")
            replica = None
        return [[replica]] if replica is not None else self._two_at_random(pending_request)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """The replica has taken it."""
        leg = Leg.of(pending_request, self._model)
        if leg is not None and leg.booking is not None:
            leg.booking.accepted = True

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A request that was sent there has ended, or was not taken."""
        held = self._held.get((replica_id, internal_request_id))
        if not held:
            return
        booking = held[0]
        self._drop(booking, internal_request_id)
        outcome = ReleaseOutcome.COMPLETED if booking.accepted else ReleaseOutcome.FAILED
        self._release(booking, outcome, self._release_after)

    async def _place(
        self, leg: Leg, replicas: Iterable[RunningReplica], pending: PendingRequest
    ) -> RunningReplica | None:
        """Book one of the replicas; None where the daemon names none."""
        internal_id = pending.metadata.internal_request_id
        if (refused := leg.unbooked()) is not None and self._drop(refused, internal_id):
            self._release(refused, ReleaseOutcome.FAILED)
        booking, reason = await self._book(leg, self._by_worker(leg, replicas))
        replica = self.curr_replicas.get(booking.replica_id) if booking else None
        if booking is not None and replica is None:  # it went while the daemon was asked
            self._release(booking, ReleaseOutcome.CANCELLED)
        self._placements.inc(tags={"reason": reason if replica else FALLBACK})
        if booking is None or replica is None:
            return None
        leg.booked(booking)
        self._held[booking.replica_id, internal_id].append(booking)

        def settled(future: "asyncio.Future[RunningReplica]") -> None:
            """The caller has gone before the request was sent: only this future says so."""
            if future.cancelled() and self._drop(booking, internal_id):
                self._release(booking, ReleaseOutcome.CANCELLED)

        pending.future.add_done_callback(settled)
        return replica

    def _by_worker(self, leg: Leg, replicas: Iterable[RunningReplica]) -> dict[str, RunningReplica]:
        """The candidates by ELDR's names; only those with room by Ray's knowledge, if any."""
        fresh = [each for each in replicas if each.replica_id not in leg.tried]
        if not fresh:
            fresh = list(replicas)
            leg.tried.clear()
        candidates = self.select_available_replicas(fresh) or fresh
        return {worker_id(each.replica_id): each for each in candidates}

    async def _book(
        self, leg: Leg, workers: dict[str, RunningReplica]
    ) -> tuple[Booking | None, str]:
        attempt, leg.attempt = leg.attempt, leg.attempt + 1
        handoff = leg.handoff
        if attempt == 0 and (said := handoff.placement) and said.worker_id in workers:
            return self._booking(leg, 0, said.lease_id, workers[said.worker_id]), "PREFILL"
        # Placed on a worker that is no candidate: a higher attempt ends that booking.
        if attempt == 0 and handoff.is_placed:
            attempt, leg.attempt = 1, 2
        wait = self._signature_wait if handoff.counts is None else 0.0
        try:
            placement = await self._client.route(
                leg.model,
                handoff.request_id,
                handoff.counts,
                attempt=attempt,
                timeout=self._timeout - wait,  # to which the client adds the wait
                wait_for_signature=wait,
                candidate_workers=sorted(workers),
                expected_output_tokens=leg.output_limit,
                lease_ttl=self._lease_ttl,
            )
        except EldrError as error:
            self._tell(f"{type(error).__name__}: {error}")
            return None, FALLBACK
        if placement.is_fallback:
            self._tell("the daemon does not answer")
            return None, FALLBACK
        self._tell("")
        replica = workers[placement.worker_id]  # the daemon keeps to the candidates
        return self._booking(leg, attempt, placement.lease_id, replica), placement.reason.value

    @staticmethod
    def _booking(leg: Leg, attempt: int, lease_id: str, replica: RunningReplica) -> Booking:
        return Booking(
            model=leg.model,
            request_id=leg.handoff.request_id,
            attempt=attempt,
            lease_id=lease_id,
            replica_id=replica.replica_id,
        )

    def _two_at_random(self, pending: PendingRequest | None) -> list[list[RunningReplica]]:
        """Two random replicas; Ray takes the one with the shorter queue."""
        if pending is not None and pending.metadata.multiplexed_model_id:
            ids = self.apply_multiplex_routing(pending)
        else:
            ids = self.apply_locality_routing(pending)
        drawn = random.sample(list(ids), min(2, len(ids)))
        return [[self.curr_replicas[each] for each in drawn if each in self.curr_replicas]]

    def _drop(self, booking: Booking, internal_id: str) -> bool:
        """Forget the booking; return whether it was held."""
        key = booking.replica_id, internal_id
        held = self._held.get(key, [])
        if booking not in held:
            return False
        held.remove(booking)
        if not held:
            del self._held[key]
        return True

    def _release(self, booking: Booking, outcome: ReleaseOutcome, after: float = 0.0) -> None:
        """End the booking in a task of its own: no request waits for it."""
        task = asyncio.get_running_loop().create_task(self._say(booking, outcome, after))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _say(self, booking: Booking, outcome: ReleaseOutcome, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await self._client.release(
                booking.model, booking.request_id, attempt=booking.attempt, outcome=outcome
            )
        except EldrError as error:
            logger.info("the release of %s was refused: %s", booking.request_id, error)

    def _tell(self, trouble: str) -> None:
        """Log a trouble once, not with each request."""
        if trouble and trouble != self._trouble:
            logger.warning("not placed by ELDR, requests are routed by load: %s", trouble)
        self._trouble = trouble


def _text(path: str) -> str | None:
    return Path(os.path.expandvars(path)).read_text().strip() if path else None


def _bytes(path: str) -> bytes | None:
    return Path(os.path.expandvars(path)).read_bytes() if path else None


__all__ = ["EldrRequestRouter"]
