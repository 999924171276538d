"""The daemon: assembles its parts, serves, and shuts down in order."""

import asyncio
import contextlib
import gc
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import structlog
from eldr.v1 import (
    fleet_pb2_grpc,
    partition_pb2_grpc,
    policy_pb2_grpc,
    router_pb2_grpc,
)
from eldr_client import traces

from eldr_service.decision_log.recorder import Recorder
from eldr_service.decision_log.writer import Writer
from eldr_service.fitting.process import FittingProcess
from eldr_service.kernels import FOR_EVERY_POLICY, FOR_EXPLAIN, cache_troubles, compile_ahead
from eldr_service.policies.registry import create, create_prepared, parse
from eldr_service.refits import RefitMode, Refits, RefitSettings
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.journal import Journals
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.standing import StandingLimits
from eldr_service.routing.workers import Workers
from eldr_service.server.comparison.comparisons import Comparisons
from eldr_service.server.config import Settings
from eldr_service.server.credentials import Credentials
from eldr_service.server.descriptors import spare_descriptors
from eldr_service.server.discovery import Discovery, SourceError
from eldr_service.server.discovery.remembered import Remembered
from eldr_service.server.discovery.sources import Sources
from eldr_service.server.durability import Durability
from eldr_service.server.learning import Learning
from eldr_service.server.observability.heartbeat import beat
from eldr_service.server.observability.http import HttpServer
from eldr_service.server.page.access import Access
from eldr_service.server.page.actions import Actions
from eldr_service.server.page.routes import Page
from eldr_service.server.page.watch import Watch
from eldr_service.server.replicas.follower import Follower
from eldr_service.server.replicas.learned import SharedLearned
from eldr_service.server.replicas.mirror import MirroredStore
from eldr_service.server.replicas.replica import Replica
from eldr_service.server.rpc.admission import Admission
from eldr_service.server.rpc.agreement import at_once
from eldr_service.server.rpc.auth import TokensFileError
from eldr_service.server.rpc.certificates import CertificateError
from eldr_service.server.rpc.fleet_service import FleetService
from eldr_service.server.rpc.listeners import CallLimits, Listeners
from eldr_service.server.rpc.partition_service import PartitionService
from eldr_service.server.rpc.policy_service import PolicyService
from eldr_service.server.rpc.router_service import RouterService, nothing_to_wait_for
from eldr_service.server.rpc.spans import CallSpans
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.stores.bookings import BookingStore
from eldr_service.stores.learned import LearnedStore
from eldr_service.stores.shared.address import StateAddress
from eldr_service.stores.shared.state import SharedState
from eldr_service.stores.sqlite import SqliteStore

TICK_SECONDS = 0.25
DEAF_SECONDS = 1.0

log = structlog.get_logger("eldr")


class StartError(Exception):
    """The daemon cannot start; the message says why."""


class Daemon:
    """One daemon, from its settings to its shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._comparisons = Comparisons(settings.load_comparison == "on")
        self._telemetry = Telemetry(self._comparisons, settings.metrics_workers)
        self._traces = traces.begin("eldr-server", lambda why: log.warning("no traces", error=why))
        name = secrets.token_hex(4)
        self._replica: Replica | None = None
        self._store: SqliteStore
        if isinstance(settings.state, StateAddress):
            self._store = MirroredStore()
            metrics = self._telemetry.metrics
            self._shared = SharedState(
                settings.state, settings.state_password, name, settings.state_timeout
            )
            self._replica = Replica(
                self._shared, self._store, metrics.durable, metrics.decided_again
            )
        else:
            self._store = SqliteStore(settings.state, sync=settings.durability == "power")
        self._durability = (
            Durability(BookingStore(self._store), self._telemetry.metrics.durable)
            if isinstance(settings.state, Path)
            else None
        )
        policy, parameters = parse(settings.policy)
        create_prepared(policy, parameters)  # wrong parameters fail now, not at the first model
        limits = Limits(
            lease_seconds=settings.lease_ttl,
            report_limit=settings.report_limit,
            signature_ttl=settings.signature_ttl,
            signature_bytes=settings.signature_memory_bytes,
            alternates=settings.alternates,
            explanations=settings.explanations,
            max_models=settings.max_models,
            max_workers=settings.max_workers,
            window_seconds=settings.refit_window,
            window_bytes=settings.refit_memory_bytes,
            prediction_bytes=settings.prediction_memory_bytes,
            standing=StandingLimits(
                suspect_after=settings.suspect_after,
                hold_down=settings.hold_down,
                relief=settings.relief,
            ),
            other_groups=settings.groups == "prefer",
        )
        self._recorder = self._record(settings)
        told = self._replica.journal if self._replica else self._durability
        self._watch = Watch(
            lambda model: self._telemetry.waiting(model),
            self._troubles,
            lambda: self._serving,
            self._comparisons,
        )
        journals = told, self._recorder, self._comparisons, self._watch, self._telemetry.journal
        self._router = Router(
            lambda: create(policy, parameters),
            self._telemetry,
            limits,
            name,
            Journals(*(j for j in journals if j)),
        )
        if self._replica:
            self._router.notes_renewals = True
            self._router.first_number = secrets.randbits(62)
        self._telemetry.watch(self._router)
        if self._recorder:
            self._recorder.watch(self._router)
        self._workers = Workers(self._router, self._store, int(time.time() * 1e3))
        records = Records(self._store)
        self._partitions = Partitions(self._router, self._workers, records)
        self._chosen = Chosen(self._router, self._workers, self._partitions, records)
        self._process = FittingProcess()
        self._refits = Refits(
            self._router,
            self._chosen,
            self._partitions,
            self._process,
            RefitSettings(
                RefitMode[settings.refit.upper()],
                settings.refit_interval,
                settings.refit_window,
                settings.refit_signatures,
            ),
            self._telemetry.refitted,
        )
        self._comparisons.watch(self._router)
        self._watch.watch(self._router, self._refits)
        self._learned: LearnedStore | None = None
        if isinstance(self._store, MirroredStore):
            self._learned = SharedLearned(self._store)
        elif settings.state:
            self._learned = LearnedStore(self._store)
        self._learning = Learning(self._router, self._learned) if self._learned else None
        self._credentials = Credentials(settings, self._telemetry.refused_caller)
        self._sources = Sources(settings)
        self._discovery = Discovery(
            self._sources.all,
            self._router,
            self._workers,
            settings.discovery_drain,
            self._telemetry.metrics.discovered,
            Remembered(self._store),
        )
        self._stopping = asyncio.Event()  # set by each signal to stop
        self._serving = True
        self._served = self._listeners()
        self._http = HttpServer(
            self._telemetry.metrics, lambda: self._serving, self._troubles, self._page().paths()
        )

    async def run(self) -> None:
        """Serve until told to stop, then drain.

        Raises
        ------
        StartError
            An address or a file cannot be used.
        """
        compile_ahead(*FOR_EVERY_POLICY)
        gc.disable()  # nothing loaded now ever becomes garbage
        if self._replica:
            await self._replica.open()
            if isinstance(self._learned, SharedLearned):
                await self._learned.fill(self._shared)
        now = time.monotonic()
        for declared in self._settings.models:
            self._chosen.declare(declared.name, declared.geometry)
        self._chosen.restore(now)
        self._sources.check()
        await self._discovery.start()
        now = time.monotonic()
        if self._learning:
            self._learning.restore(now)
        if isinstance(self._learned, SharedLearned):
            self._learned.forget()
        if self._durability:
            bookings = self._durability.start(self._router, self._workers, now)
            log.info("restored", bookings=bookings)
        if self._replica:
            bookings = await self._follow(self._replica, now)
            log.info("restored", bookings=bookings)
        if self._recorder:
            self._recorder.tick()
        addresses = self._open_ports()
        await self._served.start()
        http = self._settings.http
        try:
            http = replace(http, port=await self._http.start(http.host, http.port))
        except OSError as error:
            await self._served.stop(None)
            raise StartError(f"--http {http}: {error.strerror}") from error
        addresses["http"] = str(http)
        await self._served.tell(serving=True)
        self._listen_to_signals()
        if self._settings.port_file:
            _write_ports(self._settings.port_file, addresses)
        gc.freeze()  # what exists now stays: no need to scan it repeatedly
        gc.enable()
        _tell_of_kernels()
        log.info(
            "serving",
            **addresses,
            version=version("eldr-service"),
            policy=self._settings.policy,
            state=str(self._settings.state or ":memory:"),
        )
        watching = [
            *self._credentials.watching(),
            self._served.keep_serving(),
            beat(self._telemetry.metrics.pause_seconds.observe),
        ]
        background = [asyncio.create_task(work) for work in (self._tick(), *watching)]
        await asyncio.to_thread(compile_ahead, *FOR_EXPLAIN)  # half a second without a cache
        await self._stopping.wait()
        await self._drain()
        for task in background:
            task.cancel()
        self._discovery.close()
        await self._refits.close()
        await self._process.close()
        await self._served.stop(grace=1.0)
        self._watch.close()
        await self._http.stop()
        if self._learning and self._leads:
            await self._learning.close()
        if self._durability:
            await self._durability.close()
        if self._replica:
            await self._replica.close()
        if self._recorder:
            self._recorder.close()
        self._store.close()
        self._traces.close()
        log.info("stopped")

    async def _follow(self, replica: Replica, now: float) -> int:
        """Act as one of several replicas from now on; returns how many bookings there are."""
        assert isinstance(self._store, MirroredStore)
        follower = Follower(
            self._router,
            self._workers,
            self._chosen,
            self._refits,
            self._store,
            lambda: self._shared.clock,
        )
        self._telemetry.is_elsewhere = lambda: follower.applying
        return await replica.start(self._router, self._workers, follower, now)

    def _record(self, settings: Settings) -> Recorder | None:
        if settings.decision_log is None:
            return None
        metrics, most = self._telemetry.metrics, settings.decision_log_max_mb * 1_000_000
        lost, wrote = metrics.decision_log_lost.inc, metrics.decision_log_bytes.inc
        try:
            return Recorder(Writer(settings.decision_log, most, lost, wrote), lost)
        except OSError as error:
            raise StartError(f"--decision-log {settings.decision_log}: {error.strerror}") from error

    def _listeners(self) -> Listeners:
        settings, telemetry = self._settings, self._telemetry
        fleet_service = FleetService(
            self._router,
            self._workers,
            telemetry,
            settings.report_interval,
            settings.default_capacity,
            self._replica.written if self._replica else nothing_to_wait_for,
        )
        telemetry.on_worker_changed = fleet_service.worker_changed
        spans = CallSpans(self._traces) if self._traces.is_on else None
        router_service = RouterService(
            self._router, telemetry, settings.max_waiting, self._durability, self._replica, spans
        )
        self._places = router_service.places
        agreed = self._replica.agreed if self._replica else at_once
        partition_service = PartitionService(
            self._router, self._partitions, self._refits, self._process, telemetry, agreed
        )
        policy_service = PolicyService(self._router, self._chosen, telemetry, agreed)
        credentials = self._credentials
        return Listeners(
            [
                (router_pb2_grpc.add_RouterServiceServicer_to_server, router_service),
                (fleet_pb2_grpc.add_FleetServiceServicer_to_server, fleet_service),
                (partition_pb2_grpc.add_PartitionServiceServicer_to_server, partition_service),
                (policy_pb2_grpc.add_PolicyServiceServicer_to_server, policy_service),
            ],
            # Every call pays for an interceptor, even without tokens.
            [credentials.guard] if credentials.has_tokens else [],
            credentials.certificates,
            Admission(
                settings.max_calls_in_all, self._router.models.__contains__, telemetry.refused_call
            ),
            CallLimits(
                in_all=settings.max_calls_in_all,
                per_connection=settings.max_calls,
                connections=self._most_connections(),
            ),
            spans,
        )

    def _page(self) -> Page:
        settings, replica, credentials = self._settings, self._replica, self._credentials
        return Page(
            Access(
                credentials.guard.caller_of if credentials.has_tokens else None,
                insecure=settings.insecure,
                closed=bool(settings.tls_client_ca) and not credentials.has_tokens,
            ),
            self._watch,
            Actions(
                self._router,
                self._chosen,
                self._workers,
                replica.agreed if replica else at_once,
                replica.written if replica else nothing_to_wait_for,
            ),
        )

    def _most_connections(self) -> int:
        """The setting, or fewer if the process may not open so many files."""
        wanted = self._settings.max_connections
        most = spare_descriptors(wanted)
        if most < wanted:
            log.warning("fewer connections than --max-connections", most=most, wanted=wanted)
        return most

    def _open_ports(self) -> dict[str, str]:
        """Open the gRPC listeners; returns their addresses with ports, by name."""
        listen, admin = self._settings.listen, self._settings.admin_listen
        wanted = {"grpc": ("--listen", listen)} | (
            {"admin": ("--admin-listen", admin)} if admin else {}
        )
        opened = {}
        for name, (flag, address) in wanted.items():
            try:
                port = self._served.open(str(address), name == "admin" or not admin)
            except RuntimeError as error:
                raise StartError(f"{flag} {address} cannot be used: {error}") from error
            opened[name] = str(replace(address, port=port))
        return opened

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Reread tokens and certificates, and check the fleet file; log what is wrong."""
        try:
            self._credentials.reload()
            self._sources.check()  # changes in the fleet file are followed anyway
        except (TokensFileError, CertificateError, SourceError) as error:
            log.error("not reloaded", error=str(error))
        else:
            log.info("reloaded")

    async def _tick(self) -> None:
        now = time.monotonic()
        while True:
            due = now + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - due > DEAF_SECONDS:  # the process or machine was stopped: reports are queued
                self._router.deaf(now - due)
            if self._replica is None:
                self._workers.remove_silent(self._router.tick(now), now)
                self._refits.tick(now)
            elif self._replica.is_current(now):
                self._replica.silent(self._router.tick(now), now)
                self._replica.tick(now)
                if self._replica.leads:
                    self._refits.tick(now)
            self._places.tick()
            if self._durability:
                self._durability.tick(now)
            if self._learning and self._leads:
                self._learning.tick(now)
            elif self._learning:
                self._learning.leave()
            _tell_of_kernels()
            if self._recorder:
                self._recorder.tick()

    async def _drain(self) -> None:
        """Report NOT_SERVING, and let bookings go on until they end or the deadline comes."""
        self._serving = False
        await self._served.tell(serving=False)
        if self._replica:  # the other replicas have the bookings too
            return
        deadline = time.monotonic() + self._settings.drain_seconds
        self._stopping.clear()  # a second signal ends the wait
        log.info("draining", bookings=self._bookings(), seconds=self._settings.drain_seconds)
        while self._bookings() and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(0.1, left))
                return

    @property
    def _leads(self) -> bool:
        """Whether it does what only one of several replicas should do."""
        return self._replica is None or self._replica.leads

    def _troubles(self) -> str:
        if self._replica and not self._replica.is_safe:
            return "the shared state cannot be reached: this replica goes on by its own view"
        if self._durability is None or self._durability.is_safe:
            return ""
        why = self._durability.trouble
        return f"bookings are not written, and would not survive a crash: {why}"

    def _bookings(self) -> int:
        return sum(len(model.bookings) for model in self._router.models.values())


def _tell_of_kernels() -> None:
    for trouble in cache_troubles():
        log.warning("kernel cache", trouble=trouble)


def _write_ports(path: Path, addresses: Mapping[str, str]) -> None:
    """Write the port file atomically, so that no reader sees half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(addresses) + "\n")
    unfinished.replace(path)
