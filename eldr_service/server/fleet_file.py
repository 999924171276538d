"""Workers that do not register by themselves: a TOML file names them.

Each `[[workers]]` table has the fields of a RegisterWorkerRequest:

    [[workers]]
    model = "Qwen3-30B-A3B"
    worker_id = "decode-0"
    url = "http://10.0.0.7:8000"
    capacity = { sequences = 256 }
    geometry = { num_layers = 48, num_experts = 128, top_k = 8 }
"""

import tomllib
from pathlib import Path

import structlog
from eldr.v1 import fleet_pb2
from google.protobuf.json_format import ParseDict, ParseError

from eldr_service.core.errors import EldrError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerSpec, WorkerState
from eldr_service.routing.workers import Workers
from eldr_service.server.rpc import reading

log = structlog.get_logger("eldr")

Entry = tuple[WorkerSpec, ModelGeometry | None]


class FleetFileError(Exception):
    """The fleet file cannot be used; says where and why."""


class StaticFleet:
    """Keeps the workers of a file in the fleet; `reload` follows the file.

    Parameters
    ----------
    path : Path
    workers : Workers
    default_capacity : int
        Sequences of a worker that does not say.
    """

    def __init__(self, path: Path, workers: Workers, default_capacity: int) -> None:
        self._path = path
        self._workers = workers
        self._default_capacity = default_capacity
        self._present: dict[tuple[str, str], Entry] = {}

    def reload(self, now: float) -> None:
        """Let new and changed workers join, and drain those that the file names no more.

        Raises
        ------
        FleetFileError
            Something in the file is wrong, and nothing is changed; or a worker does not fit the
            model, and only those before it in the file have joined.
        """
        wanted = self._read()
        for (model, worker_id), entry in wanted.items():
            if self._present.get((model, worker_id)) != entry:
                spec, geometry = entry
                try:
                    self._workers.register(
                        model, spec, WorkerState.READY, geometry, now, static=True
                    )
                except EldrError as error:
                    raise FleetFileError(f"{self._path}: worker {worker_id}: {error}") from error
                self._present[model, worker_id] = entry  # joins once, whatever comes after it
        for model, worker_id in self._present.keys() - wanted.keys():
            try:
                self._workers.drain(model, worker_id)
            except EldrError as error:  # an operator has removed it
                log.warning("worker not drained", worker=worker_id, error=str(error))
        self._present = wanted

    def _read(self) -> dict[tuple[str, str], Entry]:
        try:
            table = tomllib.loads(self._path.read_text("utf-8"))
        except OSError as error:
            raise FleetFileError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:
            raise FleetFileError(f"{self._path} is no TOML file: {error}") from error
        entries = table.pop("workers", None)
        if table or not isinstance(entries, list):
            raise FleetFileError(f"{self._path}: expected [[workers]] tables and nothing else")
        wanted: dict[tuple[str, str], Entry] = {}
        for place, fields in enumerate(entries, start=1):
            try:
                request = ParseDict(fields, fleet_pb2.RegisterWorkerRequest())
                spec = reading.worker_spec(request, self._default_capacity)
                model = reading.model_name(request)
                geometry = reading.worker_geometry(request)
            except (ParseError, EldrError) as error:
                raise FleetFileError(f"{self._path}: worker {place}: {error}") from error
            if (model, spec.worker_id) in wanted:
                raise FleetFileError(f"{self._path}: worker {place}: {spec.worker_id} again")
            wanted[model, spec.worker_id] = spec, geometry
        return wanted
