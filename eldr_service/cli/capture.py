"""What `eldr workers list` says of workers' capture of routed experts."""

from collections.abc import Iterable, Iterator

from eldr.v1 import fleet_pb2 as pb
from rich.text import Text


def cell(status: pb.CaptureStatus) -> str | Text:
    """One word, and the share of the prompts' tokens whose experts were known.

    A share is rounded down: 100% says that not one token was unknown.
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
    """Why workers do not capture, or what could not be verified; those with one cause together."""
    causes: dict[tuple[str, bool, str], list[str]] = {}
    for worker in workers:
        stopped = worker.capture.state == pb.CAPTURE_STATE_STOPPED
        reason = " ".join(worker.capture.reason.split())  # one line, whatever was sent
        if stopped or reason:
            causes.setdefault((worker.model, stopped, reason), []).append(worker.worker_id)
    if causes:
        yield Text()
    for (model, stopped, reason), names in causes.items():
        line = Text("no capture" if stopped else "unverified", "yellow")
        yield Text.assemble(
            line, f" on {', '.join(names)} of {model}: {reason or 'no reason was given'}"
        )
