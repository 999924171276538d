"""The compose file and the systemd unit: what they start is started, as they say it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import yaml
from charts import DEPLOY
from daemon import running_daemon
from eldr.v1 import fleet_pb2, fleet_pb2_grpc
from eldr_client import RouterClient
from eldr_client.errors import NotFoundError
from jsonschema import Draft7Validator
from languages import needs_go
from redis_server import RedisServer, needs_redis
from wire import eventually

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNIT = DEPLOY / "eldr-server.service"
COMPOSE_SPEC = "github.com/compose-spec/compose-go/v2@v2.4.7"
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt install systemd"
)


@needs_go
def test_the_compose_file_is_what_the_specification_allows(tmp_path):
    download = ["go", "mod", "download", "-json", COMPOSE_SPEC]
    found = subprocess.run(download, cwd=tmp_path, check=True, capture_output=True, text=True)
    schema = json.loads(
        Path(json.loads(found.stdout)["Dir"], "schema/compose-spec.json").read_text()
    )
    assert not [error.message for error in Draft7Validator(schema).iter_errors(COMPOSE)]
    wrong = {**COMPOSE, "services": {"eldr": {"comand": []}}}
    assert list(Draft7Validator(schema).iter_errors(wrong))


def flags_of(service, hosts):
    """A service's command line, with addresses of this test in place of its network's names."""
    line = COMPOSE["services"][service]["command"]
    for name, address in hosts.items():
        line = [word.replace(name, address) for word in line]
    return line


@needs_redis
def test_the_composed_replicas_are_one_router_and_the_proxy_finds_them(tmp_path):
    redis = RedisServer(tmp_path)
    port = {"valkey:6379": f"127.0.0.1:{redis.port}", "0.0.0.0:50051": "127.0.0.1:0",
            "0.0.0.0:9464": "127.0.0.1:0"}  # fmt: skip
    words = [[word for flag in flags_of(name, port) for word in flag.split("=", 1)]
             for name in ("eldr-a", "eldr-b")]  # fmt: skip
    try:
        with running_daemon(*words[0]) as a, running_daemon(*words[1]) as b:
            with grpc.insecure_channel(a.grpc) as channel:
                fleet_pb2_grpc.FleetServiceStub(channel).RegisterWorker(
                    fleet_pb2.RegisterWorkerRequest(worker_id="w", model="m", url="http://w")
                )
            with RouterClient(b.grpc, timeout=5) as there, RouterClient(a.grpc, timeout=5) as here:
                eventually(lambda: not there.route("m", "seen", dry_run=True).is_fallback)
                placement = there.route("m", "r")
                assert here.route("m", "r").lease_id == placement.lease_id
            hosts = {"eldr-a:50051": a.grpc, "eldr-b:50051": b.grpc, "0.0.0.0:8000": "127.0.0.1:0"}
            proxy = flags_of("proxy", hosts)
            with (tmp_path / "proxy").open("wb") as log:
                code = "from eldr_vllm.proxy.cli import main; main()"
                process = subprocess.Popen(
                    [sys.executable, "-c", code, *proxy], stderr=log, stdout=log
                )
            try:
                eventually(lambda: "Running on" in (tmp_path / "proxy").read_text())
            finally:
                process.terminate()
                process.wait(20)
    finally:
        redis.process.terminate()
        redis.process.wait(20)


def test_a_container_may_write_only_where_its_service_says():
    for name in ("eldr-a", "eldr-b", "proxy"):
        service = COMPOSE["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_units_command_serves(tmp_path):
    [line] = re.findall("^ExecStart=(.*)", UNIT.read_text(), re.M)
    program, *words = line.replace("/etc/eldr", str(DEPLOY)).replace("%S", str(tmp_path)).split()
    assert program.endswith("/bin/eldr-server")
    ports = "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"
    with (
        running_daemon(*ports, *words) as daemon,
        RouterClient(daemon.grpc, timeout=5) as client,
        pytest.raises(NotFoundError),
    ):
        client.renew("m", [])
    assert list((tmp_path / "eldr").iterdir())


@needs_systemd
def test_systemd_reads_the_unit(tmp_path):
    text = UNIT.read_text().replace("/opt/eldr/bin/eldr-server", shutil.which("true"))
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    said = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert UNIT.name not in said.stderr, said.stderr
    unit.write_text(text.replace("DynamicUser", "DynamicUsr"))
    assert "DynamicUsr" in subprocess.run(verify, capture_output=True, text=True).stderr
