"""Versions of the parts; parts of one major version understand each other."""

from collections.abc import Mapping
from importlib.metadata import version

from eldr_service.cli.doctor.evidence import Evidence, Served
from eldr_service.cli.doctor.finding import Result, fault, few, ok, unknown, warning
from eldr_service.cli.standing import Standing


def of_the_daemon(seen: Evidence) -> Result:
    """The daemon has our version."""
    shown = {d.url: d.samples.version("eldr_build_info") for d in seen.daemons if d.samples}
    return _compared(shown, "eldr-server")


def of_engines(seen: Evidence, of: Standing) -> Result:
    """The connectors in engines have our version."""
    said = {w.worker_id: w.capture.software.rpartition(" ")[2] for w in of.workers}
    return _compared(said, "the connector")


def of_a_proxy(seen: Evidence, proxy: Served) -> Result:
    """The proxy has our version."""
    samples = proxy.samples
    shown = samples.version("eldr_proxy_build_info") if samples else ""
    return _compared({proxy.url: shown}, "eldr-proxy")


def _compared(told: Mapping[str, str], program: str) -> Result:
    """Versions by where they were seen; an empty one was not reported."""
    ours = version("eldr-service")
    where: dict[str, list[str]] = {}
    for at, theirs in told.items():
        if theirs:
            where.setdefault(theirs, []).append(at)
    if not where:
        return unknown("no version was reported")
    others = where.keys() - {ours}
    if not others:
        return ok(f"{ours} here and there")
    apart = "; ".join(f"{program} is {other} at {few(where[other])}" for other in sorted(others))
    words = f"{apart}; this eldr is {ours}"
    if any(other.partition(".")[0] != ours.partition(".")[0] for other in others):
        return fault(words, "install one major version everywhere: docs/upgrade.md")
    return warning(words, "finish the upgrade: docs/upgrade.md has the order")
