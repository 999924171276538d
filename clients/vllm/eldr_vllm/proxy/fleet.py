"""The engines that the proxy may use: from its configuration, and from the daemon."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace

import grpc
from eldr.v1.fleet_pb2 import WatchWorkersRequest, WatchWorkersResponse, WorkerRole, WorkerState
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr_client.channel import Endpoint

from eldr_vllm.generation_config import LABEL

logger = logging.getLogger("eldr_proxy")

WATCH_PAUSE = 0.25  # seconds before a broken watch is retried
# A daemon that lost its state knows no engines until they register again.
GRACE = 10.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One vLLM engine, or one data-parallel rank of it. An empty model or group fits any."""

    worker_id: str
    url: str
    _: KW_ONLY
    dp_rank: int = 0
    model: str = ""
    group: str = ""
    prefill: bool = False
    # It came from the daemon, where any holder of the role may register.
    is_registered: bool = False
    # False if it was ready in this incarnation and no longer is; a last resort.
    is_ready: bool = True
    # The url serves several ranks, so requests must name the rank.
    ranked: bool = False
    # Its generation config treats what it writes and its prompt alike.
    continues: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """The headers by which vLLM's front end finds the rank."""
        return {"X-data-parallel-rank": str(self.dp_rank)} if self.ranked else {}


class Fleet:
    """Static engines, and those that WatchWorkers reports for roles without any.

    The engines outlive the daemon: the last known ones stay until it says otherwise, or until it
    has been back for `GRACE` seconds without naming them.
    """

    def __init__(
        self,
        prefill: Iterable[str] = (),
        decode: Iterable[str] = (),
        reborn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`reborn` is called with the id of each worker that has registered again."""
        self._reborn = reborn
        self._incarnations: dict[tuple[str, str], int] = {}
        self._static = {
            True: [Engine(url, url, prefill=True) for url in prefill],
            False: [Engine(url, url) for url in decode],
        }
        self._watched: dict[tuple[str, str], Engine] = {}
        self._named: set[tuple[str, str]] = set()  # in the current watch
        self._is_level = False  # the watch has named all workers
        self.has_told = asyncio.Event()  # it was level once
        self._engines: list[Engine] = []
        self._collect()

    @property
    def is_static(self) -> bool:
        """Whether nothing is to be learnt from a daemon."""
        return all(self._static.values())

    @property
    def engines(self) -> list[Engine]:
        """All engines that serve now."""
        return self._engines

    def prefill(self, model: str, group: str = "") -> list[Engine]:
        """The engines that prefill this model and can give KV to this group."""
        engines = [e for e in self._engines if e.prefill and e.model in ("", model)]
        return _ready([e for e in engines if not group or e.group in ("", group)])

    def decode(self, model: str, group: str = "") -> list[Engine]:
        """The engines that decode this model and can take KV from this group."""
        return _ready([e for e in self._decoders(model) if not group or e.group in ("", group)])

    def decoder_at(self, model: str, url: str, dp_rank: int) -> Engine | None:
        """The decode engine that a placement names, if the proxy may use it."""
        return next(
            (
                engine
                for engine in self._decoders(model)
                if engine.url == url.rstrip("/")
                and (engine.dp_rank == dp_rank or not engine.ranked)
            ),
            None,
        )

    def can_continue(self, model: str) -> bool:
        """Whether one engine can continue an answer of another, as far as they have told."""
        decoders = [e for e in self._watched.values() if not e.prefill and model in ("", e.model)]
        return self.has_told.is_set() and all(e.continues for e in decoders)

    def _decoders(self, model: str) -> list[Engine]:
        return [e for e in self._engines if not e.prefill and e.model in ("", model)]

    async def watch(self, endpoint: Endpoint) -> None:
        """Follow the daemon's fleet, without end."""
        async with endpoint.open_aio() as channel:
            stub = FleetServiceStub(channel)
            trouble = ""
            while True:
                self._named, self._is_level = set(), False
                try:
                    async for update in stub.WatchWorkers(
                        WatchWorkersRequest(), metadata=endpoint.metadata
                    ):
                        self._observe(update)
                        trouble = ""
                except grpc.aio.AioRpcError as error:
                    if error.details() != trouble:  # once, not at every try
                        logger.warning("the fleet is not watched: %s", error.details())
                    trouble = error.details()
                await asyncio.sleep(WATCH_PAUSE)

    def _observe(self, update: WatchWorkersResponse) -> None:
        if update.HasField("worker"):
            worker = update.worker
            key = worker.model, worker.worker_id
            self._named.add(key)
            served = self._watched.pop(key, None) is not None
            if self._incarnations.get(key, worker.incarnation) != worker.incarnation:
                self._reborn(worker.worker_id)
                served = False
            self._incarnations[key] = worker.incarnation
            # After a loss of the daemon's state, each engine is JOINING until it has reported.
            joins_again = served and worker.state == WorkerState.WORKER_STATE_JOINING
            if worker.state == WorkerState.WORKER_STATE_READY or joins_again:
                self._watched[key] = Engine(
                    worker.worker_id,
                    worker.url.rstrip("/"),
                    dp_rank=worker.dp_rank,
                    model=worker.model,
                    group=worker.group,
                    prefill=worker.role == WorkerRole.WORKER_ROLE_PREFILL,
                    is_registered=True,
                    is_ready=not joins_again,
                    continues=LABEL not in worker.labels,
                )
        if update.synchronized:
            self._is_level = True
            self.has_told.set()
            asyncio.get_running_loop().call_later(GRACE, self._forget)
        self._collect()

    def _forget(self) -> None:
        if self._is_level:
            for key in self._watched.keys() - self._named:
                del self._watched[key]
            for key in self._incarnations.keys() - self._named:
                del self._incarnations[key]
        self._collect()

    def _collect(self) -> None:
        watched = [e for e in self._watched.values() if not self._static[e.prefill]]
        ranks = Counter((e.url, e.model, e.prefill) for e in watched)
        self._engines = [
            *self._static[True],
            *self._static[False],
            *(
                replace(
                    engine,
                    ranked=ranks[engine.url, engine.model, engine.prefill] > 1
                    or engine.dp_rank > 0,
                )
                for engine in watched
            ),
        ]


def _ready(engines: list[Engine]) -> list[Engine]:
    """The ready ones; all, if none is."""
    return [engine for engine in engines if engine.is_ready] or engines
