"""What `eldr top` shows: as much of each part as fits in the terminal."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from eldr.v1 import fleet_pb2, partition_pb2
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from eldr_service.cli import capture
from eldr_service.cli.fitted import Fit, Row, cut, line
from eldr_service.cli.placements import Placement, Told
from eldr_service.cli.standing import COLUMNS, Standing
from eldr_service.cli.workers import report_age, state
from eldr_service.core.escaping import escaped

BAR = 10  # characters of a full worker's load
WORKERS = (
    *("WORKER", "STATE", "LOAD", ">BOOKED", ">SLOT", ">EXPERTS", ">STEP", "CAPTURE", ">REPORT"),
)
PLACEMENTS = ("AT", "REQUEST", "WORKER", "WHY", "POLICY", ">SIMILARITY")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A snapshot of the fleet, as a renderable that never takes more lines than the terminal has.

    Models and remarks take at most a quarter of the lines each. Workers and placements share the
    rest equally, and either may use what the other does not need.

    Attributes
    ----------
    server : str
    model : str or None
        The only model shown; None for all.
    found : sequence of Standing
    told : mapping of HOST:PORT to Told
        What the HTTP ports say; empty if none is known.
    lost : str
        Why `found` is out of date; empty if it is current.
    """

    server: str
    model: str | None
    found: Sequence[Standing]
    told: Mapping[str, Told]
    lost: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.max_height
        fit = Fit(console, options.update(height=None))
        named = len(self.found) > 1
        models = [each.row() for each in self.found]
        workers = [_worker(each, named) for each in self._workers()]
        placements = [_placement(each, named) for each in self._placements()]
        lines = fit.texts(self._head(), height)
        if models:
            lines += fit.table(COLUMNS, models, height // 4)
        lines += fit.texts(self._remarks(), height // 4)
        left = height - len(lines)
        if workers:
            theirs = len(placements) + 2 if placements else 0  # with a blank line and the heading
            most = max(left // 2, left - theirs)
            lines += fit.table(_columns(named, WORKERS), workers, most)
        if placements:
            left = height - len(lines)
            lines += fit.table(_columns(named, PLACEMENTS), placements, left, more="")
        for each in lines[:height]:
            yield from each
            yield Segment.line()

    def _head(self) -> list[Text]:
        now = time.strftime("%H:%M:%S")
        head = Text.assemble(("eldr top", "bold"), f"  {self.server}  {now}  Ctrl-C ends it")
        return [cut(head), *([line(f"out of date: {self.lost}", "red")] if self.lost else [])]

    def _remarks(self) -> Iterator[Text]:
        if not self.found:
            yield line("no model is known yet")
        if not self.told:
            yield Text(
                "no placements: unknown where eldr-server serves HTTP; give --http HOST:PORT"
            )
        for at, told in self.told.items():
            if told.silence:
                yield Text(escaped(f"no placements from {at}: {told.silence}"), "yellow")
        for each in self.found:
            for trouble in each.troubles():
                yield line(f"{each.model}: {trouble}", "yellow")
        for each in self.found:
            of = f"{each.model}: " if len(self.found) > 1 else ""
            for at, told in self.told.items():
                where = f"{at}: " if len(self.told) > 1 else ""
                if gain := told.gains.get(each.model):
                    yield line(f"{of}{where}against load alone: {gain}")
            if each.partition and each.refit:
                yield line(f"{of}{_partition(each.refit)}")

    def _workers(self) -> list[fleet_pb2.Worker]:
        decode = chain.from_iterable(each.decode for each in self.found)
        return sorted(decode, key=lambda worker: -worker.load)

    def _placements(self) -> list[Placement]:
        every = chain.from_iterable(told.placements for told in self.told.values())
        shown = [each for each in every if self.model in (None, each.model)]
        return sorted(shown, key=lambda placement: -placement.at)


def _columns(named: bool, columns: Sequence[str]) -> list[str]:
    return [*(["MODEL"] if named else []), *columns]


def _partition(refit: partition_pb2.RefitStatus) -> str:
    mode = partition_pb2.RefitMode.Name(refit.mode).removeprefix("REFIT_MODE_").lower()
    last = "one is running" if refit.running else f"the last: {refit.last_outcome or 'none yet'}"
    drift = f"{refit.drift:.2f}" if refit.drift else "not known yet"
    return f"partition's drift {drift}; refits {mode}, {last}"


def _worker(worker: fleet_pb2.Worker, named: bool) -> Row:
    return [
        *([worker.model] if named else []),
        worker.worker_id,
        state(worker),
        _bar(worker.load),
        f"{worker.booked_sequences}/{worker.capacity.sequences}",
        str(worker.slot) if worker.HasField("slot") else "-",
        f"{worker.active_experts:.1f}" if worker.active_experts else "-",
        f"{worker.step_time.ToNanoseconds() / 1e6:.1f} ms" if worker.batch_size else "-",
        capture.cell(worker.capture),
        report_age(worker),
    ]


def _bar(load: float) -> Text:
    filled = min(BAR, round(BAR * load))
    style = "red" if load >= 1 else "yellow" if load > 0.8 else "green"
    return Text.assemble(f"{load:.2f} ", ("█" * filled, style), ("·" * (BAR - filled), "dim"))


def _placement(of: Placement, named: bool) -> Row:
    similarity = "-" if of.similarity is None else f"{of.similarity:.3f}"
    cells = [of.clock, of.request, of.worker, of.why, of.policy, similarity]
    return [escaped(cell) for cell in ([of.model] if named else []) + cells]
