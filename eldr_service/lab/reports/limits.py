"""What the data cannot tell, as far as that follows from what was simulated."""

from collections.abc import Iterator

import numpy as np

from eldr_service.lab.recordings import Recording
from eldr_service.lab.reports.findings import TPOT, Findings
from eldr_service.lab.reports.load import mean_output, mean_prompt
from eldr_service.lab.reports.verdict import verdict
from eldr_service.lab.reports.words import change, listed, percent, plain
from eldr_service.lab.simulation.cost import moe_layers

MEAN = TPOT[2]


def limits(findings: Findings, sample: bool) -> list[str]:
    """One or a few sentences each, the most serious first."""
    return list(_limits(findings, sample))


def _limits(findings: Findings, sample: bool) -> Iterator[str]:
    base, recording = findings.plan.base, findings.plan.recording
    if sample:
        yield (
            "The recording is the sample that comes with ELDR: requests to a small model trained"
            " for it. It shows what a report looks like; for your own traffic, give your own"
            " recording (--activations)."
        )
    trace = base.traffic.trace
    if trace and trace.decode_engines:
        yield (
            "Arrivals and lengths are as recorded, but each is paired with the experts of another"
            " request of the recording: requests that came together may have been more alike."
        )
    else:
        yield (
            f"Arrivals are {'a trace' if trace else 'a Poisson process'} and experts are from the"
            " recording: the two were not observed together, so the pairing is synthetic."
        )
    share = _stand_in(recording)
    if share is not None:
        yield (
            f"In the recording every request's prefill is {percent(share, signed=False)} of its"
            " tokens: the split was not recorded, and the first tokens stand in for the prefill."
            " Their experts are probably more like the decode's than a prompt's are, which flatters"
            " policies that see signatures."
        )
    for cost in dict.fromkeys(engine.cost for engine in base.deployment.engines):
        yield f"A step's time follows {cost.name}. {cost.source}".rstrip()
    yield from _costs(findings)
    yield from _copies(findings)
    recorded = mean_output(recording, None)
    output = mean_output(recording, base.traffic.output_tokens)
    if output > 1.05 * recorded:
        yield (
            f"Requests generate {plain(output)} tokens, the recorded decodes have {plain(recorded)}"
            " on average: longer ones repeat their recorded tokens."
        )
    if base.drive_all:
        yield "The partition was fitted on part of the requests that were driven."
    if len(base.seeds) == 1:
        yield "One seed says nothing about chance: there are no intervals. Use --seeds 5."
    else:
        yield (
            f"Intervals are Student's 95% over {len(base.seeds)} paired seeds. They cover the"
            " chance of the split, of arrivals and of the order of requests, not that of the"
            " recording: they say nothing about other traffic."
        )
    yield (
        "The simulation covers decode engines with continuous batching under the daemon's own"
        " router. Not simulated: prefill engines, chunked prefill, preemption, speculative tokens,"
        " all-to-all."
    )


def _costs(findings: Findings) -> Iterator[str]:
    """What the gain would be with other costs, and the contexts it is for."""
    policy, swept = verdict(findings).policy, findings.sweeps.get("cost")
    base = findings.plan.base
    costs = [engine.cost for engine in base.deployment.engines]
    if swept is not None and (policy, MEAN) in findings.changes:
        alone = all(moe_layers(cost.name) for cost in costs)
        yield (
            "The gain depends on the experts' share of a step. With everything but the experts'"
            f" weights taking {listed(map(plain, swept.sweep.values))} times as long"
            f"{' (the first: the MoE layers alone)' if alone else ''}, with as many requests in"
            f" flight, {policy} changes the mean TPOT by"
            f" {listed(change(at[policy, MEAN]) for at in swept.changes)}."
        )
    if any(cost.per_context_token_us for cost in costs):
        prompt = mean_prompt(findings.plan.recording, base.traffic.trace)
        yield (
            f"Prompts have {plain(prompt)} tokens on average, which attention reads again in every"
            " step: with longer ones the experts' share of a step is smaller, and so is the gain."
        )


def _stand_in(recording: Recording) -> float | None:
    """The prefill's share of every request's tokens, if it is the same for all."""
    if recording.counts is not None or recording.offsets is None or recording.prefill_len is None:
        return None
    lengths = np.diff(recording.offsets)
    shares = recording.prefill_len[lengths > 0] / lengths[lengths > 0]
    share = float(np.median(shares))
    same = np.abs(recording.prefill_len - share * lengths) <= 1
    return share if len(shares) > 1 and np.ptp(lengths) > 2 and bool(same.all()) else None


def _copies(findings: Findings) -> Iterator[str]:
    own = [_share([run.figures for run in of_seed]) for of_seed in findings.base.values()]
    swept = {name: max(found.copies) for name, found in findings.sweeps.items()}
    most = max([*own, *swept.values()])
    if most <= 0:
        return
    where = max(swept, key=lambda name: swept[name], default="")
    yield (
        f"{percent(max(own), signed=False)} of the requests came while every recording was in"
        f" flight, and repeat one that was ({percent(most, signed=False)} at the worst point"
        f"{f' of the sweep {where}' if where else ''}). Copies have more in common than requests of"
        " any real workload, which flatters policies that see signatures."
    )


def _share(figures: list[dict[str, float]]) -> float:
    return sum(f["copies"] for f in figures) / sum(f["requests"] for f in figures)
