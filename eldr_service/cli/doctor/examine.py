"""All checks in order: those that others depend on come first."""

from collections.abc import Callable, Iterator

from eldr_service.cli.doctor import (
    bookings,
    daemon,
    partition,
    proxies,
    signatures,
    versions,
    workers,
)
from eldr_service.cli.doctor.evidence import Evidence
from eldr_service.cli.doctor.finding import Finding, Result, unknown
from eldr_service.cli.failure import CommandError

OF_THE_DAEMON = {
    "reached": daemon.reached,
    "certificate": daemon.certificate,
    "credentials": daemon.credentials,
    "models": daemon.models,
    "http": daemon.http,
    "clock": daemon.clock,
    "versions": versions.of_the_daemon,
    "state": daemon.state,
    "discovery": daemon.discovery,
    "refusals": daemon.refusals,
}
OF_A_MODEL = {
    "accepting": workers.accepting,
    "expired": workers.expired,
    "reports": workers.reports,
    "standing": workers.standing,
    "room": workers.room,
    "urls": workers.urls,
    "capture": signatures.capture,
    "versions": versions.of_engines,
    "coverage": signatures.coverage,
    "signatures": signatures.arriving,
    "partition": partition.fitted,
    "slots": partition.bound,
    "drift": partition.fresh,
    "refits": partition.refits,
    "releases": bookings.releases,
}
OF_A_PROXY = {
    "serves": proxies.serves,
    "router": proxies.asks,
    "fallbacks": proxies.falls_back,
    "versions": versions.of_a_proxy,
}


def examine(seen: Evidence) -> Iterator[Finding]:
    """Run all checks, and yield what they find."""
    for name, check in OF_THE_DAEMON.items():
        yield _found(name, "daemon", "", check, seen)
    known = seen.standings
    if isinstance(known, CommandError):
        known = []
    for of in known:
        for name, look in OF_A_MODEL.items():
            yield _found(name, "model", of.model, look, seen, of)
    for proxy in seen.proxies:
        for name, ask in OF_A_PROXY.items():
            yield _found(name, "proxy", proxy.url, ask, seen, proxy)


def _found(
    name: str, kind: str, subject: str, check: Callable[..., Result], *of: object
) -> Finding:
    try:
        outcome, words, fix = check(*of)
    except Exception as error:  # noqa: BLE001 - it hides no other check
        outcome, words, fix = unknown(f"the check itself failed: {type(error).__name__}: {error}")
    return Finding(check=name, outcome=outcome, words=words, fix=fix, kind=kind, subject=subject)
