"""What the Node client does by itself where other clients have gRPC's own: replicas, names, TLS."""

import signal
from contextlib import asynccontextmanager

import pytest
from certificates import issue
from daemon import running_daemon
from eldr_conformance.driver import Driver
from languages import needs_node
from node_consumer import NodeConsumer
from programs import node, node_package
from wire import Client

pytestmark = [needs_node, pytest.mark.timeout(900)]

TOKENS = '[[tokens]]\nname = "t"\ntoken = "0123456789abcdef"\nroles = ["admin"]\n'
OVER_TLS = """
import { readFileSync } from "node:fs";
import { RouterClient } from "eldr-client";

type Five = [string, string, string, string, string];
const [port, ca, cert, key, token] = process.argv.slice(2) as Five;
const whole = { ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key) };
const servername = "127.0.0.1"; // as the certificate has it
for (const [host, tls] of [
  ["127.0.0.1", whole],
  ["dns:///localhost", { ...whole, servername }],
  ["dns:///localhost", whole],
  ["127.0.0.1", { ca: whole.ca }],
  ["127.0.0.1", true],
] as const) {
  await using client = new RouterClient(`${host}:${port}`, { tls, token, timeout: 5000 });
  const request = { model: "m", requestId: "r", dryRun: true };
  console.log(await client.route(request).then(({ workerId }) => workerId, (error) => error.name));
}
"""


@asynccontextmanager
async def client_of(target: str):
    """A function that has the client place requests, each a dry run, and gives the workers."""
    driver = await Driver.start(node())
    try:
        await driver.ask({"call": "open", "target": target, "timeout": 20})

        async def placed(times: int) -> list[str]:
            request = {"call": "route", "model": "m", "request_id": "r", "dry_run": True}
            answers = [await driver.ask(request) for _ in range(times)]
            return [answer["result"]["worker_id"] for answer in answers]

        yield placed
        assert await driver.end() == 0
    finally:
        await driver.kill()


async def test_a_replica_that_drains_gets_no_calls():
    with (
        running_daemon("--drain-seconds", "60") as one,
        running_daemon() as other,
        Client(one.grpc) as at_one,
        Client(other.grpc) as at_other,
    ):
        at_one.register("m", "of one")
        at_other.register("m", "of the other")
        async with client_of(f"{one.grpc},{other.grpc}") as placed:
            seen: set[str] = set()
            while seen != {"of one", "of the other"}:
                seen |= set(await placed(2))
            at_one.route("m", "booked")  # it drains until this ends
            one.process.send_signal(signal.SIGTERM)
            while "of one" in await placed(4):
                pass
            assert set(await placed(20)) == {"of the other"}
            assert at_one.booked("m") == 1  # it serves still, but not new calls
        at_one.release("m", "booked")


async def test_all_addresses_of_a_name_are_replicas():
    """localhost may have an address where no daemon listens."""
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "w")
        port = daemon.grpc.rpartition(":")[2]
        async with client_of(f"dns:///localhost:{port}") as placed:
            assert await placed(5) == ["w"] * 5


def test_tls_of_both_sides_and_a_token(tmp_path):
    authority = issue("authority")
    ca, _ = authority.write(tmp_path, "ca")
    cert, key = issue("router", authority).write(tmp_path, "router")
    (tmp_path / "tokens.toml").write_text(TOKENS)
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(ca))
    (tmp_path / "consumer").mkdir()
    consumer = NodeConsumer(node_package(), tmp_path / "consumer")
    consumer.compile(OVER_TLS)
    with running_daemon(*flags, "--tokens", str(tmp_path / "tokens.toml")) as daemon:
        port = daemon.grpc.rpartition(":")[2]
        said = consumer.run(port, str(ca), str(cert), str(key), "0123456789abcdef")
    # With a certificate, the router's own answer: it knows no such model.
    assert said.split() == ["RefusedError"] * 2 + ["RouterUnavailableError"] * 3
