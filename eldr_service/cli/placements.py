"""The newest placements and the gain against load alone, from the daemon's page."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from eldr_service.cli.pages import Page, fetch
from eldr_service.cli.session import Session
from eldr_service.server.address import Address

SECONDS = 2.0
"""Timeout for the page, unless --timeout is given: the rest of the screen waits for it."""
MOST_SAID = 300
"""Characters of a refusal."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One placement; `at` in Unix seconds, the rest as the page words it."""

    at: float
    clock: str
    model: str
    request: str
    worker: str
    why: str
    policy: str
    similarity: float | None


@dataclass(frozen=True)
class Told:
    """What one replica's page says, or why it says nothing.

    Attributes
    ----------
    placements : sequence of Placement
        Newest first.
    gains : mapping of model to str
        The difference to what the same requests would have used if placed by load alone.
    silence : str
        Why the page says nothing; empty if it does.
    """

    placements: Sequence[Placement] = ()
    gains: Mapping[str, str] = field(default_factory=dict)
    silence: str = ""


def told(session: Session, listeners: Sequence[Address], model: str | None) -> dict[str, Told]:
    """Ask each replica's page once for the newest placements of this model, or of all.

    Each page has the placements that its own daemon made. A token goes out in the clear only to
    this machine, or if gRPC sends it in the clear too.
    """
    token = dict(session.credentials())
    shut = [at for at in listeners if token and session.uses_tls and not at.loopback]
    of = f"?model={quote(model, safe='')}" if model else ""
    urls = {at: f"http://{at}/page/state{of}" for at in listeners if at not in shut}
    pages = fetch(urls.values(), session.timeout or SECONDS, token)
    return {str(at): _read(pages[urls[at]]) if at in urls else _withheld(at) for at in listeners}


def _read(page: Page) -> Told:
    if page.status != 200:
        return Told(silence=_refusal(page))
    try:
        document = json.loads(page.text)
        return Told(
            [_placement(each) for each in document["placements"]],
            {model["name"]: _gain(model) for model in document["models"]},
        )
    except (ValueError, KeyError, TypeError, ArithmeticError, OSError, RecursionError):
        return Told(silence="what answers there is not eldr-server of this version")


def _refusal(page: Page) -> str:
    if not page.status:
        return f"{page.error}; --http HOST:PORT"
    if page.status in (401, 403, 503) and (said := page.text[:MOST_SAID].split()):
        return " ".join(said)
    return "what answers there is not eldr-server; --http HOST:PORT"


def _withheld(at: Address) -> Told:
    local = f"127.0.0.1:{at.port}"
    way = f"ssh -L {at.port}:{local} {at.host}, and --http {local}"
    return Told(silence=f"the token is not sent there in the clear; {way}")


def _placement(told: Any) -> Placement:
    attempt = told["attempt"]
    return Placement(
        at=float(told["at"]),
        clock=time.strftime("%H:%M:%S", time.localtime(told["at"])),
        model=str(told["model"]),
        request=f"{told['request']} (attempt {attempt})" if attempt else str(told["request"]),
        worker=str(told["worker"]),
        why=str(told["why"]),
        policy=str(told["policy"]),
        similarity=None if told["similarity"] is None else float(told["similarity"]),
    )


def _gain(model: Any) -> str:
    by = model["by_load"]
    if not by:
        return "measuring" if model["compares"] else "off (--load-comparison)"
    ours, theirs, step = by["active_experts"], by["active_experts_by_load"], by["step_change"]
    words = f"predicted experts {_signed(ours / theirs - 1)} ({ours:.1f} for {theirs:.1f})"
    return words if step is None else f"{words}, step time {_signed(step)}"


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")
