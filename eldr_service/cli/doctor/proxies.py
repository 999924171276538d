"""One proxy: whether it serves, and whether ELDR places its decodes."""

import json
from typing import Any

from eldr_service.cli.doctor.evidence import Evidence, Served
from eldr_service.cli.doctor.finding import Result, fault, ok, unknown, warning
from eldr_service.core.words import counted

NOTED, MUCH = 0.01, 0.5
"""Shares of decodes that the daemon did not place."""
FALLBACK = "CLIENT_FALLBACK"


def serves(seen: Evidence, proxy: Served) -> Result:
    """The proxy answers, and knows engines."""
    page = proxy.health
    if not page.status:
        return fault(page.error, "start eldr-proxy, or --proxy with its URL")
    said = _said(proxy)
    if not said:
        return fault(f"what answers (HTTP {page.status}) is not eldr-proxy", "--proxy with its URL")
    known = ", ".join(f"{number} {role}" for role, number in said["workers"].items())
    if page.status != 200:
        return fault(
            f"it cannot serve: of the engines it needs it knows {known}",
            "does eldr workers list show the engines? Is the proxy's --router this daemon, and has"
            " its token the role admin?",
        )
    return ok(f"serves; engines: {known}")


def asks(seen: Evidence, proxy: Served) -> Result:
    """The proxy reaches the daemon."""
    router = _said(proxy).get("router")
    if router is None:
        return unknown("it was not reached")
    if router == "down":
        return fault(
            "it does not reach the daemon: decodes go round robin, without ELDR",
            "check its --router, token and TLS; eldr-proxy's log says more",
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
        "did the daemon take longer than eldr-proxy's --route-timeout (eldr_rpc_seconds), or was it"
        " away? Else eldr-proxy's log names workers it does not know, and calls the daemon refused;"
        " --watch 30 shows whether it goes on"
    )
    if share >= MUCH:
        return fault(words, fix)
    return warning(words, fix) if share >= NOTED else ok(words)


def _said(proxy: Served) -> dict[str, Any]:
    """What its health page says; empty if that is not an eldr-proxy's."""
    try:
        said = json.loads(proxy.health.text)
        known = {str(role): int(number) for role, number in said["workers"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {"workers": known, "router": said.get("router")}
