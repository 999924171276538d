"""Options that `eldr simulate` and `eldr report` share: traffic, split, engines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eldr_service.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from eldr_service.lab.simulation.deployment import Delay, Deployment
    from eldr_service.lab.simulation.engine import Engine
    from eldr_service.lab.simulation.traces import Trace
    from eldr_service.lab.simulation.traffic import Traffic

ENGINES = "Engines"
POISSON = "poisson"
COST = "qwen3-30b-a3b-h200"
POLICY_HELP = (
    "Repeatable; by default the four that see load alone, the paper's band"
    " (locality-band:transform=counts-idf,tau=0.1), the tuned band (locality-band:width=tuned),"
    " locality-band and marginal-cost. transform=NAME is that of the policy's partition."
    " width=tuned chooses transform and width within the fitted part: 21 pairs, which take as long"
    " as 21 more policies."
)


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """Options of both; combinations without meaning are usage errors."""

    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Arrivals per second, to which a trace is stretched; by default a trace's own, or"
            " as many per worker as a recorded decode engine got.",
        ),
    ] = None
    arrivals: Annotated[
        str,
        typer.Option(
            metavar="poisson|FILE|DIR",
            help="A trace: Azure's .csv, Mooncake's .jsonl or .jsonl.zst; or engines' recordings.",
        ),
    ] = POISSON
    gap_cv: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Without a trace: standard deviation of the gaps between arrivals over their mean,"
            " 1 for Poisson, 10 for bursts.",
        ),
    ] = 1.0
    output_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE|DIR",
            help="Per request, or drawn from a trace; by default as in the arrivals' trace, else as"
            " recorded. Longer outputs repeat the recorded tokens.",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="The same seed: the same result.")
    ] = 0
    calibration_fraction: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="Share of the recording to fit the partition on; the rest is driven.",
        ),
    ] = 0.5
    drive_all: Annotated[
        bool,
        typer.Option("--drive-all", help="Drive the fitted part too, if the rest is too small."),
    ] = False
    shift_at: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="Requests before this second are from one half of the domains, on which the"
            " partition is fitted, later ones from the other; by default there is no shift.",
            show_default=False,
        ),
    ] = math.inf
    ranks: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers that are data-parallel ranks of one engine and step together.",
            rich_help_panel=ENGINES,
        ),
    ] = 1
    expert_parallel: Annotated[
        bool,
        typer.Option(
            "--expert-parallel",
            help="Each expert lies on one of an engine's ranks.",
            rich_help_panel=ENGINES,
        ),
    ] = False
    max_running: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Requests in a worker's batch.", rich_help_panel=ENGINES
        ),
    ] = 256
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens that a worker's KV memory holds; no limit by default.",
            rich_help_panel=ENGINES,
        ),
    ] = None
    prefill: Annotated[
        str,
        typer.Option(
            metavar="MS[:US]",
            help="Milliseconds from arrival to placement, plus microseconds per prompt token.",
            rich_help_panel=ENGINES,
        ),
    ] = "0"
    transfer: Annotated[
        str,
        typer.Option(
            metavar="MS[:US]",
            help="The same, from placement until the KV cache is on the worker.",
            rich_help_panel=ENGINES,
        ),
    ] = "0"

    without_prefill_workers: Annotated[
        bool,
        typer.Option(
            "--without-prefill-workers",
            help="The engines prefill what they decode, beside the decodes: a request is placed on"
            " arrival, by what others of its domain used before; --prefill applies afterwards.",
            rich_help_panel=ENGINES,
        ),
    ] = False

    def kinds(self, costs: list[str]) -> tuple["Engine", ...]:
        """Engines, one per cost model."""
        from eldr_service.lab.simulation.cost import load_cost
        from eldr_service.lab.simulation.engine import Engine

        try:
            return tuple(
                Engine(
                    load_cost(cost),
                    ranks=self.ranks,
                    expert_parallel=self.expert_parallel,
                    max_running=self.max_running,
                    kv_tokens=self.kv_tokens,
                )
                for cost in costs
            )
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--cost") from error

    def deployment(self, costs: list[str], workers: int) -> "Deployment":
        """A deployment of `workers` workers, whose engines take the cost models in turn."""
        from eldr_service.lab.simulation.deployment import Delay, Deployment

        if workers % self.ranks:
            raise typer.BadParameter(
                f"{workers} workers are not a multiple of {self.ranks} ranks", param_hint="--ranks"
            )
        transfer = _delay(self.transfer, "--transfer")
        if self.without_prefill_workers and transfer != Delay():
            hint = "--without-prefill-workers leaves nothing to transfer"
            raise typer.BadParameter(hint, param_hint="--transfer")
        return Deployment.in_turn(
            self.kinds(costs),
            workers,
            prefill=_delay(self.prefill, "--prefill"),
            transfer=transfer,
            plain=self.without_prefill_workers,
        )

    def output(self) -> "int | Trace | None":
        """The value of --output-tokens."""
        if self.output_tokens is None:
            return None
        if self.output_tokens.lstrip("-").isdecimal():
            return int(self.output_tokens)
        return _trace(self.output_tokens, "--output-tokens")

    def trace(self) -> "Trace | None":
        """The value of --arrivals."""
        return None if self.arrivals == POISSON else _trace(self.arrivals, "--arrivals")

    def offered(self, workers: int) -> float | None:
        """Arrivals per second; None for a trace's own, or if not given."""
        trace = self.trace() if self.rate is None else None
        if trace is None or not trace.decode_engines:
            return self.rate
        return float(f"{trace.rate_per_s * workers / trace.decode_engines:.4g}")

    def traffic(self, rate: float | None, duration: float) -> "Traffic":
        """Arrivals at a rate, for a duration in seconds."""
        from eldr_service.lab.simulation.traffic import Traffic

        if self.gap_cv != 1 and self.arrivals != POISSON:
            raise typer.BadParameter("a trace has its own gaps", param_hint="--gap-cv")
        try:
            return Traffic(duration, rate, self.trace(), self.output(), self.gap_cv)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def check_policies(policies: tuple[str, ...]) -> None:
    """Raise a usage error unless all of them can be created."""
    from eldr_service.lab.simulation.contender import Contender

    for policy in policies:
        try:
            Contender.read(policy)
        except InvalidArgumentError as error:
            raise typer.BadParameter(f"{policy}: {error}", param_hint="--policy") from error


def _trace(path: str, option: str) -> "Trace":
    from eldr_service.lab.simulation.traces import Trace

    try:
        return Trace.load(path)
    except (OSError, ValueError) as error:
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(what, param_hint=option) from error


def recording_notes(requests: Sequence[Path | str | None], costs: Sequence[str]) -> list[str]:
    """What was joined, lost and fitted in the folders of engines' recordings."""
    from eldr_service.lab.recordings import join, read_engine_files
    from eldr_service.lab.simulation.cost import load_cost

    notes = [f"{cost}: {load_cost(cost).source}" for cost in costs if Path(cost).is_dir()]
    for folder in dict.fromkeys(Path(path) for path in requests if path and Path(path).is_dir()):
        files = read_engine_files(folder)
        joined = join(files)
        notes.append(
            f"{folder}: {len(joined.arrival_s):,} requests, {len(joined.counts):,} with experts,"
            f" {joined.lost:,} not whole; decode engines: {files.decode_engines}"
        )
        notes += files.cautions
    return notes


def _delay(text: str, option: str) -> "Delay":
    from eldr_service.lab.simulation.deployment import Delay

    fixed, _, each = text.partition(":")
    try:
        return Delay(float(fixed) * 1e-3, float(each or 0) * 1e-6)
    except ValueError as error:
        hint = f"expected MS or MS:US, such as 50:20, found {text!r}"
        raise typer.BadParameter(hint, param_hint=option) from error
