"""What docs/discovery.md tells people to run and to grant is what works and is needed."""

import re
import shlex
import time
from pathlib import Path

import pytest
from dns_server import DnsServer
from fleet_states import become, discovering
from kubernetes_server import KINDS, KubernetesServer, endpoint

from eldr_service.server.config import load_settings
from eldr_service.server.discovery.fleet_file import FleetFile
from eldr_service.server.origins import KEYS

PAGE = (Path(__file__).parents[3] / "docs" / "discovery.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line)
    for line in PAGE.replace("\\\n", " ").splitlines()
    if line.startswith("eldr-server ")
]


def test_the_fleet_file(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    ((model, worker),) = FleetFile(path, default_capacity=1).read()
    assert (model, worker) == ("Qwen3-30B-A3B", "decode-0")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_are_understood(command):
    load_settings(command[1:])


def test_there_are_commands():
    assert len(COMMANDS) == 4


def test_every_key_is_explained():
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| ", PAGE, re.M)
    told = [key for row in rows for key in re.findall(r"`([\w-]+)`", row) if key in KEYS]
    assert sorted(told) == sorted(KEYS)


def test_kubernetes_as_told_with_the_role_as_told():
    """The server asks for what the Role grants, and for nothing else."""
    (command,) = (c for c in COMMANDS if "serving/decode" in " ".join(c))
    options = [word.replace("serving/", "ns/") for word in command[1:]]
    granted = set()
    for group, resource, verbs in re.findall(
        r"apiGroups: \[(.*?)\], resources: \[(.*?)\], verbs: \[(.*?)\]", PAGE
    ):
        base = "/api/v1" if group == '""' else f"/apis/{group}/v1"
        kind = KINDS[f"{base}/namespaces/ns/{resource}"]
        granted |= {(kind, verb) for verb in verbs.split(", ")}
    with KubernetesServer() as server:
        for service in ("decode", "prefill"):
            server.put_service(service)
            server.put_slice(service, [endpoint(f"{service}-0", "10.0.0.1")], service=service)
        asked = set()
        with discovering(*options, "--kubernetes-api", server.url) as (_, client):
            become(client, {"decode-0": "READY", "prefill-0": "READY"})
            deadline = time.monotonic() + 30  # the workers are there before all watches are
            while not asked >= granted and time.monotonic() < deadline:
                time.sleep(0.05)
                asked = {
                    (kind, "watch" if "watch" in query else "list") for kind, query in server.asked
                }
    assert asked == granted


def test_dns_as_told():
    *_, srv, addresses = COMMANDS
    with DnsServer() as server:
        server.put("_http._tcp.decode.example", "SRV", "0 0 8000 d0.example.")
        for number, name in enumerate(("decode", "prefill")):
            server.put(f"{name}.serving.svc.cluster.local", "A", f"10.0.0.{number}")
        at = "--dns-server", server.address
        with discovering(*srv[1:], *at) as (_, client):
            become(client, {"d0.example:8000": "READY"})
        with discovering(*addresses[1:], *at) as (_, client):
            become(client, {"10.0.0.0:8000": "READY", "10.0.0.1:8000": "READY"})
