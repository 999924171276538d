"""What is the C++ client's own: how held placements end, threads, stop tokens, TLS, addresses."""

import signal
import subprocess
from collections import defaultdict

import certificates
import grpc
import pytest
from daemon import running_daemon
from eldr.v1.activation_pb2 import ModelGeometry
from eldr_conformance.driver import Driver
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from languages import needs_cpp
from programs import build_cpp
from scripted_router import ScriptedRouter
from wire import Client, eventually

pytestmark = [needs_cpp, pytest.mark.timeout(900)]  # gRPC's headers are compiled


@pytest.fixture
def router():
    router = ScriptedRouter()
    yield router
    router.stop()


def scenario(name, target, *more):
    return subprocess.run(
        [build_cpp() / "eldr-client-scenarios", name, target, *more],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_held_placement_is_released_once_with_how_it_ended(router):
    done = scenario("ends", router.start().target)
    assert done.returncode == 0, done.stdout
    outcomes = defaultdict(list)
    for release in router.requests("Release"):
        outcomes[release.request_id].append(release.outcome)
    completed, failed, cancelled = [1], [2], [3]
    assert outcomes == {
        "done on the spot": completed,
        "done, then destroyed": completed,
        "left": cancelled,
        "thrown through": failed,
        "given up": cancelled,
        "moved": completed,
        "moved too": completed,
        "overwritten": cancelled,
        "overwriting": completed,
    }
    [told] = [r for r in router.requests("Release") if r.request_id == "done, then destroyed"]
    assert (told.output_tokens, told.decode_duration.ToMilliseconds()) == (7, 1500)
    assert told.lease_id == "lease-done, then destroyed-0"


def test_threads_share_a_client():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", geometry=ModelGeometry(num_layers=2, num_experts=2, top_k=2))
        done = scenario("threads", daemon.grpc)
        assert done.returncode == 0, done.stdout
        assert client.booked("m") == 0


def test_a_stop_token_ends_a_message_of_the_stream_and_its_booking(router):
    router.script["StreamSignatures"] = router.hang
    done = scenario("stops", router.start().target)
    assert done.stdout == "cancelled\n"
    [release] = router.requests("Release")
    assert (release.request_id, release.outcome) == ("r", 3)


def test_tls_and_a_token(router, tmp_path):
    authority = certificates.issue("authority")
    served = certificates.issue("router", authority)
    roots, _ = authority.write(tmp_path, "authority")
    router.start(grpc.ssl_server_credentials([(served.key, served.chain)]))
    done = scenario("route", router.target, roots, "secret")
    assert done.stdout == "w0 0\n"
    assert router.metadata[0]["authorization"] == "Bearer secret"
    other, _ = certificates.issue("another").write(tmp_path, "another")
    assert "the router does not answer" in scenario("route", router.target, other).stderr


@pytest.mark.parametrize(
    "target", ["localhost:{0}", "dns:///localhost:{0}", "no.such.host.invalid:1, 127.0.0.1:{0}"]
)
def test_names_are_addresses_too(router, target):
    router.start()
    assert scenario("route", target.format(router.port)).stdout == "w0 0\n"


def test_addresses_of_version_6():
    with running_daemon("--listen", "[::1]:0") as daemon, Client(daemon.grpc) as client:
        client.register("m")
        assert scenario("route", daemon.grpc).stdout == "w0 0\n"
        assert scenario("route", f"127.0.0.1:1,{daemon.grpc}").stdout == "w0 0\n"


@pytest.mark.parametrize(
    "target", ["", "host", "host:0", "host:65536", "::1:1", "a:1,,b:2", "a b:1"]
)
def test_a_target_that_is_none_is_refused(target):
    done = scenario("route", target)
    assert done.returncode == 1
    assert done.stdout.startswith("expected HOST:PORT with a port from 1 to 65535")
    assert f'in "{target}"' in done.stdout


async def test_a_draining_replica_gets_no_new_calls():
    with (
        running_daemon("--drain-seconds", "60") as leaving,
        running_daemon() as staying,
        Client(leaving.grpc) as leaver,
        Client(staying.grpc) as stayer,
    ):
        leaver.register("m", "leaving")
        stayer.register("m", "staying")
        leaver.route("m", "runs on")
        driver = await Driver.start([str(build_cpp() / "eldr-client-program")])
        try:
            target = f"{leaving.grpc},{staying.grpc}"
            await driver.ask({"call": "open", "target": target, "timeout": 20.0})

            async def workers(first, calls=6):
                command = {"call": "route", "model": "m"}
                answers = [
                    await driver.ask({**command, "request_id": f"r{number}"})
                    for number in range(first, first + calls)
                ]
                return {answer["result"]["worker_id"] for answer in answers}

            first = 0
            while await workers(first) != {"leaving", "staying"}:
                first += 6
            leaving.process.send_signal(signal.SIGTERM)
            not_serving = HealthCheckResponse.NOT_SERVING
            eventually(lambda: leaver.health.Check(HealthCheckRequest()).status == not_serving)
            while await workers(first) != {"staying"}:  # until the client has heard of it
                first += 6
            assert await workers(first + 6, 20) == {"staying"}
        finally:
            await driver.kill()
        leaver.release("m", "runs on")
        leaving.process.kill()
