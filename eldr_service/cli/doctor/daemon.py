"""The daemon itself: reached, trusted, let in; and what it says of itself over HTTP."""

from http import HTTPStatus

from eldr_service.cli.doctor.evidence import Evidence, Served
from eldr_service.cli.doctor.finding import NO_METRICS, Result, fault, ok, unknown, warning
from eldr_service.cli.failure import CommandError
from eldr_service.cli.tables import span
from eldr_service.core.words import counted

SOON_SECONDS = 14 * 86_400.0
CLOCK_SECONDS = 5.0, 60.0
"""Clocks that differ by the first are worth a look; by the second, tokens and certificates fail."""
MISSING = "UNIMPLEMENTED"
"""The code of a call to a method that is not served."""


def reached(seen: Evidence) -> Result:
    """The daemon answers, and takes requests."""
    closed = {at: listener.error for at, listener in seen.listeners.items() if listener.error}
    if isinstance(seen.ready, CommandError):
        return _not_reached(seen, seen.ready, closed)
    if _is_stranger(seen):
        return STRANGER
    if not seen.ready:
        return fault(
            "it answers, and says NOT_SERVING: it is shutting down",
            "wait for its restart, or start eldr-server again",
        )
    if closed:
        return warning(
            f"some replicas cannot be reached: {_each(closed)}",
            "start eldr-server there, or take the address out of --server",
        )
    return ok("serves gRPC, and takes requests")


def _not_reached(seen: Evidence, error: CommandError, closed: dict[str, str]) -> Result:
    if closed and len(closed) == len(seen.listeners):
        return fault(_each(closed), "start eldr-server, or name its address with --server")
    for at, listener in seen.listeners.items():
        if listener.distrust:
            return fault(
                f"the certificate of {at} is not trusted: {listener.distrust}",
                "--tls-ca with the authority that signed it, and --server with a name listed in it",
            )
        if listener.speaks_tls and not seen.uses_tls:
            return fault(
                f"{at} speaks TLS, and this call did not",
                "--tls-ca FILE (ELDR_TLS_CA), the authority of its certificate",
            )
        if listener.wants_certificate:
            return fault(
                f"{at} refuses callers without a certificate it trusts",
                "--tls-cert and --tls-key, signed by the daemon's --tls-client-ca",
            )
        if seen.uses_tls and not (listener.error or listener.speaks_tls):
            return fault(
                f"{at} speaks no TLS, and this call did",
                "leave out --tls-ca, --tls-cert and --tls-key (and their variables)",
            )
    if error.code == MISSING:
        return STRANGER
    if "http1" in error.message:  # as gRPC's core words it
        return fault(
            "an HTTP server answers, not eldr-server's gRPC",
            "--server with the daemon's gRPC port, not its HTTP port",
        )
    return fault(error.message, error.hint)


STRANGER = fault(
    "a gRPC server answers, but it is not eldr-server",
    "--server with the address of eldr-server's --listen; behind an ingress, with a name that it"
    " routes to eldr-server",
)


def _is_stranger(seen: Evidence) -> bool:
    """It answers the health check, but cannot list workers, as every port of eldr-server can."""
    error = seen.standings
    if not isinstance(error, CommandError):
        return False
    return error.code == MISSING and "ListWorkers" in error.message


def certificate(seen: Evidence) -> Result:
    """The daemon's certificate stays valid for a while."""
    if not seen.uses_tls:
        return ok("TLS is not used")
    known = [d.expires_in for d in seen.listeners.values() if d.expires_in is not None]
    if not known:
        return unknown("no certificate was checked here")
    left = min(known)
    if left < SOON_SECONDS:
        return warning(
            f"the daemon's certificate ends in {span(left)}",
            "renew it: eldr-server takes new files within a second, without a restart",
        )
    return ok(f"good for {span(left)}")


def credentials(seen: Evidence) -> Result:
    """This caller may see the fleet."""
    error = seen.standings
    if isinstance(seen.ready, CommandError) or _is_stranger(seen):
        return unknown("the daemon was not reached")
    if not isinstance(error, CommandError) or error.code == "NOT_FOUND":
        return ok("may see the whole fleet (role admin)")
    if error.code == "UNAUTHENTICATED":
        return fault(
            f"the daemon does not know this caller: {error.message}",
            "--token-file FILE (ELDR_TOKEN_FILE) with a token of the daemon's --tokens file",
        )
    if error.code == "PERMISSION_DENIED":
        return fault(error.message, "use a token with the role admin: no other may see the fleet")
    if error.code == MISSING:
        return fault(
            "this port does not serve partitions and policies",
            "--server with the address of eldr-server's --admin-listen",
        )
    return fault(error.message, error.hint)


def models(seen: Evidence) -> Result:
    """The daemon knows some models, and the one of --model."""
    known = seen.standings
    if isinstance(known, CommandError):
        if known.code == "NOT_FOUND":
            return fault(known.message, "eldr status lists the models that are known")
        return unknown("the daemon did not list them")
    if not known:
        words = "none is known: no worker has registered"
        return unknown(words, "start an engine with ELDR's connector, or eldr workers add")
    return ok(", ".join(each.model for each in known))


def http(seen: Evidence) -> Result:
    """Health and metrics are served, and the daemon reports no trouble there."""
    away = {d.url: d.health.error for d in seen.daemons if not d.health.status}
    if not seen.daemons:
        return unknown("the daemon's HTTP address is not known", "--http HOST:PORT")
    if away:
        words, fix = f"no answer: {_each(away)}", "--http HOST:PORT, as given to eldr-server"
        return fault(words, fix) if seen.http_given else unknown(words, fix)
    if not all(daemon.samples for daemon in seen.daemons):
        return unknown("what answers there is not eldr-server", "--http HOST:PORT")
    said = {d.url: trouble for d in seen.daemons if (trouble := _trouble(d))}
    if said:
        return fault(_each(said), "see the daemon's log, and docs/troubleshoot.md")
    return ok("metrics and health are served")


def clock(seen: Evidence) -> Result:
    """Its clock agrees with ours: leases over restarts, JWTs and certificates depend on it."""
    if isinstance(seen.standings, CommandError):
        workers = []
    else:
        workers = [w for each in seen.standings for w in each.workers if w.HasField("report_time")]
    told = [d.health.ahead for d in seen.daemons if d.health.ahead is not None]
    if not told and workers:
        at, age = workers[0].report_time, workers[0].report_age
        told = [at.ToNanoseconds() / 1e9 + age.ToNanoseconds() / 1e9 - seen.listed_at]
    if not told:
        return unknown("the daemon's time is not known: no HTTP, and no worker has reported")
    apart = max(told, key=abs)
    note, much = CLOCK_SECONDS
    if abs(apart) <= note:
        return ok("agrees with this machine's")
    words = f"the daemon's is {span(abs(apart))} {'ahead of' if apart > 0 else 'behind'} this one"
    fix = "timedatectl on both machines shows which one is not synchronized"
    return fault(words, fix) if abs(apart) > much else warning(words, fix)


def state(seen: Evidence) -> Result:
    """Bookings survive a restart of the daemon."""
    if seen.metrics is None:
        return NO_METRICS
    lost = [d for d in seen.daemons if d.samples and not d.samples.total(DURABLE)]
    if not lost:
        return ok("bookings survive a restart")
    ill = {d.url: _trouble(d) for d in lost if _trouble(d) and d.health.status == HTTPStatus.OK}
    if ill:
        return fault(
            _each(ill),
            "df -h and ls -l of --state where the daemon runs, or redis-cli ping of its Redis:"
            " once writing works again, the daemon writes everything; it needs no restart",
        )
    return warning(
        "a restart forgets bookings, workers and partitions: --state is :memory:",
        "eldr-server --state DIR",
    )


DURABLE = "eldr_bookings_durable"


def discovery(seen: Evidence) -> Result:
    """The sources of workers can be read."""
    if seen.metrics is None:
        return NO_METRICS
    each = [d.samples for d in seen.daemons if d.samples]  # a replica may read what others cannot
    told = [(s["source"], up) for d in each for s, up in d.of("eldr_discovery_up")]
    sources = sorted({source for source, _ in told})
    down = sorted({source for source, up in told if not up})
    if down:
        kinds = {source.partition(":")[0] for source in down}
        where = [look for kind, look in LOOK.items() if kind in kinds]
        return fault(
            f"cannot be read: {', '.join(down)}; workers that join or leave there go unnoticed",
            "; ".join((*where, "the daemon's log has the error: source not read")),
        )
    if not sources:
        return ok("not used: workers register by themselves")
    found = int(max(d.total("eldr_discovery_workers") for d in each))
    return ok(f"{', '.join(sources)}: {counted(found, 'worker')}")


LOOK = {
    "fleet-file": "is the --fleet file there, and written as docs/discovery.md says?",
    "kubernetes": "kubectl auth can-i watch endpointslices, as the daemon's service account: can"
    " the daemon reach the API, and may it read there?",
    "dns": "dig that name where the daemon runs, with its --dns-server if it has one",
}
"""What to look at, by kind of source."""


def refusals(seen: Evidence) -> Result:
    """The daemon did not refuse calls for their content or their token."""
    if seen.metrics is None:
        return NO_METRICS
    by_code = seen.metrics.by
    callers = by_code("code", ERRORS, method="any")
    shapes = {m: n for m in SHAPED if (n := seen.metrics.total(ERRORS, method=m, code=WRONG))}
    wrong = by_code("method", ERRORS, code="INVALID_ARGUMENT")
    if joined := shapes.pop(REGISTER, 0):
        return fault(
            f"{counted(int(joined), 'registration')} of workers refused {seen.period}: a shape"
            " (layers x experts, top_k) that is not the model's, a role other than the worker's"
            " life began with, or an id that is taken",
            "the daemon's log says which and why (refused); give another model another name, let"
            " an engine that changes its role restart, or eldr workers remove the wrong worker;"
            " --watch 30 shows whether it goes on",
        )
    if callers:
        codes = ", ".join(f"{int(n):,} {code}" for code, n in sorted(callers.items()))
        return warning(
            f"calls refused for their token {seen.period}: {codes}",
            "the daemon's log says whose and why (refused); engines need a token with the role"
            " worker, callers of Route with route, proxies that learn engines from the daemon"
            " with admin",
        )
    routed = shapes.pop(ROUTE, 0)  # some are repeats that came late
    if routed > MANY_ROUTES * seen.metrics.total("eldr_placements_total"):
        shapes[ROUTE] = routed
    if shapes or wrong:
        calls = {m.rpartition("/")[2]: shapes.get(m, 0) + wrong.get(m, 0) for m in shapes | wrong}
        told = ", ".join(f"{int(n):,} {method}" for method, n in sorted(calls.items()))
        return warning(
            f"calls refused {seen.period} for their content: {told}",
            "the daemon's log says which and why (refused)",
        )
    return ok(f"none that matter {seen.period}")


ERRORS = "eldr_errors_total"
WRONG = "FAILED_PRECONDITION"
REGISTER = "eldr.v1.FleetService/RegisterWorker"
ROUTE = "eldr.v1.RouterService/Route"
MANY_ROUTES = 0.05
SHAPED = (
    *(REGISTER, ROUTE),
    "eldr.v1.RouterService/RegisterSignature",
    "eldr.v1.RouterService/StreamSignatures",
)
"""Methods whose FAILED_PRECONDITION mostly means a geometry that is not the model's."""


def _trouble(daemon: Served) -> str:
    """The trouble that its health page reports; empty where there is none."""
    return daemon.health.text.strip().removeprefix("ok").removeprefix(", but ")


def _each(told: dict[str, str]) -> str:
    return "; ".join(f"{at}: {why}" for at, why in told.items())
