"""The points of `eldr report`'s sweeps, as options."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from eldr_service.core.errors import did_you_mean

if TYPE_CHECKING:
    from eldr_service.lab.reports.plan import Points

SWEEPS = ("rate", "workers", "tau", "tail", "window", "domains", "output", "cost")
POINTS = "Points"


@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """The points of the sweeps."""

    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Only these sweeps, repeatable: {', '.join(SWEEPS)}, or none.",
            rich_help_panel=POINTS,
        ),
    ] = None
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Fewer points, seeds and requests: under a minute, but undecided.",
            rich_help_panel=POINTS,
        ),
    ] = False
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,…",
            help="Multiples of the rate; by default 0.4,0.7,1,1.3,1.6.",
            rich_help_panel=POINTS,
        ),
    ] = None
    fleets: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,…",
            help="Multiples of the workers; by default 0.5 to 1.25, most of them just below 1.",
            rich_help_panel=POINTS,
        ),
    ] = None
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,…",
            help="Multiples of the mean output length; by default 0.5,1,2,4.",
            rich_help_panel=POINTS,
        ),
    ] = None
    taus: Annotated[
        str | None,
        typer.Option(
            metavar="TAU,…", help="By default 0,0.05,0.1,0.2,0.4.", rich_help_panel=POINTS
        ),
    ] = None
    tails: Annotated[
        str | None,
        typer.Option(metavar="TAIL,…", help="By default 0,0.05,0.1,0.3,1.", rich_help_panel=POINTS),
    ] = None

    def points(self) -> "Points":
        """The points given, or the defaults."""
        from eldr_service.lab.reports.plan import QUICK, Points

        given = {
            "rates": _numbers(self.rates, "--rates", above=0),
            "workers": _numbers(self.fleets, "--fleets", above=0),
            "outputs": _numbers(self.outputs, "--outputs", above=0),
            "taus": _numbers(self.taus, "--taus"),
            "tails": _numbers(self.tails, "--tails"),
        }
        chosen = QUICK if self.quick else Points()
        return replace(chosen, **{name: one for name, one in given.items() if one is not None})

    def wanted(self) -> list[str] | None:
        """Names of the sweeps to run; None for all."""
        for name in self.figure or ():
            if name not in (*SWEEPS, "none"):
                raise typer.BadParameter(
                    f"expected one of {', '.join(SWEEPS)} or none, found {name!r}"
                    + did_you_mean(name, (*SWEEPS, "none")),
                    param_hint="--figure",
                )
        return self.figure

    def words(self, quick: bool) -> list[str]:
        """The options given, as written, except --figure, and --quick unless `quick`."""
        words = ["--quick"] if self.quick and quick else []
        for name in ("rates", "fleets", "outputs", "taus", "tails"):
            if getattr(self, name) is not None:
                words += [f"--{name}", getattr(self, name)]
        return words


def _numbers(text: str | None, option: str, above: float = -1.0) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(above < value < math.inf for value in found):
        expected = "positive numbers" if above == 0 else "numbers, 0 or more,"
        raise typer.BadParameter(
            f"expected {expected} such as 0.5,1, found {text!r}", param_hint=option
        )
    return tuple(found)
