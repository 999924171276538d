"""Everything behind gRPC, with one model of two layers and a clock that tests set."""

import numpy as np
from recording import Told

from eldr_service.core.activation import ActivationCounts
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import SignatureTransform
from eldr_service.core.worker import LoadReport, WorkerSpec, WorkerState
from eldr_service.policies.registry import create
from eldr_service.routing.call import RouteCall
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.records import Records
from eldr_service.routing.router import Limits, Router
from eldr_service.routing.workers import Workers
from eldr_service.stores.sqlite import SqliteStore

MODEL = "model"
GEOMETRY = ModelGeometry(2, 4, 1)


def counts_on(expert, tokens=10, unknown=0):
    """Counts of tokens that all pick one expert in each layer."""
    counts = np.zeros((2, 4), dtype=np.uint32)
    counts[:, expert] = tokens
    return ActivationCounts(GEOMETRY, 0, counts, tokens, unknown)


def partition(slots=4):
    """A partition whose slot i suits requests that use expert i."""
    centroids = np.tile(np.eye(4, dtype=np.float32), 2)[:slots] / np.float32(2**0.5)
    return Partition(MODEL, SignatureTransform(GEOMETRY), centroids)


class SmallDaemon:
    """Router, workers and partitions on one store; tests set `now`."""

    def __init__(self, *, store=None, first_incarnation=0, journal=None, **limits):
        self.now = 100.0
        self.told = Told()
        self.store = store or SqliteStore(None)
        self.router = Router(
            lambda: create("locality-band", {}), self.told, Limits(**limits), journal=journal
        )
        self.workers = Workers(self.router, self.store, first_incarnation)
        records = Records(self.store)
        self.partitions = Partitions(self.router, self.workers, records)
        self.chosen = Chosen(self.router, self.workers, self.partitions, records)
        self.incarnations = {}

    @property
    def model(self):
        return self.router.model(MODEL)

    def join(self, *ids, geometry=None, state=WorkerState.READY, **fields):
        for worker_id in ids:
            fields.setdefault("capacity_sequences", 4)
            self.incarnations[worker_id] = self.workers.register(
                MODEL, WorkerSpec(worker_id, **fields), state, geometry, self.now
            )

    def activate(self, slots=4):
        return self.partitions.activate(MODEL, self.partitions.add(partition(slots)).version)

    def route(self, request_id, attempt=0, **fields):
        placed = self.router.route(RouteCall(MODEL, request_id, attempt, **fields), self.now)
        return placed.booking if not fields.get("explain") else placed

    def report(self, worker_id, number, **fields):
        said = LoadReport(self.incarnations[worker_id], number, **fields)
        return self.workers.report(MODEL, worker_id, said, self.now)

    def booked(self):
        fleet = self.model.fleet
        return {fleet.spec(row).worker_id: fleet.booked(row) for row in fleet.rows()}

    def slots(self):
        fleet = self.model.fleet
        return {fleet.spec(r).worker_id: s for r, s in self.model.bindings.slot_of.items()}
