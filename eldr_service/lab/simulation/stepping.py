"""The inner loop: engines step through recorded tokens in virtual time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.kernels.compiling import kept
from eldr_service.lab.simulation.cost import step_seconds
from eldr_service.lab.simulation.expert_sets import count_bits

Record = Any  # one of the following; only numba knows its fields

ENGINE = np.dtype(
    [
        ("first", np.int64),  # its ranks are the workers from here
        ("ranks", np.int64),
        ("expert_parallel", np.bool_),
        ("stepping", np.bool_),
        ("step_end_s", np.float64),  # end of the current step, else when the next may begin
        ("step_s", np.float64),  # duration of the current step
    ]
)
WORKER = np.dtype(
    [
        ("held", np.int64),  # requests on the worker, oldest first in its row of HELD
        ("running", np.int64),  # the first of them, which the current step serves
        ("max_running", np.int64),
        ("kv_used", np.int64),  # reserved by running requests
        ("kv_tokens", np.int64),
        ("step_experts", np.int64),  # distinct experts of the current step, summed over layers
        # Sums over completed steps with a batch; "token" sums weight a step by its tokens.
        ("steps", np.int64),
        ("tokens", np.int64),
        ("seconds", np.float64),
        ("experts", np.int64),
        ("token_experts", np.int64),
        ("token_seconds", np.float64),
    ]
)
HELD = np.dtype(
    [
        ("ticket", np.int64),  # the request's number in order of start
        ("token", np.int64),  # its next recorded token
        ("begin", np.int64),  # its recorded tokens, repeated when used up
        ("stop", np.int64),
        ("left", np.int64),  # tokens still to generate
        ("context", np.int64),  # tokens that its next step attends to
        ("kv", np.int64),  # tokens that it holds at its end
        ("first_token_s", np.float64),  # NaN before
    ]
)
ENDED = np.dtype([("ticket", np.int64), ("first_token_s", np.float64), ("end_s", np.float64)])


@kept
def advance(
    sets: NDArray[np.uint64],
    shards: NDArray[np.uint64],
    costs: NDArray[np.float64],
    until_s: float,
    engines: NDArray[np.void],
    workers: NDArray[np.void],
    held: NDArray[np.void],
    ended: NDArray[np.void],
) -> int:
    """Bring every engine to `until_s`; write the ended requests by engine and return their number.

    Engines do not interact, so each runs by itself. sets [tokens, layers, words]; shards
    [engines, most ranks, words], each rank's experts; costs [engines, coefficients]; engines
    [engines] of ENGINE; workers [workers] of WORKER; held [workers, room] of HELD; ended [room for
    all that are held] of ENDED.
    """
    layers = sets.shape[1]
    union = np.zeros(sets.shape[1:], dtype=np.uint64)
    count = 0
    for e in range(len(engines)):
        engine = engines[e]
        cost = (costs[e, 0], costs[e, 1], costs[e, 2], costs[e, 3], costs[e, 4])
        first, last = engine.first, engine.first + engine.ranks
        while True:
            if engine.stepping:
                if engine.step_end_s > until_s:
                    break
                for w in range(first, last):
                    count = _complete(workers[w], held[w], engine, ended, count)
                engine.stepping = False
            # A step that begins at until_s waits: a request of that moment can still join it.
            if engine.step_end_s >= until_s:
                break
            batch = 0
            for w in range(first, last):
                _admit(workers[w], held[w])
                batch += workers[w].running
            if batch == 0:
                break
            union[:] = 0
            slowest = 0
            if engine.expert_parallel:
                for w in range(first, last):
                    _unite(sets, workers[w].running, held[w], union)
                slowest = _slowest_rank(union, shards[e], engine.ranks)
            engine.step_s = 0.0
            for w in range(first, last):
                worker = workers[w]
                if not engine.expert_parallel:
                    union[:] = 0
                    _unite(sets, worker.running, held[w], union)
                    slowest = _size(union)
                worker.step_experts = _size(union)
                if worker.running:
                    context = 0
                    for i in range(worker.running):
                        context += held[w, i].context
                    seconds = step_seconds(cost, layers, slowest, worker.running, context)
                    engine.step_s = max(engine.step_s, seconds)
            engine.stepping = True
            engine.step_end_s += engine.step_s
    return count


@kept
def _complete(
    worker: Record, row: NDArray[np.void], engine: Record, ended: NDArray[np.void], count: int
) -> int:
    """Give every running request its token, and remove those that are complete."""
    batch = worker.running
    if batch:
        worker.steps += 1
        worker.tokens += batch
        worker.seconds += engine.step_s
        worker.experts += worker.step_experts
        worker.token_experts += batch * worker.step_experts
        worker.token_seconds += batch * engine.step_s
    kept = 0
    for i in range(worker.held):
        request = row[i]
        if i < batch:
            request.left -= 1
            request.context += 1
            request.token += 1
            if request.token == request.stop:
                request.token = request.begin
            if np.isnan(request.first_token_s):
                request.first_token_s = engine.step_end_s
        if request.left == 0:
            ended[count].ticket = request.ticket
            ended[count].first_token_s = request.first_token_s
            ended[count].end_s = engine.step_end_s
            count += 1
            worker.running -= 1
            worker.kv_used -= request.kv
        else:
            if kept < i:
                row[kept] = request
            kept += 1
    worker.held = kept
    return count


@kept
def _admit(worker: Record, row: NDArray[np.void]) -> None:
    """Let waiting requests run, in order, as long as the next one fits."""
    while worker.running < min(worker.held, worker.max_running):
        request: Record = row[worker.running]
        if worker.kv_used + request.kv > worker.kv_tokens:
            break
        worker.kv_used += request.kv
        worker.running += 1


@kept
def _unite(
    sets: NDArray[np.uint64], running: int, row: NDArray[np.void], union: NDArray[np.uint64]
) -> None:
    """Add the experts of a worker's next tokens."""
    layers, words = union.shape
    for i in range(running):
        token = row[i].token
        for layer in range(layers):
            for word in range(words):
                union[layer, word] |= sets[token, layer, word]


@kept
def _size(union: NDArray[np.uint64]) -> int:
    """Distinct experts, summed over layers."""
    layers, words = union.shape
    total = 0
    for layer in range(layers):
        for word in range(words):
            total += count_bits(union[layer, word])
    return total


@kept
def _slowest_rank(union: NDArray[np.uint64], shards: NDArray[np.uint64], ranks: int) -> int:
    """Distinct experts on each layer's busiest rank, summed over layers."""
    layers, words = union.shape
    total = 0
    for layer in range(layers):
        most = 0
        for rank in range(ranks):
            own = 0
            for word in range(words):
                own += count_bits(union[layer, word] & shards[rank, word])
            most = max(most, own)
        total += most
    return total
