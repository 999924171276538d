"""How `eldr workers list` shows workers' capture of routed experts."""

from collections.abc import Iterable, Iterator

from eldr.v1 import fleet_pb2 as pb
from rich.text import Text


def cell(status: pb.CaptureStatus) -> str | Text:
    """The state in one word, and the share of prompt tokens whose experts were known.

    The share is rounded down: 100% means that no token was unknown.
    """
    if status.state == pb.CAPTURE_STATE_PROBING:
        return Text("probing", "cyan")
    if status.state == pb.CAPTURE_STATE_STOPPED:
        return Text("no", "yellow")
    if status.state != pb.CAPTURE_STATE_CAPTURING:
        return "-"
    tokens = status.known_tokens + status.unknown_tokens
    return f"yes {100 * status.known_tokens // tokens}%" if tokens else "yes"


def remarks(workers: Iterable[pb.Worker]) -> Iterator[Text]:
    """Why workers do not capture, or what could not be verified, grouped by cause."""
    causes: dict[tuple[str, bool, str], list[str]] = {}
    for worker in workers:
        stopped = worker.capture.state == pb.CAPTURE_STATE_STOPPED
        reason = " ".join(worker.capture.reason.split())  # one line, even if more were sent
        if stopped or reason:
            causes.setdefault((worker.model, stopped, reason), []).append(worker.worker_id)
    if causes:
        yield Text()
    for (model, stopped, reason), names in causes.items():
        line = Text("no capture" if stopped else "unverified", "yellow")
        yield Text.assemble(
            line, f" on {', '.join(names)} of {model}: {reason or 'no reason was given'}"
        )
