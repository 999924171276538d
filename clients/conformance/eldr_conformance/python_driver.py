"""The Python client's program: `python -m eldr_conformance.python_driver [--sync]`."""

import asyncio
import json
import sys
import threading
from typing import Any

import numpy as np
from eldr_client import Counts, Placement, RouterClient, aio, errors

_PLACEMENT = (
    "worker_id", "url", "dp_rank", "repeated", "stale", "policy", "partition_version", "lease_id",
    "similarity", "coverage", "early", "is_fallback",
)  # fmt: skip


def counts_of(given: dict[str, Any] | None) -> Counts | None:
    """The protocol's counts as the client's type."""
    if given is None:
        return None
    fields = dict(given)
    return Counts(np.array(fields.pop("array"), np.int64), **fields)


def described(placement: Placement) -> dict[str, Any]:
    """A placement in the protocol's form."""
    found = {name: getattr(placement, name) for name in _PLACEMENT}
    found["reason"] = placement.reason.value
    found["alternates"] = [[a.worker_id, a.url, a.dp_rank] for a in placement.alternates]
    return found


def failure_of(error: BaseException) -> dict[str, Any]:
    """An error in the protocol's form."""
    if isinstance(error, asyncio.CancelledError):
        return {"kind": "CANCELLED"}
    if isinstance(error, errors.RouterUnavailableError):
        return {"kind": "ROUTER_UNAVAILABLE"}
    if isinstance(error, errors.RouterFaultError):
        return {"kind": "ROUTER_FAULT"}
    if not isinstance(error, errors.EldrError):
        kind = "INVALID_VALUE" if isinstance(error, ValueError | TypeError) else "BROKEN"
        return {"kind": kind, "message": str(error)}
    found = {"kind": error.code.name, "message": str(error), "reason": error.reason}
    for name in ("field", "expected", "found", "retry_after"):
        if hasattr(error, name):
            found[name] = getattr(error, name)
    return found


class LeftBlockError(Exception):
    """Raised in the block of a `place` if the command says so."""


class AioDriver:
    """Runs each command as a task."""

    client: aio.RouterClient

    async def run(self) -> None:
        """Until stdin ends."""
        loop = asyncio.get_running_loop()
        tasks: dict[int, asyncio.Task[None]] = {}
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            if command["call"] == "cancel":
                tasks[command["of"]].cancel()
                answer(command["id"], {"result": {}})
                continue
            task = asyncio.create_task(self._answer(command.pop("id"), command))
            tasks[json.loads(line)["id"]] = task
        await self.client.close()

    async def _answer(self, number: int, command: dict[str, Any]) -> None:
        try:
            result = await getattr(self, command.pop("call"))(**command)
        except (Exception, asyncio.CancelledError) as error:
            answer(number, {"error": failure_of(error)})
        else:
            answer(number, {"result": result})

    async def open(self, target: str, **options: Any) -> dict[str, Any]:
        self.client = aio.RouterClient(target, **options)
        return {"lacks": []}

    async def route(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        return described(await self.client.route(counts=counts_of(counts), **fields))

    async def place(
        self, body: dict[str, Any], counts: Any = None, **fields: Any
    ) -> dict[str, Any]:
        try:
            async with self.client.place(counts=counts_of(counts), **fields) as placement:
                placement.output_tokens = body.get("output_tokens", 0)
                await asyncio.sleep(body.get("seconds", 0))
                if body.get("ends") == "raise":
                    raise LeftBlockError
        except LeftBlockError:
            pass
        return described(placement)

    async def release(self, decode_counts: Any = None, **fields: Any) -> dict[str, Any]:
        found = await self.client.release(decode_counts=counts_of(decode_counts), **fields)
        return {"result": found.value if found else None}

    async def renew(self, model: str, leases: list[list[Any]], **fields: Any) -> dict[str, Any]:
        unknown = await self.client.renew(model, [tuple(each) for each in leases], **fields)
        return {"unknown": [[each.request_id, each.attempt] for each in unknown]}

    async def register_signature(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        found = await self.client.register_signature(counts=counts_of(counts), **fields)
        return {"tokens_held": found.tokens_held, "complete": found.complete}

    async def stream_signature(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        placement = await self.client.stream_signature(counts=counts_of(counts), **fields)
        return {"placement": placement and described(placement)}

    async def counts(self, counts: dict[str, Any]) -> dict[str, Any]:
        return encoded(counts)


class SyncDriver:
    """Runs each command in its own thread."""

    client: RouterClient

    def run(self) -> None:
        """Until stdin ends."""
        threads = []
        for line in sys.stdin:
            command = json.loads(line)
            thread = threading.Thread(target=self._answer, args=(command.pop("id"), command))
            thread.start()
            threads.append(thread)
            if command["call"] == "open":
                thread.join()
        for thread in threads:
            thread.join()
        self.client.close()

    def _answer(self, number: int, command: dict[str, Any]) -> None:
        try:
            result = getattr(self, command["call"])(
                **{name: value for name, value in command.items() if name != "call"}
            )
        except Exception as error:
            answer(number, {"error": failure_of(error)})
        else:
            answer(number, {"result": result})

    def open(self, target: str, **options: Any) -> dict[str, Any]:
        self.client = RouterClient(target, **options)
        return {"lacks": ["cancel"]}

    def route(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        return described(self.client.route(counts=counts_of(counts), **fields))

    def place(self, body: dict[str, Any], counts: Any = None, **fields: Any) -> dict[str, Any]:
        try:
            with self.client.place(counts=counts_of(counts), **fields) as placement:
                placement.output_tokens = body.get("output_tokens", 0)
                threading.Event().wait(body.get("seconds", 0))
                if body.get("ends") == "raise":
                    raise LeftBlockError
        except LeftBlockError:
            pass
        return described(placement)

    def release(self, decode_counts: Any = None, **fields: Any) -> dict[str, Any]:
        found = self.client.release(decode_counts=counts_of(decode_counts), **fields)
        return {"result": found.value if found else None}

    def renew(self, model: str, leases: list[list[Any]], **fields: Any) -> dict[str, Any]:
        unknown = self.client.renew(model, [tuple(each) for each in leases], **fields)
        return {"unknown": [[each.request_id, each.attempt] for each in unknown]}

    def register_signature(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        found = self.client.register_signature(counts=counts_of(counts), **fields)
        return {"tokens_held": found.tokens_held, "complete": found.complete}

    def stream_signature(self, counts: Any = None, **fields: Any) -> dict[str, Any]:
        placement = self.client.stream_signature(counts=counts_of(counts), **fields)
        return {"placement": placement and described(placement)}

    def counts(self, counts: dict[str, Any]) -> dict[str, Any]:
        return encoded(counts)


def encoded(given: dict[str, Any]) -> dict[str, Any]:
    """The bytes of the contract's message, in hexadecimal."""
    counts = counts_of(given)
    assert counts is not None
    return {"bytes": counts.to_proto().SerializeToString(deterministic=True).hex()}


_writing = threading.Lock()


def answer(number: int, said: dict[str, Any]) -> None:
    """Write one line to stdout."""
    with _writing:
        print(json.dumps({"id": number, **said}), flush=True)


if __name__ == "__main__":
    if "--sync" in sys.argv:
        SyncDriver().run()
    else:
        asyncio.run(AioDriver().run())
