"""A TOML file that lists workers, followed as it changes.

Each `[[workers]]` table has the fields of a RegisterWorkerRequest:

    [[workers]]
    model = "Qwen3-30B-A3B"
    worker_id = "decode-0"
    url = "http://10.0.0.7:8000"
    capacity = { sequences = 256 }
    geometry = { num_layers = 48, num_experts = 128, top_k = 8 }
"""

import asyncio
import tomllib
from pathlib import Path

from eldr.v1 import fleet_pb2
from google.protobuf.json_format import ParseDict, ParseError

from eldr_service.core.errors import EldrError
from eldr_service.server.discovery.source import Fail, Found, Key, Snapshot, SourceError, Take
from eldr_service.server.rpc import reading

LOOK_SECONDS = 0.5


class FleetFile:
    """The workers of a file.

    A change takes effect when two looks have found the same content, so that a file written in
    place is not read half. A file that is replaced, by a rename or a link to another file, is
    followed too.

    Parameters
    ----------
    path : Path
    default_capacity : int
        Sequences of a worker without a stated capacity.
    """

    def __init__(self, path: Path, default_capacity: int) -> None:
        self.name = "fleet-file"
        self._path = path
        self._default_capacity = default_capacity

    async def follow(self, take: Take, fail: Fail) -> None:
        """Report the file's workers, now and at every change."""
        taken = seen = None
        is_well = False
        while True:
            try:
                data = await asyncio.to_thread(self._bytes)
                settled, seen = taken is None or data == seen, data
                if settled and not (is_well and data == taken):
                    await take(self._workers(data))
                    taken, is_well = data, True
            except SourceError as error:
                is_well = False
                fail(str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def read(self) -> Snapshot:
        """Read the file's current workers.

        Raises
        ------
        SourceError
            Something in it is wrong.
        """
        return self._workers(self._bytes())

    def _bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from error

    def _workers(self, data: bytes) -> Snapshot:
        try:
            table = tomllib.loads(data.decode())
        except ValueError as error:
            raise SourceError(f"{self._path} is not a TOML file: {error}") from error
        entries = table.pop("workers", None)
        if table or not isinstance(entries, list):
            raise SourceError(f"{self._path}: expected [[workers]] tables and nothing else")
        wanted: dict[Key, Found] = {}
        for place, fields in enumerate(entries, start=1):
            try:
                request = ParseDict(fields, fleet_pb2.RegisterWorkerRequest())
                spec = reading.worker_spec(request, self._default_capacity)
                model = reading.model_name(request)
                geometry = reading.worker_geometry(request)
            except (ParseError, EldrError) as error:
                raise SourceError(f"{self._path}: worker {place}: {error}") from error
            if (model, spec.worker_id) in wanted:
                raise SourceError(f"{self._path}: worker {place}: {spec.worker_id} again")
            wanted[model, spec.worker_id] = Found(spec, geometry)
        return wanted
