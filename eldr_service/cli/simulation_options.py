"""What `eldr simulate` and `eldr report` are both told: traffic, split, engines."""

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
    "Several times; by default the four that see load alone, the paper's band"
    " (locality-band:transform=counts-idf,tau=0.1), the band tuned (locality-band:width=tuned),"
    " locality-band and marginal-cost. transform=NAME is that of the policy's partition."
    " width=tuned chooses transform and width inside the fitted part: 21 pairs, which take as long"
    " as 21 more policies."
)


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """Options of both; what makes no sense ends as wrong use."""

    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Arrivals per second; a trace is stretched to it, or left as it is without, a"
            " recording so that a worker gets as many as a recorded decode engine did.",
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
            help="Of the gaps between arrivals, without a trace: their standard deviation over"
            " their mean, 1 for Poisson, 10 for requests in bursts.",
        ),
    ] = 1.0
    output_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE|DIR",
            help="Of each request, or drawn from a trace; by default as the arrivals' trace says,"
            " else as recorded. Longer outputs go through the recorded tokens again.",
        ),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same: the same result.")] = 0
    calibration_fraction: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="The share of the recording on which the partition is fitted; the rest is driven.",
        ),
    ] = 0.5
    drive_all: Annotated[
        bool,
        typer.Option("--drive-all", help="Drive the fitted part too, where the rest is too small."),
    ] = False
    shift_at: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="Requests before that second are of one half of the domains, on which the"
            " partition is fitted, later ones of the other; by default there is no such shift.",
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
            help="Milliseconds from arrival to placement, and microseconds more a prompt token.",
            rich_help_panel=ENGINES,
        ),
    ] = "0"
    transfer: Annotated[
        str,
        typer.Option(
            metavar="MS[:US]",
            help="The same from placement until the KV cache is on the worker.",
            rich_help_panel=ENGINES,
        ),
    ] = "0"

    without_prefill_workers: Annotated[
        bool,
        typer.Option(
            "--without-prefill-workers",
            help="The engines prefill what they decode, beside the decodes: a request is placed as"
            " it comes, by what others of its domain used before. --prefill follows.",
            rich_help_panel=ENGINES,
        ),
    ] = False

    def kinds(self, costs: list[str]) -> tuple["Engine", ...]:
        """Engines, one a cost model."""
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
        """So many workers, whose engines take the cost models in turn."""
        from eldr_service.lab.simulation.deployment import Delay, Deployment

        if workers % self.ranks:
            raise typer.BadParameter(
                f"{workers} workers are no multiple of {self.ranks} ranks", param_hint="--ranks"
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
        """What --output-tokens says."""
        if self.output_tokens is None:
            return None
        if self.output_tokens.lstrip("-").isdecimal():
            return int(self.output_tokens)
        return _trace(self.output_tokens, "--output-tokens")

    def trace(self) -> "Trace | None":
        """What --arrivals says."""
        return None if self.arrivals == POISSON else _trace(self.arrivals, "--arrivals")

    def offered(self, workers: int) -> float | None:
        """Arrivals per second; None: a trace's own, or nothing said."""
        trace = self.trace() if self.rate is None else None
        if trace is None or not trace.decode_engines:
            return self.rate
        return float(f"{trace.rate_per_s * workers / trace.decode_engines:.4g}")

    def traffic(self, rate: float | None, duration: float) -> "Traffic":
        """Arrivals at a rate, for a duration in seconds."""
        from eldr_service.lab.simulation.traffic import Traffic

        if self.gap_cv != 1 and self.arrivals != POISSON:
            raise typer.BadParameter("a trace has gaps of its own", param_hint="--gap-cv")
        try:
            return Traffic(duration, rate, self.trace(), self.output(), self.gap_cv)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def check_policies(policies: tuple[str, ...]) -> None:
    """Wrong use, unless all of them can be made."""
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
    """What was joined, lost and fitted, of those that are folders of engines' recordings."""
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
