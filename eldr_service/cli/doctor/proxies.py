"""One proxy: whether it serves, and whether it is ELDR that places its decodes."""

import json
from typing import Any

from eldr_service.cli.doctor.evidence import Evidence, Served
from eldr_service.cli.doctor.finding import Result, fault, ok, unknown, warning
from eldr_service.core.words import counted

NOTED, MUCH = 0.01, 0.5
"""Shares of placements that the daemon did not make."""
FALLBACK = "CLIENT_FALLBACK"


def serves(seen: Evidence, proxy: Served) -> Result:
    """It answers, and knows engines."""
    page = proxy.health
    if not page.status:
        return fault(page.error, "start eldr-proxy, or --proxy with its URL")
    said = _said(proxy)
    if not said:
        return fault(f"what answers (HTTP {page.status}) is no eldr-proxy", "--proxy with its URL")
    known = ", ".join(f"{number} {role}" for role, number in said["workers"].items())
    if page.status != 200:
        return fault(
            f"it serves nothing: of the engines it needs it knows {known}",
            "eldr workers list: are they registered, and is the proxy's --router this daemon,"
            " its token of the role admin?",
        )
    return ok(f"serves; engines: {known}")


def asks(seen: Evidence, proxy: Served) -> Result:
    """It reaches the daemon."""
    router = _said(proxy).get("router")
    if router is None:
        return unknown("it was not reached")
    if router == "down":
        return fault(
            "it does not reach the daemon: decodes go in turn, without ELDR",
            "its --router, token and TLS; eldr-proxy's log",
        )
    if router == "none":
        return warning("it asks no daemon (--router none)", f"eldr-proxy --router {seen.server}")
    return ok("it reaches the daemon")


def falls_back(seen: Evidence, proxy: Served) -> Result:
    """The daemon places its decodes."""
    if proxy.samples is None:
        return unknown("it shows no metrics")
    if _said(proxy).get("router") == "none":
        return unknown("it asks no daemon")
    reasons = proxy.samples.by("reason", "eldr_proxy_placements_total")
    placed = sum(reasons.values())
    period = f"in the {seen.watched:g} s watched" if seen.watched else "since its start"
    if not placed:
        return unknown(f"it placed nothing {period}")
    share = reasons.get(FALLBACK, 0) / placed
    words = f"{share:.0%} of {counted(int(placed), 'decode')} {period} went without ELDR"
    fix = (
        "is the daemon slow (eldr_rpc_seconds), or was it away? eldr-proxy --route-timeout is how"
        " long it waits; --watch 30 tells whether it goes on"
    )
    if share >= MUCH:
        return fault(words, fix)
    return warning(words, fix) if share >= NOTED else ok(words)


def _said(proxy: Served) -> dict[str, Any]:
    """Its page of health; empty where that is none."""
    try:
        said = json.loads(proxy.health.text)
        known = {str(role): int(number) for role, number in said["workers"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {"workers": known, "router": said.get("router")}
