"""A run: requests go through the real router, under a policy, to simulated engines.

`Router`, `Workers` and the policies are the daemon's own, driven in virtual time: workers register
and report, counts are routed, releases come back with what the decode activated.
"""

import heapq
from collections import Counter
from copy import deepcopy
from enum import IntEnum

import numpy as np

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.booking import Booking
from eldr_service.core.decision import Reason
from eldr_service.core.ends import Ended
from eldr_service.core.errors import FailedPreconditionError, ResourceExhaustedError
from eldr_service.core.partition import Partition
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.lab.simulation.arrivals import RecordingPicker
from eldr_service.lab.simulation.decode_pool import DecodePool, Underway
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.moves import Moves
from eldr_service.lab.simulation.pool_statistics import Finished
from eldr_service.lab.simulation.prefix_caches import PrefixCaches
from eldr_service.lab.simulation.replicas import Replicas
from eldr_service.lab.simulation.result import Result
from eldr_service.lab.simulation.workload import Workload, oracle_labels
from eldr_service.policies import Policy
from eldr_service.routing.call import RouteCall
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.standing import StandingLimits
from eldr_service.routing.workers import Workers

MODEL = "simulated"


def simulate(
    workload: Workload,
    policy: Policy,
    deployment: Deployment,
    partition: Partition | None = None,
    moves: Moves | None = None,
) -> Result:
    """Run a workload under a policy, every request to its end. Equal calls give equal results.

    Parameters
    Use the same one for all policies to be compared.
    workload : Workload
        Give the same to every policy that is to be compared.
    policy : Policy
        A new one: it is told of bookings and may keep state.
    deployment : Deployment
    partition : Partition, optional
        From `fitting.fit_partition` on the workload's fitted part; without it, policies that read
        signatures take the least loaded worker.
    moves : Moves, optional
        Moves running requests. The router is not told, so its bookings stay where they were.

    Raises
    ------
    ValueError
        A request alone does not fit into a worker's KV memory.
    FailedPreconditionError
        The policy raised, or chose a worker that is not eligible.
    """
    return _Run(workload, policy, deployment, partition, moves).result()


class _Event(IntEnum):
    """Types of events; at equal times, earlier members come first."""

    REPORT = 0
    HEARD = 1
    RELEASE = 2
    ARRIVAL = 3
    FIRST_CHUNKS = 4
    LAST_CHUNKS = 5
    PLACEMENT = 6
    START = 7
    RESUME = 8


class _Silent:
    """An observer that does nothing."""

    def ended(self, model: str, booking: Booking, how: Ended) -> None:
        """Ignored: the run itself makes the releases."""

    def signatures_dropped(self, number: int, why: str) -> None:
        """Ignored: there is enough memory for the requests in flight."""

    def worker_changed(self, model: str, row: int, state: WorkerState) -> None:
        """Workers stay."""


class _Run:
    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        deployment: Deployment,
        partition: Partition | None,
        moves: Moves | None,
    ) -> None:
        recording, requests = workload.recording, workload.requests
        if recording.expert_ids is None:
            raise ValueError("the recording has only counts, no tokens to decode")
        self._workload, self._deployment, self._moves = workload, deployment, moves
        self._pool = DecodePool(
            recording.expert_ids, recording.geometry.num_experts, deployment.engines
        )
        self._group_of, self._group_of_request = workload.groups
        groups = [np.flatnonzero(self._group_of == g) for g in range(self._group_of.max() + 1)]
        self._groups = [
            (group, RecordingPicker(len(group), workload.seed, again=True)) for group in groups
        ]
        prefixes = requests.prefixes
        kv_tokens = [engine.kv_tokens for engine in deployment.engines for _ in range(engine.ranks)]
        self._caches = PrefixCaches(kv_tokens, prefixes.block_tokens if prefixes else 1)
        limits = Limits(standing=StandingLimits(relief=deployment.relief))
        policies = iter([policy, *(deepcopy(policy) for _ in range(deployment.replicas - 1))])
        self._replicas = Replicas(
            deployment.replicas,
            deployment.view_delay_s,
            lambda journal: Router(lambda: next(policies), _Silent(), limits, journal=journal),
        )
        self._noise = np.random.default_rng([workload.seed, 1])
        self._lives = [self._register(view.workers) for view in self._replicas.views]
        for view in self._replicas.views:
            if partition is not None:
                model = view.router.model(MODEL)
                model.check_geometry(partition.geometry)
                model.activate(partition, {})
        self._held: list[dict[str, int]] = [{} for _ in range(deployment.workers)]
        self._reports = 0
        self._on_their_way: list[tuple[int, LoadReport]] = []  # for HEARD events
        self._done: dict[int, Finished] = {}  # for RELEASE events
        self._counts = [workload.prefill_counts(i) for i in range(len(workload.driven))]
        self._decoded: dict[tuple[int, int], ActivationCounts] = {}

        n = len(requests.times_s)
        self._picked = np.full(n, -1)
        self._prompt = np.zeros(n, np.int64)
        self._prefilled_s = np.full(n, np.nan)
        self._cached = np.zeros(n, np.int64)
        self._tokens = np.zeros(n, np.int64)
        self._worker = np.full(n, -1)
        self._moved = np.zeros(n, np.int64)
        self._between: dict[int, Underway] = {}
        self._placed_s = np.full(n, np.nan)
        self._first_s = np.full(n, np.nan)
        self._end_s = np.full(n, np.nan)
        self._left = n
        self._reasons: Counter[str] = Counter()
        self._copies = self._refused = 0
        self._events = [(t, _Event.ARRIVAL, i) for i, t in enumerate(requests.times_s.tolist())]
        self._events.append((0.0, _Event.REPORT, 0))
        heapq.heapify(self._events)

    def result(self) -> Result:
        """Run all events, and return the result."""
        handlers = {
            _Event.REPORT: self._report,
            _Event.HEARD: self._hear,
            _Event.RELEASE: self._hear_release,
            _Event.ARRIVAL: self._arrive,
            _Event.FIRST_CHUNKS: self._begin_signature,
            _Event.LAST_CHUNKS: self._end_signature,
            _Event.PLACEMENT: self._place,
            _Event.START: self._start,
            _Event.RESUME: self._resume,
        }
        while self._left:
            now, event, request = heapq.heappop(self._events)
            self._advance(now)
            handlers[event](now, request)
        return Result(
            workers=self._deployment.workers,
            arrival_s=self._workload.requests.times_s,
            placed_s=self._placed_s,
            first_token_s=self._first_s,
            end_s=self._end_s,
            worker=self._worker,
            recording=self._workload.driven[self._picked],
            tokens=self._tokens,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            active_experts=self._pool.statistics().active_experts,
            reasons=self._reasons,
            copies=self._copies,
            refused=self._refused,
            decided_again=self._replicas.decided_again,
            moves=int(self._moved.sum()),
        )

    def _register(self, workers: Workers) -> list[int]:
        deployment, recording = self._deployment, self._workload.recording
        as_recorded = self._workload.requests.output_tokens is None
        labels = oracle_labels(recording, self._workload.fitted, deployment.workers, as_recorded)
        lives: list[int] = []
        for engine in deployment.engines:
            for rank in range(engine.ranks):
                number = len(lives)
                spec = WorkerSpec(
                    worker_id=f"decode-{number}",
                    dp_rank=rank,
                    labels={"domain": labels[number], "hardware": engine.cost.name},
                    capacity_sequences=deployment.capacity or engine.max_running,
                    capacity_kv_tokens=engine.kv_tokens or 0,
                )
                life = workers.register(
                    MODEL, spec, WorkerState.READY, recording.geometry, 0.0, static=True
                )
                lives.append(life)
        return lives

    def _report(self, now: float, _: int) -> None:
        self._replicas.tick(now)
        self._reports += 1
        for worker in range(self._deployment.workers):
            recent = self._pool.recent(worker)
            running = self._pool.running(worker)
            off = np.exp(self._noise.normal(0.0, self._deployment.report_noise))
            report = LoadReport(
                incarnation=self._lives[worker % len(self._lives)][worker],
                number=self._reports,
                running_sequences=running,
                waiting_sequences=self._pool.held(worker) - running,
                kv_tokens_used=self._pool.kv_used(worker),
                held=tuple(self._held[worker].items()),
                active_experts=float(np.nan_to_num(recent.active_experts)),
                batch_size=float(np.nan_to_num(recent.batch_size)),
                step_seconds=float(np.nan_to_num(recent.step_seconds * off)),
                step_active_experts=float(np.nan_to_num(recent.step_active_experts)),
            )
            if self._chance(self._deployment.report_loss):
                continue
            if delay := self._deployment.report_delay_s:
                heard = now + delay, _Event.HEARD, len(self._on_their_way)
                self._on_their_way.append((worker, report))
                heapq.heappush(self._events, heard)
            else:
                self._take_report(now, worker, report)
        following = now + self._deployment.report_interval_s
        heapq.heappush(self._events, (following, _Event.REPORT, 0))

    def _chance(self, share: float) -> bool:
        """Draw whether an event of this probability happens; no draw if it is 0."""
        return bool(share and self._noise.random() < share)

    def _hear(self, now: float, number: int) -> None:
        self._take_report(now, *self._on_their_way[number])

    def _take_report(self, now: float, worker: int, report: LoadReport) -> None:
        self._replicas.at(worker, now).workers.report(MODEL, f"decode-{worker}", report, now)

    def _arrive(self, now: float, i: int) -> None:
        group, picker = self._groups[self._group_of_request[i]]
        self._copies += picker.all_in_flight
        taken = picker.take()
        assert taken is not None  # it hands out copies
        picked = int(group[taken])
        requests, recording = self._workload.requests, self._workload.recording
        tokens = recording.decode(int(self._workload.driven[picked]))
        self._picked[i] = picked
        self._prompt[i] = (
            self._counts[picked].num_tokens
            if requests.prompt_tokens is None
            else requests.prompt_tokens[i]
        )
        self._tokens[i] = (
            tokens.stop - tokens.start
            if requests.output_tokens is None
            else requests.output_tokens[i]
        )
        prefill_s = self._deployment.prefill.of(int(self._prompt[i]))
        self._prefilled_s[i] = now + prefill_s
        if self._deployment.plain:
            heapq.heappush(self._events, (now, _Event.PLACEMENT, i))
        elif self._is_early(i):
            seen_s = now + prefill_s * self._share_seen(i)
            heapq.heappush(self._events, (seen_s, _Event.FIRST_CHUNKS, i))
            heapq.heappush(self._events, (now + prefill_s, _Event.LAST_CHUNKS, i))
        else:
            heapq.heappush(self._events, (now + prefill_s, _Event.PLACEMENT, i))

    def _share_seen(self, i: int) -> float:
        return self._deployment.seen(int(self._prompt[i])) / int(self._prompt[i])

    def _is_early(self, i: int) -> bool:
        return self._share_seen(i) < 1

    def _begin_signature(self, now: float, i: int) -> None:
        chunk = self._workload.first_counts(int(self._picked[i]), self._share_seen(i))
        self._register_chunk(now, i, chunk, 0, total=0)
        self._place(now, i)

    def _end_signature(self, now: float, i: int) -> None:
        picked = int(self._picked[i])
        whole = self._counts[picked]
        if self._deployment.plain:
            self._register_chunk(now, i, whole, 0, total=1)
            return
        first = self._workload.first_counts(picked, self._share_seen(i))
        rest = ActivationCounts(
            whole.geometry,
            0,
            whole.counts - first.counts,
            whole.num_tokens - first.num_tokens,
        )
        self._register_chunk(now, i, rest, 1, total=2)

    def _register_chunk(
        self, now: float, i: int, chunk: ActivationCounts, sequence: int, total: int
    ) -> None:
        self._replicas.at(i, now).router.register_signature(
            MODEL,
            str(i),
            0,
            chunk,
            sequence=sequence,
            total_chunks=total,  # 0 before the last
            fingerprint=sequence,
            now=now,
        )

    def _place(self, now: float, i: int) -> None:
        picked = int(self._picked[i])
        domain = str(self._workload.recording.domains[self._workload.driven[picked]])
        plain, prefix = self._deployment.plain, self._prefix(i)
        call = RouteCall(
            model=MODEL,
            request_id=str(i),
            counts=None if plain or self._is_early(i) else self._counts[picked],
            prompt_tokens=int(self._prompt[i]),
            # Only domain-oracle reads the domain; the tenant is read if there are no counts.
            labels={"domain": domain, "tenant": domain} if plain else {"domain": domain},
            prefix_hashes=prefix,
            prefix_block_tokens=self._caches.block_tokens,
            movable=self._deployment.move_pause is not None,
        )
        try:
            booking = self._replicas.route(i, call, now).booking
        except ResourceExhaustedError as full:
            self._refused += 1
            again = now + full.retry_after
            heapq.heappush(self._events, (again, _Event.PLACEMENT, i))
            return
        if booking.reason is Reason.LEAST_LOADED_POLICY_ERROR:  # must not be hidden in the figures
            raise FailedPreconditionError(f"policy {booking.policy} failed; the log says how")
        self._reasons[booking.reason.name] += 1
        self._worker[i] = int(booking.worker_id.removeprefix("decode-"))
        self._placed_s[i] = now
        prompt = int(self._prompt[i])
        cached = self._cached[i] = min(self._caches.held(int(self._worker[i]), prefix), prompt)
        if plain:
            ready = now + self._deployment.prefill.of(prompt - cached)
            heapq.heappush(self._events, (ready, _Event.LAST_CHUNKS, i))
        else:
            ready = self._deployment.kv_ready(now, float(self._prefilled_s[i]), prompt, cached)
        heapq.heappush(self._events, (ready, _Event.START, i))
        self._move_by_policy(now, i)

    def _start(self, now: float, i: int) -> None:
        worker = int(self._worker[i])
        self._pool.start(
            now,
            worker,
            i,
            self._workload.recording.decode(int(self._workload.driven[self._picked[i]])),
            output_tokens=int(self._tokens[i]),
            prompt_tokens=int(self._prompt[i]),
        )
        self._keep_prefix(i)
        self._held[worker][str(i)] = 0
        if self._moves:
            self._moves.started(i, int(self._picked[i]), worker)
            self._move(now)

    def _prefix(self, i: int) -> tuple[int, ...]:
        prefixes = self._workload.requests.prefixes
        return prefixes.hashes[i] if prefixes else ()

    def _keep_prefix(self, i: int) -> None:
        """Record that a request's prompt is on its worker, and was used now."""
        if prefix := self._prefix(i):
            worker = int(self._worker[i])
            generated = sum(int(self._tokens[int(name)]) for name in self._held[worker])
            self._caches.keep(worker, prefix, generated)

    def _move(self, now: float) -> None:
        assert self._moves
        for i, worker in self._moves.next():
            self._pool.move(now, i, worker)

    def _move_by_policy(self, now: float, turn: int) -> None:
        """Carry out a move if the router asked at this turn proposes one."""
        if self._deployment.move_pause is None:
            return
        proposal = self._replicas.at(turn, now).router.propose_move(MODEL, now)
        if proposal is None:
            return
        i, worker = (
            int(proposal.booking.request_id),
            int(proposal.target.worker_id.removeprefix("decode-")),
        )
        if str(i) not in self._held[int(self._worker[i])]:
            return  # its KV cache is still in transfer
        if (left := self._pool.leave(now, i)) is None:
            return
        del self._held[int(self._worker[i])][str(i)]
        self._moved[i] += 1
        call = RouteCall(
            model=MODEL,
            request_id=str(i),
            attempt=int(self._moved[i]),
            counts=self._counts[int(self._picked[i])],
            prompt_tokens=int(self._prompt[i]),
            pinned_worker=proposal.target.worker_id,
            movable=True,
        )
        self._replicas.route(i, call, now)
        self._worker[i] = worker
        self._between[i] = left
        resumes = left.left_s + self._deployment.move_pause.of(int(self._prompt[i]))
        heapq.heappush(self._events, (resumes, _Event.RESUME, i))

    def _resume(self, now: float, i: int) -> None:
        worker = int(self._worker[i])
        self._pool.join(now, worker, self._between.pop(i))
        self._held[worker][str(i)] = int(self._moved[i])

    def _advance(self, now: float) -> None:
        """Advance the engines, and release what they finish."""
        ended = self._pool.advance(now)
        for done in ended:
            assert isinstance(done.request_key, int)
            i = done.request_key
            picked = int(self._picked[i])
            self._first_s[i], self._end_s[i] = done.first_token_s, done.end_s
            group, picker = self._groups[self._group_of[picked]]
            picker.give_back(int(np.searchsorted(group, picked)))
            del self._held[int(self._worker[i])][str(i)]
            self._keep_prefix(i)
            if self._moves:
                self._moves.ended(i)
            self._done[i] = done
            if delay := self._deployment.release_delay_s:
                heapq.heappush(self._events, (max(done.end_s + delay, now), _Event.RELEASE, i))
            else:
                self._release(done.end_s, i)
        if ended and self._moves:
            self._move(now)
        if not self._deployment.release_delay_s:
            for done in ended:
                assert isinstance(done.request_key, int)
                self._move_by_policy(now, done.request_key)

    def _hear_release(self, now: float, i: int) -> None:
        self._release(now, i)
        self._move_by_policy(now, i)

    def _release(self, now: float, i: int) -> None:
        done = self._done.pop(i)
        known = not self._chance(1 - self._deployment.decode_counts_share)
        self._replicas.at(i, now).router.release(
            MODEL,
            str(i),
            int(self._moved[i]),
            now,
            output_tokens=done.tokens,
            decode_seconds=done.end_s - done.first_token_s,
            decode_counts=self._decode_counts(int(self._picked[i]), done.tokens) if known else None,
        )
        self._left -= 1

    def _decode_counts(self, picked: int, tokens: int) -> ActivationCounts:
        """What a decode activated; cached, as recordings repeat."""
        if (picked, tokens) not in self._decoded:
            self._decoded[picked, tokens] = self._workload.decode_counts(picked, tokens)
        return self._decoded[picked, tokens]
