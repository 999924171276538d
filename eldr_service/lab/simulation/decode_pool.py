"""Decode engines with continuous batching, in virtual time and over recorded routing."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.expert_sets import expert_sets, shard_sets
from eldr_service.lab.simulation.pool_statistics import (
    Finished,
    PoolStatistics,
    RecentSteps,
    load_imbalance,
    ratio_of,
)
from eldr_service.lab.simulation.stepping import ENDED, ENGINE, HELD, WORKER, advance

_UNLIMITED = np.iinfo(np.int64).max


class Underway(NamedTuple):
    """A request between two workers; `state` is of HELD, `left_s` the time of its last token."""

    state: np.void
    left_s: float


class DecodePool:
    """Decode workers that replay recorded tokens at the pace of a cost model.

    A worker steps while it holds requests. Each step generates one token for every request in its
    batch and lasts as long as the cost model says for the experts that exactly these tokens used;
    see `Engine` for workers that step together. A request that arrives during a step joins at its
    end, with those that arrive at that very time; on an idle engine it begins at once. A request
    ends with the step that generates its last token. Calls must be in order of virtual time. Equal
    calls give bitwise equal times.

    Parameters
    ----------
    expert_ids : ndarray of int, shape [tokens, layers, top_k]
        All recordings end to end.
    num_experts : int
        Experts per layer.
    engines : sequence of Engine
        Their ranks are the workers, in this order.
    """

    def __init__(
        self, expert_ids: NDArray[np.integer], num_experts: int, engines: Sequence[Engine]
    ) -> None:
        if not engines:
            raise ValueError("a pool needs at least one engine, got none")
        if expert_ids.ndim != 3 or not expert_ids.size:
            raise ValueError(f"expert_ids must be [tokens, layers, top_k], not {expert_ids.shape}")
        # The kernel does not check its indices.
        if expert_ids.min() < 0 or expert_ids.max() >= num_experts:
            raise ValueError(f"expert_ids must be from 0 to below num_experts = {num_experts}")
        self._sets = expert_sets(expert_ids, num_experts)
        self._costs = np.array([engine.cost.coefficients for engine in engines])
        ranks = np.array([engine.ranks for engine in engines])
        self._engine_of = np.repeat(np.arange(len(engines)), ranks)
        self._engines = np.zeros(len(engines), ENGINE)
        self._engines["ranks"] = ranks
        self._engines["first"] = np.cumsum(ranks) - ranks
        self._engines["expert_parallel"] = [engine.expert_parallel for engine in engines]
        self._shards = np.zeros((len(engines), ranks.max(), self._sets.shape[2]), np.uint64)
        for i, engine in enumerate(engines):
            self._shards[i, : engine.ranks] = shard_sets(num_experts, engine.ranks)
        self._workers = np.zeros(ranks.sum(), WORKER)
        for w, i in enumerate(self._engine_of.tolist()):
            self._workers[w]["max_running"] = engines[i].max_running
            self._workers[w]["kv_tokens"] = engines[i].kv_tokens or _UNLIMITED
        self._held = np.zeros((len(self._workers), 16), HELD)
        self._asked = self._workers.copy()
        self._now_s = 0.0
        self._ticket_of: dict[Hashable, int] = {}  # of held requests
        self._keys: list[Hashable] = []  # this and the next three by ticket
        self._worker_of: list[int] = []
        self._lengths: list[int] = []
        self._started_s: list[float] = []
        self._end_s: dict[int, float] = {}
        self._finished: list[Finished] = []
        self._told = 0  # how many of them `advance` has returned

    def __len__(self) -> int:
        """Workers."""
        return len(self._workers)

    def start(
        self,
        now_s: float,
        worker: int,
        request_key: Hashable,
        tokens: slice,
        *,
        output_tokens: int | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Give a worker a request.

        Parameters
        ----------
        tokens : slice
            Its decode in expert_ids. When more output is wanted than is recorded, the tokens are
            gone through again from the first.
        output_tokens : int, optional
            By default as many as are recorded.
        prompt_tokens : int
            Its context before the decode, in KV memory.

        Raises
        ------
        ValueError
            When `now_s` is before an earlier call's time, or the slice has no tokens, has a step or
            leaves expert_ids, or the request alone would not fit into the worker's KV memory.
        IndexError
            When there is no such worker.
        """
        if not 0 <= worker < len(self._workers):
            raise IndexError(f"worker {worker} of {len(self._workers)}")
        if not 0 <= tokens.start < tokens.stop <= len(self._sets) or tokens.step is not None:
            raise ValueError(f"{tokens} is no run of tokens below {len(self._sets)}")
        output = tokens.stop - tokens.start if output_tokens is None else output_tokens
        state, kv = self._workers[worker], prompt_tokens + output
        if output < 1 or prompt_tokens < 0:
            raise ValueError(f"no request has {prompt_tokens} prompt and {output} output tokens")
        if kv > state["kv_tokens"]:
            raise ValueError(
                f"{kv} tokens never fit into worker {worker}'s KV memory, {state['kv_tokens']}"
            )
        if now_s != self._now_s:
            self._run(now_s)
        request = (
            *(len(self._keys), tokens.start, tokens.start, tokens.stop),
            *(output, prompt_tokens + 1, kv, np.nan),
        )
        self._hold(now_s, worker, request)
        self._ticket_of[request_key] = len(self._keys)
        self._keys.append(request_key)
        self._worker_of.append(worker)
        self._lengths.append(output)
        self._started_s.append(now_s)

    def move(self, now_s: float, request_key: Hashable, worker: int) -> bool:
        """Have another worker go on with a request, at no cost: `leave`, and `join` at once.

        Raises
        ------
        ValueError, KeyError
            As `leave`.
        """
        if left := self.leave(now_s, request_key):
            self.join(now_s, worker, left)
        return left is not None

    def leave(self, now_s: float, request_key: Hashable) -> Underway | None:
        """Take a request out of its worker at once, with the token of the step under way.

        One that makes its last token stays: None.

        Raises
        ------
        ValueError
            When `now_s` is before an earlier call's time.
        KeyError
            When no worker holds such a request.
        """
        if now_s != self._now_s:
            self._run(now_s)
        ticket = self._ticket_of[request_key]
        before = self._worker_of[ticket]
        row, source = self._held[before], self._workers[before]
        places = np.flatnonzero(row["ticket"][: source["held"]] == ticket)
        if not len(places):
            raise KeyError(request_key)
        place = int(places[0])
        request, left_s = row[place].copy(), now_s
        if place < source["running"]:
            if request["left"] == 1:
                return None
            source["running"] -= 1
            source["kv_used"] -= request["kv"]
            engine = self._engines[self._engine_of[before]]
            if engine["stepping"]:
                self._make_token(request, now_s)
                left_s = float(engine["step_end_s"])
        row[place : source["held"] - 1] = row[place + 1 : source["held"]]
        source["held"] -= 1
        return Underway(request, left_s)

    def join(self, now_s: float, worker: int, request: Underway) -> None:
        """Have a worker go on with a request that has left another; it joins as one that starts."""
        if now_s != self._now_s:
            self._run(now_s)
        self._worker_of[int(request.state["ticket"])] = worker
        self._hold(now_s, worker, request.state)

    def _make_token(self, request: np.void, now_s: float) -> None:
        request["left"] -= 1
        request["context"] += 1
        request["token"] += 1
        if request["token"] == request["stop"]:
            request["token"] = request["begin"]
        if np.isnan(request["first_token_s"]):
            request["first_token_s"] = now_s

    def _hold(self, now_s: float, worker: int, request: object) -> None:
        state, engine = self._workers[worker], self._engines[self._engine_of[worker]]
        if state["held"] == self._held.shape[1]:
            self._held = np.concatenate([self._held, np.zeros_like(self._held)], axis=1)
        if not engine["stepping"]:
            engine["step_end_s"] = max(engine["step_end_s"], now_s)
        self._held[worker, state["held"]] = request
        state["held"] += 1

    def advance(self, until_s: float) -> list[Finished]:
        """Let time pass; who finished since the last call, by time, then by order of start.

        A step that ends at `until_s` is completed, none begins then. Infinity runs all to their
        ends.

        Raises
        ------
        ValueError
            When `until_s` is before an earlier call's time.
        """
        self._run(until_s)
        untold = self._finished[self._told :]
        self._told = len(self._finished)
        return untold

    def held(self, worker: int) -> int:
        """Requests that a worker holds, those included that wait for its next step."""
        return int(self._workers[worker]["held"])

    def running(self, worker: int) -> int:
        """Requests in the step under way; the others that are held wait."""
        return int(self._workers[worker]["running"])

    def kv_used(self, worker: int) -> int:
        """Tokens of KV memory that the running requests have reserved."""
        return int(self._workers[worker]["kv_used"])

    def recent(self, worker: int) -> RecentSteps:
        """A worker's completed steps since this was last called for it."""
        now, before = self._workers[worker], self._asked[worker]
        steps, tokens, seconds, experts, token_experts = (
            float(now[name] - before[name])
            for name in ("steps", "tokens", "seconds", "experts", "token_experts")
        )
        self._asked[worker] = now
        layers = self._sets.shape[1]
        return RecentSteps(
            active_experts=ratio_of(token_experts, tokens * layers),
            step_active_experts=ratio_of(experts, steps * layers),
            batch_size=ratio_of(tokens, steps),
            step_seconds=ratio_of(seconds, steps),
        )

    def statistics(self) -> PoolStatistics:
        """The statistics up to the last call's time."""
        tokens = int(self._workers["tokens"].sum())
        experts = float(self._workers["token_experts"].sum())
        ends = [self._end_s.get(ticket, np.inf) for ticket in range(len(self._keys))]
        return PoolStatistics(
            active_experts=ratio_of(experts, tokens * self._sets.shape[1]),
            step_seconds=ratio_of(float(self._workers["token_seconds"].sum()), tokens),
            tokens=tokens,
            load_imbalance=load_imbalance(
                np.array(self._started_s),
                np.array(ends),
                np.array(self._worker_of, dtype=np.int64),
                len(self._workers),
                self._now_s,
            ),
            tpot_s=np.array([f.tpot_s for f in self._finished if f.tokens > 1]),
        )

    def _run(self, until_s: float) -> None:
        if not until_s >= self._now_s:
            raise ValueError(f"time {until_s} is before {self._now_s}, where the pool is")
        self._now_s = until_s
        ended = np.empty(int(self._workers["held"].sum()), ENDED)
        count = advance(
            self._sets,
            self._shards,
            self._costs,
            until_s,
            self._engines,
            self._workers,
            self._held,
            ended,
        )
        for ticket, first_token_s, end_s in sorted(
            ended[:count].tolist(), key=lambda e: (e[2], e[0])
        ):
            tokens = self._lengths[ticket]
            self._end_s[ticket] = end_s
            self._ticket_of.pop(self._keys[ticket], None)
            self._finished.append(
                Finished(
                    request_key=self._keys[ticket],
                    worker=self._worker_of[ticket],
                    first_token_s=first_token_s,
                    end_s=end_s,
                    tokens=tokens,
                    tpot_s=ratio_of(end_s - first_token_s, tokens - 1),
                )
            )
