"""Looks at a deployment once: calls, pages and listeners, each with a time limit."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from eldr.v1 import policy_pb2

from eldr_service.cli.doctor.evidence import Evidence, Served
from eldr_service.cli.doctor.listener import Listener, connect
from eldr_service.cli.doctor.samples import Samples
from eldr_service.cli.failure import CommandError
from eldr_service.cli.http import listeners, replicas
from eldr_service.cli.pages import Page, fetch
from eldr_service.cli.session import Session
from eldr_service.cli.standing import Standing, standings
from eldr_service.server.address import Address

SECONDS = 5.0
"""For each call and page, unless --timeout says so."""


def look(
    session: Session, model: str | None, http: str | None, proxies: Sequence[str], watch: float
) -> Evidence:
    """Look at the daemon, its workers, and the proxies at these URLs.

    Parameters
    ----------
    http : str or None
        HOST:PORT of the daemon's HTTP, several with commas; None for the server's hosts.
    watch : float
        Seconds to count for; 0 takes what has been counted so far.
    """
    seconds = session.timeout or SECONDS
    named = replicas(session.server)
    ready = _ready(session, seconds)
    found: list[Standing] | CommandError
    policies: dict[str, policy_pb2.ActivePolicy] = {}
    listed_at = 0.0
    try:
        if isinstance(ready, CommandError):
            raise ready
        found = standings(session, model, seconds)
        listed_at = time.time()
        listed = session.call(policy_pb2.ListPoliciesRequest(), seconds)
        policies = {one.model: one for one in listed.active}
    except CommandError as error:
        found = error
    daemons = [f"http://{each}" for each in listeners(session.server, http)]
    fronts = [url.rstrip("/") for url in proxies]
    urls = [health_url(w.url) for each in _known(found) for w in each.workers if has_http(w.url)]
    served = [f"{url}{path}" for url in daemons for path in ("/healthz", "/metrics")]
    served += [f"{url}{path}" for url in fronts for path in ("/health", "/metrics")]
    pages = fetch((*served, *urls), seconds)
    of_daemons, of_proxies = _served(daemons, "/healthz", pages), _served(fronts, "/health", pages)
    if watch:
        time.sleep(watch)
        again = fetch(served, seconds)
        of_daemons = _since(of_daemons, _served(daemons, "/healthz", again))
        of_proxies = _since(of_proxies, _served(fronts, "/health", again))
    shown = [each.samples for each in of_daemons if each.samples]
    return Evidence(
        server=session.server,
        uses_tls=session.uses_tls,
        listeners=_listeners(session, named, ready, seconds),
        ready=ready,
        standings=found,
        listed_at=listed_at,
        policies=policies,
        daemons=of_daemons,
        http_given=bool(http),
        metrics=Samples.sum(shown) if shown else None,
        workers={url: pages[url] for url in urls},
        proxies=of_proxies,
        watched=watch,
    )


def has_http(url: str) -> bool:
    """A worker's address can be asked over HTTP."""
    return url.startswith(("http://", "https://"))


def health_url(url: str) -> str:
    """The address of a worker's health page."""
    return f"{url.rstrip('/')}/health"


def _known(found: list[Standing] | CommandError) -> list[Standing]:
    return [] if isinstance(found, CommandError) else found


def _ready(session: Session, seconds: float) -> bool | CommandError:
    from grpc_health.v1 import health_pb2

    try:
        answer = session.call(health_pb2.HealthCheckRequest(), seconds)
    except CommandError as error:
        return error
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _listeners(
    session: Session, named: Sequence[Address], ready: bool | CommandError, seconds: float
) -> dict[str, Listener]:
    """Connect to each address; shake hands if we speak TLS, or may have to."""
    ca, key, certificate = session.tls

    def listener(at: Address) -> Listener:
        return connect(
            at.host,
            at.port,
            seconds,
            tls=session.uses_tls or isinstance(ready, CommandError),
            ca=ca,
            certificate=(certificate, key) if certificate and key else None,
        )

    with ThreadPoolExecutor(max(1, len(named))) as threads:
        return dict(zip(map(str, named), threads.map(listener, named), strict=True))


def _served(urls: Sequence[str], health: str, pages: Mapping[str, Page]) -> list[Served]:
    found = []
    for url in urls:
        metrics = pages[f"{url}/metrics"]
        try:
            samples = Samples.read(metrics.text) if metrics.status == 200 else None
        except ValueError:
            samples = None
        found.append(
            Served(url=url, health=pages[f"{url}{health}"], metrics=metrics, samples=samples)
        )
    return found


def _since(before: Sequence[Served], now: Sequence[Served]) -> list[Served]:
    return [
        replace(later, samples=later.samples.since(earlier.samples))
        if later.samples and earlier.samples
        else later
        for earlier, later in zip(before, now, strict=True)
    ]
