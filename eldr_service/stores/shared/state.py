"""The shared state as a replica uses it: commits operations, reads changes, or reads everything."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eldr_service.stores.records import StoreError
from eldr_service.stores.shared.address import StateAddress
from eldr_service.stores.shared.operations import Change, Operation, Result

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

SCHEMA = "1"
CONNECT_SECONDS = 1.0
READ_SECONDS = 10.0
"""Timeout for reading everything, which takes long."""
BLOCK_MILLISECONDS = 1_000
MOST_READ = 1_000

Key = tuple[str, str]
"""Model, and which of the model's items: a worker, a request, a version."""


class SharedState:
    """Reads and writes the state of one deployment.

    Parameters
    ----------
    address : StateAddress
    password_file : Path or None
    replica : str
        The name of this replica among those that share the state.
    answer_seconds : float
        Timeout after which a server that does not answer counts as gone.

    Attributes
    ----------
    clock : float
        The server's Unix time at which the monotonic clock here was 0. Hosts' clocks may differ.

    Raises
    ------
    StoreError
        From every method: the server is unreachable, or refuses.
    """

    def __init__(
        self,
        address: StateAddress,
        password_file: Path | None,
        replica: str,
        answer_seconds: float = 0.25,
    ) -> None:
        self.replica = replica
        self._seconds = answer_seconds
        self.clock = time.time() - time.monotonic()
        self._address = address
        self._prefix = address.prefix
        self._password_file = password_file
        self._script = files(__package__).joinpath("commit.lua").read_text()
        self._script_name = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._client: Redis | RedisCluster | None = None
        self._reader: Redis | RedisCluster | None = None

    async def open(self) -> str:
        """Connect anew; returns the state's identity, which changes if the state is lost.

        A server without persistence loses it, and comes back with another identity.
        """
        await self.close()
        try:
            self._client = self._address.client(self._password_file, CONNECT_SECONDS)
            self._reader = self._address.client(self._password_file, CONNECT_SECONDS)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{self._address} needs the package {error.name}: pip install redis"
            ) from error
        about = self._prefix + "state"
        made = f"{time.time_ns():x}-{self.replica}"
        await self._ask(self._client.hsetnx(about, "schema", SCHEMA), CONNECT_SECONDS)
        await self._ask(self._client.hsetnx(about, "identity", made))
        schema, identity = await self._ask(self._client.hmget(about, ["schema", "identity"]))
        if schema.decode() != SCHEMA:
            raise StoreError(
                f"{self._address} was written by another version of eldr-server (schema"
                f" {schema.decode()}, this one knows {SCHEMA}): upgrade, or give --state another"
                " ?name=NAME"
            )
        return str(identity.decode())

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, self._reader):
            if client:
                await client.aclose()
        self._client = self._reader = None

    async def commit(self, operations: Sequence[Operation]) -> tuple[str, list[Result]]:
        """Execute operations in order, in one step.

        Returns
        -------
        position : str
            The last resulting change's; empty for none.
        results : list of Result
            One per operation.
        """
        assert self._client
        fields = [field for operation in operations for field in operation]
        began = time.monotonic()
        call: Any = 1, self._prefix, self.replica, *fields
        try:
            answer = await self._ask(self._client.evalsha(self._script_name, *call))
        except _UnknownScriptError:
            answer = await self._ask(self._client.eval(self._script, *call))
        now, position, results = answer
        # The server read its clock between the request and the answer.
        offset = int(now) / 1e3 - (began + time.monotonic()) / 2
        far = abs(offset - self.clock) > 0.1
        self.clock += (offset - self.clock) * (1.0 if far else 0.1)
        return position.decode(), [Result(word.decode(), tuple(told)) for word, *told in results]

    async def lead(self, seconds: float) -> bool:
        """Lead the replicas for `seconds` from now on, if no other does."""
        assert self._client
        key, longer = self._prefix + "leader", round(seconds * 1e3)
        if await self._ask(self._client.set(key, self.replica, px=longer, nx=True)):
            return True
        if (await self._ask(self._client.get(key)) or b"").decode() != self.replica:
            return False
        return bool(await self._ask(self._client.pexpire(key, longer)))

    async def let_lead(self) -> None:
        """Stop leading, so that another can at once."""
        assert self._client
        key = self._prefix + "leader"
        if (await self._ask(self._client.get(key)) or b"").decode() == self.replica:
            await self._ask(self._client.delete(key))

    async def last_position(self) -> str:
        """The position of the latest change."""
        assert self._client
        last = await self._ask(self._client.xrevrange(self._prefix + "changes", count=1))
        return last[0][0].decode() if last else "0-0"

    async def has(self, position: str) -> bool:
        """Whether the change at this position still exists, so that none after it was missed."""
        assert self._client
        found = await self._ask(
            self._client.xrange(self._prefix + "changes", min=position, max=position)
        )
        return bool(found)

    async def changes(self, after: str) -> list[Change]:
        """Wait for changes after a position; empty if there was none for a second."""
        assert self._reader
        key = self._prefix + "changes"
        answer = await self._ask(
            self._reader.xread({key: after}, count=MOST_READ, block=BLOCK_MILLISECONDS),
            BLOCK_MILLISECONDS / 1e3 + max(1.0, self._seconds),
        )
        return [_change(place, fields) for _, entries in answer or () for place, fields in entries]

    # Everything

    async def models(self) -> list[bytes]:
        """The record of each model."""
        return [value async for _, value in self._hash("model")]

    async def workers(self) -> list[bytes]:
        """The record of each worker."""
        return [value async for _, value in self._hash("worker")]

    async def bookings(self) -> AsyncIterator[bytes]:
        """The record of each booking."""
        async for _, value in self._hash("record"):
            yield value

    async def partition_versions(self) -> list[Key]:
        """Model and version of each partition."""
        assert self._client
        keys = await self._ask(self._client.hkeys(self._prefix + "partition"), READ_SECONDS)
        return [(model, version) for model, version in map(_key, keys)]

    async def partition(self, model: str, version: int) -> bytes | None:
        """A partition's file."""
        assert self._client
        key = self._prefix + "partition"
        data: bytes | None = await self._ask(
            self._client.hget(key, f"{model}\0{version}"), READ_SECONDS
        )
        return data

    async def signature(self, model: str, request_id: str) -> list[bytes]:
        """The messages of a request's signature, as any replica received them."""
        assert self._client
        key = f"{self._prefix}signature:{model}\0{request_id}"
        messages: list[bytes] = await self._ask(self._client.lrange(key, 0, -1))
        return messages

    async def learned(self, model: str) -> tuple[str, float, bytes] | None:
        """What a model's policy had learned: its name, when (Unix seconds) and its arrays."""
        assert self._client
        fields = [f"{model}\0{name}" for name in ("policy", "saved", "data")]
        policy, saved, data = await self._ask(
            self._client.hmget(self._prefix + "learned", fields), READ_SECONDS
        )
        return None if data is None else (policy.decode(), float(saved), data)

    async def recent(self, model: str) -> list[tuple[bytes, float]]:
        """Recent counts of a model in pieces, each with the time of its latest, oldest first."""
        assert self._client
        key = f"{self._prefix}recent:{model}"
        pieces: list[tuple[bytes, float]] = await self._ask(
            self._client.zrange(key, 0, -1, withscores=True), READ_SECONDS
        )
        return pieces

    async def _hash(self, name: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """Fields and values, in parts: concurrent changes may or may not be included."""
        assert self._client
        cursor = -1
        while cursor:
            cursor, part = await self._ask(
                self._client.hscan(self._prefix + name, max(0, cursor), count=1_000), READ_SECONDS
            )
            for field, value in part.items():
                yield field, value

    async def _ask(self, answer: Any, seconds: float = 0.0) -> Any:
        from redis.exceptions import NoScriptError, RedisError

        seconds = seconds or self._seconds
        try:
            async with asyncio.timeout(seconds):  # `wait_for` can lose a cancellation
                return await answer
        except NoScriptError as error:
            raise _UnknownScriptError from error
        except TimeoutError as error:
            raise StoreError(f"{self._address} has not answered for {seconds:g} s") from error
        except (RedisError, OSError) as error:
            raise StoreError(f"{self._address}: {error}") from error


class _UnknownScriptError(Exception):
    """The server does not have the script, or has forgotten it."""


def _key(packed: bytes) -> Key:
    model, _, rest = packed.decode().partition("\0")
    return model, rest


def _change(position: bytes, fields: dict[bytes, bytes]) -> Change:
    replica, kind = fields.pop(b"r"), fields.pop(b"k")
    return Change(position.decode(), replica.decode(), kind.decode(), tuple(fields.values()))
