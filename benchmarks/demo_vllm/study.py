"""One workload under every policy: fit, then blocks in which the policies alternate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.demo_vllm import engines as vllm
from benchmarks.demo_vllm import workload
from benchmarks.demo_vllm.processes import DemoError
from benchmarks.demo_vllm.rig import Rig, Say
from benchmarks.demo_vllm.statistics import Segment

LOAD_ONLY = ("round-robin", "join-shortest-queue")
SUBJECT = "locality-band"
POLICIES = (*LOAD_ONLY, SUBJECT)

TOKENS = (48, 96)
"""Of an answer, evenly drawn."""

BURST = 6
"""Requests an engine in the burst that says what the machine can do."""

PROCESSOR_SHARE = 0.8
"""Of the processors that may be busy: beyond it engines queue for cores, whoever places."""

SHORTEST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a block offers: arrivals a second, and those that are there when it begins."""

    rate: float
    in_flight: int
    seconds: float = SHORTEST_SECONDS


@dataclass(frozen=True, slots=True)
class Study:
    """What came of one workload."""

    name: str
    kinds: tuple[str, ...]
    load: Load
    slots: int
    transform: str
    blocks: list[dict[str, Segment]]


def calibrate(rig: Rig, kinds: Sequence[str], seed: int, say: Say) -> tuple[Load, float]:
    """A load at which the processors have some rest, and how long a block takes to drain.

    Plain round robin is driven twice: a burst, which says how many requests a second the machine
    can do at most, then a part of that, which is corrected by how busy the processors were.
    """
    served = workload.prompts(tuple(kinds), "serve")
    rig.fleet.set_policy(LOAD_ONLY[0])
    burst = workload.block(served, 0.0, BURST * len(rig.decode), 0.0, TOKENS, seed)
    burst = [replace(ask, max_tokens=int(np.mean(TOKENS))) for ask in burst]
    say(f"finding the load: {len(burst)} requests at once")
    begun = time.monotonic()
    segment = _checked(rig, rig.client.drive(burst))
    rate = PROCESSOR_SHARE * len(burst) / (time.monotonic() - begun)
    life = float(np.mean(TOKENS)) * float(np.mean(segment.tpot))
    load = Load(rate, max(round(rate * life), 1), 6.0)
    say(f"trying {rate:.2f} requests a second")
    begun = time.monotonic()
    segment = _checked(rig, rig.client.drive(_block(served, load, seed + 1)))
    drain = time.monotonic() - begun - load.seconds
    rate *= float(np.clip(PROCESSOR_SHARE / segment.processors, 0.8, 1.5))
    life = float(np.mean(TOKENS)) * float(np.mean(segment.tpot)) + float(np.mean(segment.ttft))
    say(
        f"offering {rate:.2f} requests a second: processors were"
        f" {segment.processors:.0%} busy, TPOT {np.median(segment.tpot) * 1e3:.0f} ms"
    )
    return Load(rate, max(round(rate * life), 1)), max(drain, 1.0)


def fit(rig: Rig, kinds: Sequence[str], most: int, seed: int, say: Say) -> tuple[int, str]:
    """Fit on prompts that are never served, in the mix that is; gives slots and transform."""
    fitted = workload.prompts(tuple(kinds), "fit")
    some = [
        prompt
        for (_, prompts), share in zip(fitted.items(), workload.shares(tuple(kinds)), strict=True)
        for prompt in prompts[: max(round(share * most), 2)]
    ]
    counts = []
    for number, prompt in enumerate(some, 1):
        if number % 20 == 1:
            say(f"prefilling prompts to fit on: {number} of {len(some)}")
        counts.append(vllm.counts(rig.prefill[0], rig.model, prompt))
    partition = rig.fleet.fit(counts, len(rig.decode))
    return partition.num_slots, partition.transform


def study(
    rig: Rig,
    name: str,
    kinds: tuple[str, ...],
    load: Load,
    blocks: int,
    fit_prompts: int,
    seed: int,
    say: Say,
) -> Study:
    """Drive the blocks; the order of the policies in each is drawn by the seed."""
    slots, transform = fit(rig, kinds, fit_prompts, seed, say)
    served = workload.prompts(kinds, "serve")
    rng = np.random.default_rng(seed)
    done: list[dict[str, Segment]] = []
    for number in range(1, blocks + 1):
        asks = _block(served, load, seed + 1000 * number)
        block: dict[str, Segment] = {}
        for policy in rng.permutation(POLICIES).tolist():
            rig.fleet.set_policy(policy)
            block[policy] = _checked(rig, rig.client.drive(asks))
        done.append({policy: block[policy] for policy in POLICIES})
        p50s = ", ".join(f"{p} {np.median(s.tpot) * 1e3:.1f}" for p, s in done[-1].items())
        say(f"{name}: block {number} of {blocks}, {len(asks)} requests a policy; TPOT p50 {p50s}")
    return Study(name, kinds, load, slots, transform, done)


def _block(served: dict[str, list[str]], load: Load, seed: int) -> list[workload.Ask]:
    return workload.block(served, load.rate, load.in_flight, load.seconds, TOKENS, seed)


def _checked(rig: Rig, segment: Segment) -> Segment:
    rig.processes.check()
    if not segment.tpot:
        raise DemoError(f"no request was answered; the proxy says:\n{rig.processes.tail('proxy')}")
    return segment
