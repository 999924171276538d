"""One workload under every policy: fit, then blocks in which the policies alternate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.demos.demo_vllm import engines as vllm
from benchmarks.demos.demo_vllm import workload
from benchmarks.demos.demo_vllm.processes import DemoError
from benchmarks.demos.demo_vllm.rig import Rig, Say
from benchmarks.demos.demo_vllm.statistics import Segment

LOAD_ONLY = ("join-shortest-queue",)
BAND, PRICED = SUBJECTS = ("locality-band", "marginal-cost")
POLICIES = (*LOAD_ONLY, *SUBJECTS)

TOKENS = (48, 96)
"""Per answer, drawn uniformly."""

IN_FLIGHT = 11
"""Requests per engine, including those in prefill: with a batch of one, locality has no effect."""

SHORTEST_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in flight at any time, and the seconds of a block."""

    in_flight: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The results of one workload."""

    name: str
    kinds: tuple[str, ...]
    load: Load
    slots: int
    transform: str
    blocks: list[dict[str, Segment]]


def fit(rig: Rig, kinds: Sequence[str], most: int, seed: int, say: Say) -> tuple[int, str]:
    """Fit on prompts that are never served, in the served mix; returns slots and transform."""
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
    """Drive the blocks; the seed determines the order of the policies in each."""
    slots, transform = fit(rig, kinds, fit_prompts, seed, say)
    served = workload.prompts(kinds, "serve")
    rng = np.random.default_rng(seed)
    # Each policy has one long run, split into blocks that alternate with the others'.
    names = (*POLICIES, *rig.peers)
    in_flight = dict.fromkeys(names, workload.standing(served, load.in_flight, TOKENS, seed))
    done: list[dict[str, Segment]] = []
    for number in range(1, blocks + 1):
        block: dict[str, Segment] = {}
        for policy in rng.permutation(names).tolist():
            if policy not in rig.peers:
                rig.fleet.set_policy(policy)
            coming = workload.coming(served, TOKENS, seed + 1000 * number)
            block[policy], in_flight[policy] = rig.client.drive(
                in_flight[policy], coming, load.seconds, rig.peers.get(policy)
            )
            _check(rig, block[policy])
        done.append({policy: block[policy] for policy in names})
        shown = ", ".join(f"{p} {np.median(s.tpot) * 1e3:.1f}" for p, s in done[-1].items())
        say(f"{name}: block {number} of {blocks}; TPOT p50 in ms: {shown}")
    return Study(name=name, kinds=kinds, load=load, slots=slots, transform=transform, blocks=done)


def _check(rig: Rig, segment: Segment) -> None:
    rig.processes.check()
    if not segment.tpot:
        raise DemoError(f"no request was answered; the proxy says:\n{rig.processes.tail('proxy')}")
