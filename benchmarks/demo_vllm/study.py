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

TOKENS = (64, 160)
"""Of an answer, evenly drawn."""

IN_FLIGHT = 4
"""Requests an engine that the load aims at: expert locality is nothing to a batch of one."""

LAST_SECONDS = 1.5
"""Of a block, in which nothing arrives: whatever is prefilled is being written at its end."""

SHORTEST_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a block of so many seconds offers: arrivals a second, on top of what is there."""

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
    """The load that keeps `IN_FLIGHT` requests an engine; what a block takes beyond its seconds.

    By Little's law, from how long requests last when so many are there (under round robin).
    """
    served = workload.prompts(tuple(kinds), "serve")
    rig.fleet.set_policy(LOAD_ONLY[0])
    load = Load(0.5 * len(rig.decode), IN_FLIGHT * len(rig.decode), 8.0)
    for turn in range(2):
        say(f"finding the load: {load.in_flight} in flight, {load.rate:.2f} requests a second")
        begun = time.monotonic()
        segment = _checked(rig, _drive(rig, _block(served, load, seed + turn), load))
        beyond = time.monotonic() - begun - load.seconds
        life = float(np.mean(TOKENS) * np.mean(segment.tpot) + np.median(segment.ttft))
        load = replace(load, rate=load.in_flight / life)
    say(
        f"offering {load.rate:.2f} requests a second: TPOT was {np.median(segment.tpot) * 1e3:.0f}"
        f" ms, the processors {segment.processors:.0%} busy"
    )
    return load, max(beyond, 0.5)


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
            block[policy] = _checked(rig, _drive(rig, asks, load))
        done.append({policy: block[policy] for policy in POLICIES})
        p50s = ", ".join(f"{p} {np.median(s.tpot) * 1e3:.1f}" for p, s in done[-1].items())
        say(f"{name}: block {number} of {blocks}, {len(asks)} requests a policy; TPOT p50 {p50s}")
    return Study(name, kinds, load, slots, transform, done)


def _block(served: dict[str, list[str]], load: Load, seed: int) -> list[workload.Ask]:
    arriving = load.seconds - LAST_SECONDS
    return workload.block(served, load.rate, load.in_flight, arriving, TOKENS, seed)


def _drive(rig: Rig, asks: list[workload.Ask], load: Load) -> Segment:
    return rig.client.drive(asks, load.seconds)


def _checked(rig: Rig, segment: Segment) -> Segment:
    rig.processes.check()
    if not segment.tpot:
        raise DemoError(f"no request was answered; the proxy says:\n{rig.processes.tail('proxy')}")
    return segment
