"""One colour per policy, told apart by colour-blind readers (after Okabe and Ito), light and dark.

Figures use the light ones; the page has a CSS variable for each.
"""

from collections.abc import Iterable

from eldr_service.lab.reports.plan import name_of
from eldr_service.lab.simulation.contender import PAPERS_BAND, TUNED_BAND

INK, QUIET, GRID = "#1b1f24", "#5b6470", "#d9dde2"
LINES = {INK: "#e8eaed", QUIET: "#a3abb6", GRID: "#3a4048"}
POLICIES = {
    "round-robin": ("#8a9099", "#7e8691"),
    "random": ("#c2679d", "#e59bc4"),
    "join-shortest-queue": ("#3d434b", "#ccd2da"),
    "power-of-two-choices": ("#b07a00", "#f0b429"),
    "locality": ("#009e73", "#2ccf9f"),
    "locality-band": ("#0072b2", "#56b4e9"),
    "marginal-cost": ("#d55e00", "#ff8f45"),
    "domain-oracle": ("#7c6aa6", "#b3a2dd"),
    PAPERS_BAND: ("#2f7f86", "#6cc5cc"),
    TUNED_BAND: ("#1f3a93", "#8ea2ff"),
}
SPARE = (("#6b8e23", "#a9cf5c"), ("#8b4a3b", "#d98e7d"), ("#7a7a1f", "#cfcf4a"))
LIGHT_TO_DARK = LINES | dict([*POLICIES.values(), *SPARE])


def colours(policies: Iterable[str]) -> dict[str, str]:
    """The light colour of each; second variants of a policy, and plugins, take spare ones."""
    found: dict[str, str] = {}
    spare = 0
    for policy in policies:
        own = POLICIES.get(policy, POLICIES.get(name_of(policy)))
        if own is None or own[0] in found.values():
            own = SPARE[spare % len(SPARE)]
            spare += 1
        found[policy] = own[0]
    return found


def variable(colour: str) -> str:
    """The CSS variable of a light colour."""
    return f"--c-{colour.removeprefix('#')}"
