"""What the cases do not ask of the Rust client: names, replicas that drain, its own tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from daemon import running_daemon
from eldr_conformance.driver import Driver
from languages import cargo_into, needs_cargo, one_build
from programs import CLIENTS, run, rust
from wire import Client

pytestmark = [needs_cargo, pytest.mark.timeout(900)]  # tonic is compiled, once
DRAINS_SECONDS = 30.0


@asynccontextmanager
async def opened(target: str) -> AsyncIterator[Driver]:
    driver = await Driver.start(rust())
    try:
        answer = await driver.ask({"call": "open", "target": target, "timeout": 20.0})
        assert "result" in answer, answer
        yield driver
        assert await driver.end() == 0
    finally:
        await driver.kill()


async def worker(driver: Driver, number: int) -> str:
    answer = await driver.ask({"call": "route", "model": "m", "request_id": f"r{number}"})
    return answer["result"]["worker_id"]


async def test_all_addresses_of_a_name_are_found():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "d0")
        port = daemon.grpc.rpartition(":")[2]
        async with opened(f"dns:///localhost:{port}") as driver:
            assert await worker(driver, 0) == "d0"


async def test_a_replica_that_drains_gets_no_calls():
    drains = ("--drain-seconds", str(DRAINS_SECONDS))
    with (
        running_daemon(*drains) as first,
        running_daemon() as second,
        Client(first.grpc) as of_first,
        Client(second.grpc) as of_second,
    ):
        of_first.register("m", "on first")
        of_second.register("m", "on second")
        async with opened(f"{first.grpc},{second.grpc}") as driver:
            assert {await worker(driver, n) for n in range(4)} == {"on first", "on second"}
            first.process.terminate()
            async with asyncio.timeout(DRAINS_SECONDS / 2):
                while {await worker(driver, n) for n in range(10, 14)} != {"on second"}:
                    await asyncio.sleep(0.1)
            assert first.process.poll() is None  # its bookings keep it
            first.process.kill()


def test_its_own_tests_pass():
    with one_build("rust") as built:
        run("cargo", "test", "--quiet", "--lib", cwd=CLIENTS / "rust", env=cargo_into(built))
