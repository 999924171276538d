"""The figures in words: whether the goal is met, and what that costs."""

from collections.abc import Mapping

from benchmarks.demos.demo.run import Figures
from eldr_service.lab.simulation.contender import BAND, PAPERS_BAND, TUNED_BAND, names

LOAD_ONLY = ("round-robin", "random", "join-shortest-queue", "power-of-two-choices")
RIVAL = "marginal-cost"
LOCAL = ("locality", PAPERS_BAND, TUNED_BAND, BAND, RIVAL)
ORACLE = "domain-oracle"
DEFAULT = BAND
GOAL = -0.05
GOAL_MODEL, GOAL_WORKERS = "gpt-oss-20b", 16

# What fewer active experts might cost: figure, name, unit. Lower is better for each.
_PRICES = (
    ("step_ms", "step time", " ms"),
    ("tpot_p50_ms", "median TPOT", " ms"),
    ("tpot_p99_ms", "p99 of TPOT", " ms"),
    ("load_imbalance", "load imbalance", ""),
)


def compared(subject: str) -> tuple[str, ...]:
    """The policies to drive, including the subject."""
    own = (subject,) if subject not in (*LOAD_ONLY, *LOCAL, ORACLE) else ()
    return *LOAD_ONLY, *LOCAL, *own, ORACLE


def best_load_only(figures: Mapping[str, Figures], name: str = "active_experts") -> str:
    """The load-only policy that does best by a figure."""
    return min(LOAD_ONLY, key=lambda policy: getattr(figures[policy], name))


def change(figures: Mapping[str, Figures], policy: str, name: str = "active_experts") -> float:
    """A policy's figure relative to that of the load-only policy that does best by it."""
    best = getattr(figures[best_load_only(figures, name)], name)
    return float(getattr(figures[policy], name) / best - 1)


def goal_met(figures: Mapping[str, Figures], subject: str) -> bool:
    """Whether active experts per generated token are lower by at least the goal."""
    return change(figures, subject) <= GOAL


def verdict(figures: Mapping[str, Figures], subject: str, model: str, workers: int) -> list[str]:
    """Sentences: the goal, what else is better, what is worse, which policy does better still."""
    rival = best_load_only(figures)
    moved = change(figures, subject)
    own, theirs = figures[subject].active_experts, figures[rival].active_experts
    goal = "meets" if goal_met(figures, subject) else "misses"
    said = [
        f"{subject} touches {own:.2f} experts per layer and generated token, {rival} (the best of"
        f" the four that see load alone) {theirs:.2f}: {moved:+.1%}. That {goal} the goal of"
        f" {-GOAL:.0%} fewer."
    ]
    if (model, workers) != (GOAL_MODEL, GOAL_WORKERS):
        said[0] += f" (The goal is set for {GOAL_MODEL} and {GOAL_WORKERS} workers.)"
    better: list[str] = []
    worse: list[str] = []
    for name, words, unit in _PRICES:
        best = best_load_only(figures, name)
        value, least = getattr(figures[subject], name), getattr(figures[best], name)
        moved = change(figures, subject, name)
        text = f"{words} {value:.2f}{unit} against {least:.2f} under {best} ({moved:+.1%})"
        (worse if value > least else better).append(text)
    if better:
        said.append(f"With it come, each against the best of the four: {'; '.join(better)}.")
    said.append(
        f"It costs, each against the best of the four: {'; '.join(worse)}."
        if worse
        else "It costs nothing in tail or balance here."
    )
    least = min(figures, key=lambda policy: figures[policy].active_experts)
    if least not in (subject, *LOAD_ONLY):
        said.append(
            f"{names(figures)[least]} touches fewer still, {figures[least].active_experts:.2f},"
            f" at a load imbalance of {figures[least].load_imbalance:.2f}."
        )
    return said


def chance(changes: Mapping[int, float]) -> str:
    """The change in active experts with other seeds, in words."""
    met = sum(moved <= GOAL for moved in changes.values())
    return (
        f"With other halves and arrivals (seeds {min(changes)} to {max(changes)}, plain loop) the"
        f" change in active experts is {min(changes.values()):+.1%} to"
        f" {max(changes.values()):+.1%}:"
        f" the goal is met by {met} of {len(changes)}."
    )
