"""The output of `eldr replay`: a document for programs, tables for people."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from eldr_service.cli.tables import facts, table
from eldr_service.decision_log.reader import LogReader
from eldr_service.lab.replay.figures import Figures, Mean, Side, Way
from eldr_service.lab.replay.instead import Instead

MOST_COLUMNS = 10  # of the matrix of moves
NO_ROOM = "no room"


class Summary:
    """The output.

    Parameters
    ----------
    log : Path
    reader : LogReader
        The log's reader, at the end.
    instead : Instead
    figures : dict of model to Figures
    """

    def __init__(
        self, log: Path, reader: LogReader, instead: Instead, figures: dict[str, Figures]
    ) -> None:
        self._log, self._reader, self._instead = log, reader, instead
        self._figures = dict(sorted(figures.items()))

    def document(self) -> dict[str, Any]:
        """For programs."""
        partition = self._instead.partition
        return {
            "log": str(self._log),
            "files": len(self._reader.files),
            "notes": self._reader.notes,
            "policy": self._instead.policy,
            "parameters": dict(self._instead.parameters),
            "partition": partition.model if partition else None,
            "models": {model: _document(each) for model, each in self._figures.items()},
        }

    def tables(self) -> Iterator[RenderableType]:
        """For people."""
        files = len(self._reader.files)
        yield facts(
            (
                ("log", f"{self._log}, {files} {'file' if files == 1 else 'files'}"),
                ("decides", self._decides()),
            )
        )
        if not self._figures:
            yield "\nthe log has no decision yet"
        for model, each in self._figures.items():
            yield ""
            yield from _tables(model, each)

    def _decides(self) -> str:
        instead = self._instead
        written = ",".join(f"{key}={value}" for key, value in sorted(instead.parameters.items()))
        if instead.policy:
            name = f"{instead.policy}:{written}" if written else instead.policy
        else:
            name = f"the logged policies with {written}" if written else "the logged policies"
        return f"{name}, with another partition" if instead.partition else name


def _tables(model: str, figures: Figures) -> Iterator[RenderableType]:
    logged, followed = figures.logged, figures.followed
    own, through = figures.as_logged, figures.followed_through
    policies = ", ".join(f"{name} ({n:,})" for name, n in figures.policies.most_common())
    yield facts((("model", Text(model, "cyan")), ("logged", policies)))
    yield ""
    yield table(
        ("", ">LOGGED", ">AS LOGGED", ">FOLLOWED THROUGH"),
        (
            ("decisions", f"{own.decisions:,}", f"{own.decisions:,}", f"{through.decisions:,}"),
            ("to the same worker", "", *(f"{way.same:,}" for way in (own, through))),
            ("changed", "", *map(_changed, (own, through))),
            *([(NO_ROOM, "", "", f"{through.refused:,}")] if through.refused else ()),
            (
                "active experts predicted",
                _number(logged.active_experts),
                "",
                _against(followed.active_experts, logged.active_experts),
            ),
            (
                "load spread",
                _number(logged.load_spread),
                "",
                _against(followed.load_spread, logged.load_spread),
            ),
        ),
    )
    yield ""
    workers = _workers(figures)
    yield table(
        ("REQUESTS OF", ">LOGGED", ">AS LOGGED", ">LEFT", ">FOLLOWED THROUGH", ">LEFT"),
        (_requests(worker, figures) for worker in workers),
    )
    yield ""
    yield table(
        ("MEANS OF", ">EXPERTS", ">FOLLOWED THROUGH", ">LOAD", ">FOLLOWED THROUGH"),
        (_means(worker, figures) for worker in workers),
    )
    if through.changed:
        yield from _matrix(through, workers)


def _requests(worker: str, figures: Figures) -> tuple[str, ...]:
    own, through = figures.as_logged, figures.followed_through
    numbers = [own.logged(worker)]
    for way in (own, through):
        numbers += way.now(worker), way.left(worker)
    return worker, *(f"{n:,}" for n in numbers)


def _means(worker: str, figures: Figures) -> tuple[str, ...]:
    sides = figures.logged.by_worker[worker], figures.followed.by_worker[worker]
    return worker, *(_number(mean) for means in zip(*sides, strict=True) for mean in means)


def _matrix(way: Way, workers: list[str]) -> Iterator[RenderableType]:
    """Where each worker's logged requests went, unless there are too many workers for a page."""
    if len(workers) > MOST_COLUMNS:
        return
    columns: list[str | None] = [*workers, *([None] if way.refused else ())]
    yield ""
    headings = (f">{new or NO_ROOM.upper()}" for new in columns)
    yield table(
        ("FOLLOWED THROUGH, FROM", *headings),
        ([Text(old), *(_moved(way, old, new) for new in columns)] for old in workers),
    )


def _moved(way: Way, old: str, new: str | None) -> Text:
    return Text(f"{way.moves[old, new] or '·'}", "green" if new == old else "")


def _workers(figures: Figures) -> list[str]:
    """Workers that had or got a request, in the order of their first one."""
    moved = {w for old_new in figures.followed_through.moves for w in old_new}
    moved |= {w for old_new in figures.as_logged.moves for w in old_new}
    return [worker for worker in figures.logged.by_worker if worker in moved]


def _changed(way: Way) -> str:
    return f"{way.changed:,} ({way.changed / way.decisions:.1%})"


def _number(mean: Mean) -> str:
    return "" if math.isnan(mean.value) else f"{mean.value:.2f}"


def _against(mean: Mean, before: Mean) -> str:
    if not before.value > 0 or math.isnan(mean.value):
        return _number(mean)
    return f"{mean.value:.2f} ({mean.value / before.value - 1:+.1%})"


def _document(figures: Figures) -> dict[str, Any]:
    own, through = figures.as_logged, figures.followed_through
    return {
        "decisions": own.decisions,
        "logged_policies": dict(figures.policies),
        "as_logged": _way(own),
        "followed_through": {**_way(through), "no_room": through.refused},
        "workers": {
            worker: {
                "logged": own.logged(worker),
                "as_logged": own.now(worker),
                "as_logged_changed": own.left(worker),
                "followed_through": through.now(worker),
                "followed_through_changed": through.left(worker),
            }
            for worker in _workers(figures)
        },
        "before": _side(figures.logged),
        "after": _side(figures.followed),
    }


def _way(way: Way) -> dict[str, Any]:
    moves: dict[str, dict[str, int]] = {}
    for (old, new), n in sorted(way.moves.items(), key=str):
        moves.setdefault(old, {})[new or ""] = n
    return {"same": way.same, "changed": way.changed, "moves": moves}


def _side(side: Side) -> dict[str, Any]:
    return {
        "active_experts": _known(side.active_experts),
        "load_spread": _known(side.load_spread),
        "reasons": dict(side.reasons),
        "workers": {
            worker: {"active_experts": _known(active), "load": _known(load)}
            for worker, (active, load) in side.by_worker.items()
        },
    }


def _known(mean: Mean) -> float | None:
    """The value, or null for NaN, which JSON lacks."""
    return None if math.isnan(mean.value) else mean.value
