"""The workers of one model: known, READY, healthy, and reachable from here."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence

from eldr.v1 import fleet_pb2 as pb

from eldr_service.cli.doctor.evidence import Evidence
from eldr_service.cli.doctor.finding import NO_METRICS, Result, fault, few, ok, unknown, warning
from eldr_service.cli.doctor.look import has_http, health_url
from eldr_service.cli.pages import Page
from eldr_service.cli.standing import Standing
from eldr_service.cli.tables import span
from eldr_service.core.words import counted


def accepting(seen: Evidence, of: Standing) -> Result:
    """At least one decode worker takes requests."""
    if not of.decode:
        return fault(
            "no decode worker is known: requests get UNAVAILABLE",
            f"start an engine with ELDR's connector, or eldr workers add ID {of.option} --url URL",
        )
    states = Counter(pb.WorkerState.Name(w.state).removeprefix(STATE) for w in of.decode)
    told = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    if not of.ready:
        fix = (
            f"restart the engines, or eldr workers add ID {of.option} --url URL --again"
            if states["DRAINING"]
            else "an engine reports READY once its /health answers and its probe is over: look at"
            " the engines' logs"
        )
        return fault(f"no decode worker takes requests: {told}; they get UNAVAILABLE", fix)
    if len(of.ready) < len(of.decode):
        return warning(
            f"of {len(of.decode)} decode workers {told}", f"eldr workers list {of.option}"
        )
    return ok(f"{counted(len(of.ready), 'decode worker')} READY")


STATE = "WORKER_STATE_"


def expired(seen: Evidence, of: Standing) -> Result:
    """No worker was forgotten for being silent."""
    if seen.metrics is None:
        return NO_METRICS
    silent = {
        series["worker"]: max(at for s, at in seen.metrics.of(EXPIRED, **series))
        for daemon in seen.daemons
        if daemon.samples
        for series, _ in daemon.samples.of(EXPIRED, model=of.model)
    }
    if not silent:
        return ok("none was forgotten for being silent")
    latest = span(max(0.0, time.time() - max(silent.values())))
    return warning(
        f"{few(silent)} fell silent and {_was(silent)} forgotten, the last {latest} ago",
        "look at the engine and its host: it registers again by itself once it is back",
    )


EXPIRED = "eldr_worker_expired_timestamp_seconds"


def reports(seen: Evidence, of: Standing) -> Result:
    """Workers report what they run, and in time."""
    late = [w.worker_id for w in of.decode if w.stale]
    never = [w.worker_id for w in of.ready if not w.HasField("report_age")]
    if late:
        return warning(
            f"reports of {few(late)} are late: only bookings count as load there",
            "is the engine stuck, or cut off from the daemon? Look at its log",
        )
    if never and len(never) < len(of.ready):
        return warning(
            f"{few(never)} never reported, while others do",
            "its connector may be configured differently: compare its kv-transfer-config",
        )
    if never:
        return ok("no worker reports, so only bookings count as load")
    return ok("all report in time")


def standing(seen: Evidence, of: Standing) -> Result:
    """No worker flaps, lags or is silent."""
    held = [w.worker_id for w in of.workers if w.avoidance == pb.WORKER_AVOIDANCE_HELD_DOWN]
    suspect = [w for w in of.workers if w.avoidance == pb.WORKER_AVOIDANCE_SUSPECT]
    failing = [w.worker_id for w in suspect if w.HasField("report_age") and not w.stale]
    silent = [w.worker_id for w in suspect if w.worker_id not in failing]
    slow = [w.worker_id for w in of.workers if w.avoidance == pb.WORKER_AVOIDANCE_SLOW]
    slow += [w.worker_id for w in of.workers if w.relief > 1 and w.worker_id not in slow]
    said, fixes = [], []
    if held:
        said.append(f"{few(held)} left and came back repeatedly, and {_is(held)} held down")
        fixes.append("look at the engine's log; eldr workers remove ID ends the hold-down")
    if silent:
        said.append(f"{few(silent)} {_is(silent)} silent: {LAST_CHOICE}")
        fixes.append("look at the host and the network to it")
    if failing:
        own = "its" if len(failing) == 1 else "their"
        said.append(f"{few(failing)} failed {own} last requests: {LAST_CHOICE}")
        fixes.append(f"look at {own} log: callers released requests as failed there")
    if slow:
        said.append(f"{few(slow)} {_is(slow)} slower than the others")
        fixes.append(
            "a throttled GPU, a busy neighbour? Fix it, or eldr workers drain ID;"
            " if its hardware differs from the others', label it hardware=NAME"
        )
    return (
        warning("; ".join(said), "; ".join(fixes)) if said else ok("none flaps, lags or is silent")
    )


LAST_CHOICE = "requests go there only if no other worker can take them"


def room(seen: Evidence, of: Standing) -> Result:
    """The workers have room."""
    full = [w.worker_id for w in of.ready if w.load >= 1]
    if not of.ready or len(full) < len(of.ready):
        more = f"{few(full)} {_is(full)} full, others are not" if full else f"load {of.load:.2f}"
        return ok(more)
    return fault(
        "all are full: requests wait or get RESOURCE_EXHAUSTED",
        "add engines; does --capacity match their --max-num-seqs? Are requests released?",
    )


def urls(seen: Evidence, of: Standing) -> Result:
    """The engines that requests are sent to answer, at least from here."""
    there = [w for w in of.workers if w.state != pb.WORKER_STATE_JOINING]  # gets none yet
    asked = {w.worker_id: seen.workers[health_url(w.url)] for w in there if has_http(w.url)}
    if not asked:
        return unknown("no worker has an http URL")
    ill = {w: page for w, page in asked.items() if page.status >= 500}
    closed = {w: page for w, page in asked.items() if page.refused}
    away = {w: page for w, page in asked.items() if not page.status and not page.refused}
    if ill or closed:
        dead = ill | closed
        remove = f"eldr workers remove {shlex.quote(next(iter(dead)))} {of.option}"
        return fault(
            f"requests placed on {_told(dead)} fail",
            f"restart the engine, or {remove}",
        )
    if len(away) == len(asked):
        return unknown(
            f"no worker answers from here: {_told(away)}",
            "run eldr doctor where the proxies run: workers must answer there",
        )
    if away:
        return fault(
            f"{_told(away)}; others answer",
            "is the engine running, and can others reach its url? eldr workers list shows it",
        )
    return ok(f"{counted(len(asked), 'worker')} of {len(of.workers)} answer at /health")


def _told(pages: dict[str, Page]) -> str:
    return few([f"{w} ({p.url}: {p.error or p.status})" for w, p in pages.items()])


def _is(several: Sequence[str]) -> str:
    return "is" if len(several) == 1 else "are"


def _was(several: dict[str, float]) -> str:
    return "was" if len(several) == 1 else "were"
