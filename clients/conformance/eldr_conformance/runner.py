"""Runs cases with a client's program, and checks its answers and what it sends."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from eldr_conformance.daemon import Daemon
from eldr_conformance.driver import ANSWER_SECONDS, Driver, DriverError
from eldr_conformance.matching import difference
from eldr_conformance.server import Replica, Script

ARRIVES_SECONDS = 15.0
TIMEOUT = 5.0  # of calls, unless the case is about it; long enough for a busy machine
SETTLES_SECONDS = 0.3  # a surplus message would have arrived by then
POLL_SECONDS = 0.01
AT_ONCE = 3


@dataclass(frozen=True)
class Outcome:
    """One case's outcome. `wrong` is empty if it passed; `lacks` names a call the client lacks."""

    case: str
    wrong: str = ""
    lacks: str = ""


class _FailureError(Exception):
    """A step's expectation that was not met."""


def cases() -> list[dict[str, Any]]:
    """All cases, by file and then in the file's order."""
    folder = files("eldr_conformance") / "cases"
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return [
        {"topic": file.name.removesuffix(".json"), **case}
        for file in found
        if file.name.endswith(".json")
        for case in json.loads(file.read_text())
    ]


async def run(command: list[str], chosen: Iterable[dict[str, Any]]) -> list[Outcome]:
    """Run each case with its own program and router; several at a time, as they mostly wait."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def run_in_turn(case: dict[str, Any]) -> Outcome:
        async with turns:
            return await _run_one(command, case)

    return await asyncio.gather(*map(run_in_turn, chosen))


async def _run_one(command: list[str], case: dict[str, Any]) -> Outcome:
    driver = await Driver.start(command)
    play = _DaemonPlay(driver) if case.get("router") == "daemon" else _ScriptedPlay(driver, case)
    try:
        opened = await play.open(case)
        needed = {step["call"]["call"] for step in case["steps"] if "call" in step}
        needed |= {"cancel" for step in case["steps"] if "cancel" in step}
        needed |= set(case.get("needs", ()))
        if missing := needed & set(opened.get("lacks", ())):
            return Outcome(case["name"], lacks=", ".join(sorted(missing)))
        for number, step in enumerate(case["steps"], 1):
            try:
                await play.step(step)
            except (_FailureError, DriverError, TimeoutError) as error:
                what = str(error) or f"no answer in {ANSWER_SECONDS:g} s"
                return Outcome(case["name"], f"step {number}: {what}")
        if (status := await driver.end()) != 0:
            return Outcome(case["name"], f"the program ended with {status}")
        await play.settle(case)
        return Outcome(case["name"])
    except (_FailureError, DriverError) as error:
        return Outcome(case["name"], str(error))
    finally:
        await driver.kill()
        await play.close()


class _Play:
    """The steps that work with any router."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kept: dict[str, Any] = {}
        self._started: dict[str, tuple[int, float, asyncio.Future[dict[str, Any]]]] = {}

    async def _open(self, target: str, case: dict[str, Any]) -> dict[str, Any]:
        command = {"call": "open", "target": target, "timeout": TIMEOUT, **case.get("open", {})}
        answer = await self._driver.ask(command)
        if "result" not in answer:
            raise DriverError(f"open: {answer}")
        return dict(answer["result"])

    async def step(self, step: dict[str, Any]) -> None:
        """Run a step; raises if it fails."""
        if "start" in step:
            number, answer = self._driver.send(step["call"])
            self._started[step["start"]] = number, time.monotonic(), answer
        elif "finish" in step:
            _, began, answer = self._started[step["finish"]]
            _judge(step, await asyncio.wait_for(answer, ANSWER_SECONDS), began)
        elif "cancel" in step:
            number, _, _ = self._started[step["cancel"]]
            await self._driver.ask({"call": "cancel", "of": number})
        elif "call" in step:
            began = time.monotonic()
            answer = await self._driver.ask(step["call"])
            _judge({**step, "expect": self._filled(step)}, answer, began)
            for name, kept in step.get("keep", {}).items():
                self._kept[kept] = answer["result"][name]
        elif "wait" in step:
            await asyncio.sleep(step["wait"])
        else:
            raise ValueError(f"unknown step: {step}")

    def _filled(self, step: dict[str, Any]) -> dict[str, Any]:
        """The expectation, with kept values in place of their names in `{"not": NAME}`."""
        text = json.dumps(step.get("expect", {"result": {}}))
        for name, value in self._kept.items():
            text = text.replace(f'{{"not": "{name}"}}', json.dumps({"not": value}))
        return dict(json.loads(text))


class _ScriptedPlay(_Play):
    """Against a router that answers as the case says."""

    def __init__(self, driver: Driver, case: dict[str, Any]) -> None:
        super().__init__(driver)
        self._script = Script()
        self._replicas = [Replica(self._script, n) for n in range(case.get("replicas", 1))]

    async def open(self, case: dict[str, Any]) -> dict[str, Any]:
        for method, answers in case.get("answers", {}).items():
            self._script.add(method, answers)
        for replica in self._replicas:
            await replica.start()
        return await self._open(",".join(replica.address for replica in self._replicas), case)

    async def step(self, step: dict[str, Any]) -> None:
        if "answers" in step:
            self._script.clear()
            for method, answers in step["answers"].items():
                self._script.add(method, answers)
        elif "stop" in step:
            await self._replicas[step["stop"]].stop()
        elif "run" in step:
            await self._replicas[step["run"]].start()
        elif "received" in step:
            await self._expect(step["of"], step["received"])
            replicas = {each["replica"] for each in self._received(step["of"])}
            if len(replicas) != step.get("replicas", len(replicas)):
                raise _FailureError(f"expected {step['replicas']} replicas, found {replicas}")
        else:
            await super().step(step)

    async def settle(self, case: dict[str, Any]) -> None:
        """Check what the program has sent by its end."""
        for method, expected in case.get("by_the_end", {}).items():
            await self._expect([method], expected)

    async def close(self) -> None:
        for replica in self._replicas:
            await replica.stop()

    def _received(self, methods: list[str]) -> list[dict[str, Any]]:
        return [
            each.as_dict()
            for each in self._script.received
            if each.method in methods and not each.request.get("dry_run")
        ]

    async def _expect(self, methods: list[str], expected: list[dict[str, Any]]) -> None:
        deadline = time.monotonic() + ARRIVES_SECONDS
        while len(self._received(methods)) < len(expected) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(SETTLES_SECONDS)
        if wrong := difference(expected, self._received(methods), "received"):
            raise _FailureError(wrong)


class _DaemonPlay(_Play):
    """Against the daemon."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self._daemon = Daemon()

    async def open(self, case: dict[str, Any]) -> dict[str, Any]:
        await self._daemon.start()
        await self._daemon.register(case["workers"])
        return await self._open(self._daemon.address, case)

    async def step(self, step: dict[str, Any]) -> None:
        if "kill" in step:
            await self._daemon.kill()
        elif "run" in step:
            await self._daemon.start()
        elif "booked" in step:
            await self._expect_booked(step["booked"])
        else:
            await super().step(step)

    async def settle(self, case: dict[str, Any]) -> None:
        """Check that nothing stays booked unless the case says so."""
        await self._expect_booked(case.get("booked_at_the_end", 0))

    async def close(self) -> None:
        await self._daemon.close()

    async def _expect_booked(self, expected: int) -> None:
        deadline = time.monotonic() + ARRIVES_SECONDS
        while (found := await self._daemon.booked()) != expected:
            if time.monotonic() > deadline:
                raise _FailureError(f"booked: expected {expected}, found {found}")
            await asyncio.sleep(POLL_SECONDS)


def _judge(step: dict[str, Any], answer: dict[str, Any], began: float) -> None:
    took = time.monotonic() - began
    if wrong := difference(step.get("expect", {"result": {}}), answer, "answer"):
        raise _FailureError(wrong)
    least, most = step.get("seconds", (0, ANSWER_SECONDS))
    if not least <= took <= most:
        raise _FailureError(f"expected an answer in {least} to {most} s, found {took:.3f}")
