"""The client's program: commands go to its stdin, answers come from its stdout."""

import asyncio
import itertools
import json
from typing import Any

ANSWER_SECONDS = 30.0


class DriverError(Exception):
    """The program broke the protocol, or ended."""


class Driver:
    """One run of the program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command: list[str]) -> "Driver":
        """Run `command`."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
        )
        return cls(process)

    def send(self, command: dict[str, Any]) -> tuple[int, "asyncio.Future[dict[str, Any]]"]:
        """Send; returns the command's id, and its future answer, with `result` or `error`."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **command}).encode() + b"\n")
        return number, answer

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send, and wait for the answer."""
        _, answer = self.send(command)
        return await asyncio.wait_for(answer, ANSWER_SECONDS)

    async def end(self) -> int:
        """Close its stdin; returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise DriverError("the program does not exit at the end of its stdin") from None
        await self._reading
        return status

    async def kill(self) -> None:
        """Kill it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        error: Exception = DriverError("the program ended")
        try:
            async for line in self._process.stdout:
                answer = json.loads(line)
                self._waiting.pop(answer.pop("id")).set_result(answer)
        except (ValueError, KeyError, AttributeError) as broken:
            error = DriverError(f"expected an answer of the protocol, found {line!r} ({broken!r})")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # a step may never await it
