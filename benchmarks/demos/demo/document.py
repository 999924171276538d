"""The demo's result for programs, `build/demo.json`."""

from dataclasses import asdict
from typing import Any

from benchmarks.demos.demo import data
from benchmarks.demos.demo.heat_map import tally
from benchmarks.demos.demo.result import Result
from benchmarks.demos.demo.verdict import GOAL, best_load_only, change, goal_met


def document(result: Result) -> dict[str, Any]:
    """The whole result for programs."""
    work, known = result.work, data.known(result.name)
    names, counts = tally(
        work.recording.domains[work.driven], result.runs[result.subject].placements, work.workers
    )
    best = best_load_only(result.figures)
    return {
        "data": result.name,
        "caveat": known.caveat,
        "model": known.model,
        "geometry": asdict(work.recording.geometry),
        "requests": {"fitted": len(work.fitted), "driven": len(work.driven)},
        "workers": work.workers,
        "rate_per_s": work.rate,
        "arrivals": len(work.arrivals),
        "seed": work.seed,
        "cost": asdict(work.cost),
        "transform": result.settings[result.subject].partition.transform.name,
        "policies": {
            policy: {
                "parameters": dict(result.settings[policy].parameters),
                "transform": result.settings[policy].partition.transform.name,
                **asdict(run.finished),
                "active_experts_change": change(result.figures, policy),
                "placements": len(run.placements),
                "waited": run.waited,
                "most_in_flight": run.most_in_flight,
                "reasons": run.reasons,
                "route_ms": dict(zip(("p50", "p99"), run.route_ms(), strict=True)),
            }
            for policy, run in result.runs.items()
        },
        "subject": result.subject,
        "best_load_only": best,
        "goal": {"active_experts_change": GOAL, "met": goal_met(result.figures, result.subject)},
        "other_seeds": result.other_seeds,
        "plain_loop": {
            "differing": result.differing,
            "policies": {policy: asdict(run.finished) for policy, run in result.plain.items()},
        },
        "heat_map": {"domains": names.tolist(), "placements": counts.tolist()},
        "seconds": result.seconds,
    }
