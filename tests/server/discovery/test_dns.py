"""Workers by DNS, over real UDP and TCP."""

import subprocess
import sys
import time

import pytest
from dns_server import DnsServer
from eldr.v1 import fleet_pb2
from fleet_states import become, discovering, said, states
from wire import eventually

FAILED = "source not read, or not in full: its last known workers stay"
HEADLESS = "decode.test:model=m,port=8000"
SRV = "_http._tcp.decode.test:model=m"
TWO = {"10.0.0.1:8000": "READY", "10.0.0.2:8000": "READY"}


@pytest.fixture
def server():
    with DnsServer() as server:
        yield server


def found_by(server, names=HEADLESS, every="0.2", *flags, **options):
    dns = "--dns", names, "--dns-server", server.address, "--dns-interval", every
    return discovering(*dns, *flags, **options)


@pytest.fixture
def served(server):
    server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")
    with found_by(server) as (daemon, client):
        yield daemon, client


def test_each_address_of_a_headless_service_is_a_worker(server, served):
    _, client = served
    assert states(client) == TWO
    assert client.workers("m")["10.0.0.2:8000"].url == "http://10.0.0.2:8000"
    server.put("decode.test", "A", "10.0.0.2", "10.0.0.3")
    become(client, {"10.0.0.2:8000": "READY", "10.0.0.3:8000": "READY"})


def test_one_that_is_there_no_more_finishes_what_it_has(server, served):
    _, client = served
    client.route("m", "r", pinned_worker="10.0.0.1:8000")
    server.put("decode.test", "A", "10.0.0.2")
    become(client, {"10.0.0.1:8000": "DRAINING", "10.0.0.2:8000": "READY"})
    client.release("m", "r")
    become(client, {"10.0.0.2:8000": "READY"})


def test_addresses_of_the_sixth_version_where_there_are_no_others(server):
    server.put("decode.test", "AAAA", "fd00::1", "fd00::2")
    with found_by(server) as (_, client):
        become(client, {"[fd00::1]:8000": "READY", "[fd00::2]:8000": "READY"})
        assert client.workers("m")["[fd00::1]:8000"].url == "http://[fd00::1]:8000"
        server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")  # the same pods, as a rule
        become(client, TWO)


def test_srv_records_have_hosts_and_ports(server):
    name = "_http._tcp.decode.test"
    server.put(name, "SRV", "0 50 8000 Vllm-0.decode.test.", "10 50 8001 vllm-1.decode.test.")
    traits = ",role=prefill,group=g,sequences=7,scheme=https"
    with found_by(server, SRV + traits) as (_, client):
        workers = client.workers("m")
        urls = {name: worker.url for name, worker in workers.items()}
        assert urls == {
            "vllm-0.decode.test:8000": "https://vllm-0.decode.test:8000",
            "vllm-1.decode.test:8001": "https://vllm-1.decode.test:8001",
        }
        worker = workers["vllm-0.decode.test:8000"]
        assert (worker.role, worker.group) == (fleet_pb2.WORKER_ROLE_PREFILL, "g")
        assert worker.capacity.sequences == 7
        server.put(name, "SRV", "0 0 0 .")  # no such service, says RFC 2782
        become(client, {})


def test_an_answer_too_long_for_udp_comes_by_tcp(server):
    server.put("decode.test", "A", *(f"10.1.{n // 100}.{n % 100}" for n in range(300)))
    with found_by(server) as (_, client):
        assert len(states(client)) == 300
        assert server.asked[:2] == [("UDP", "A"), ("TCP", "A")]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "silence"])
def test_a_failure_leaves_the_last_good_answer_in_force(server, served, rcode):
    daemon, client = served
    asked = len(server.asked)
    server.rcode, server.is_silent = ("NOERROR", True) if rcode == "silence" else (rcode, False)
    eventually(lambda: said(daemon, FAILED))
    assert "decode.test" in said(daemon, FAILED)[0]["error"]
    eventually(lambda: len(server.asked) > asked + 4)  # far more than empty answers may be
    assert states(client) == TWO
    server.rcode, server.is_silent = "NOERROR", False
    eventually(lambda: said(daemon, "source read again"))
    assert states(client) == TWO


@pytest.mark.parametrize("exists", [True, False], ids=["no records", "no such name"])
def test_an_empty_answer_is_believed_after_several(server, exists):
    server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")
    with found_by(server, every="0.5") as (daemon, client):
        assert states(client) == TWO

        def empty():
            server.put("decode.test", "A")
            if not exists:
                server.drop("decode.test")

        empty()
        eventually(lambda: said(daemon, FAILED))
        server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")  # in time
        eventually(lambda: said(daemon, "source read again"))
        assert not said(daemon, "worker drained")
        began = time.monotonic()
        empty()
        become(client, {})
        assert time.monotonic() - began > 0.9  # two more looks
        error = said(daemon, FAILED)[-1]["error"]
        expected = "has no A or AAAA records" if exists else "does not exist"
        assert error == f"decode.test {expected}; believed after 3 such answers in a row"


def test_failures_between_do_not_count_as_empty(server):
    server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")
    with found_by(server, every="0.3") as (daemon, client):
        server.rcodes += ["NXDOMAIN", "NXDOMAIN", "SERVFAIL"] * 3
        eventually(lambda: not server.rcodes)
        eventually(lambda: said(daemon, "source read again"))
        assert states(client) == TWO
        assert not said(daemon, "worker drained")


def test_the_time_to_live_says_when_to_look_again(server):
    server.put("decode.test", "A", "10.0.0.1", ttl=3)
    with found_by(server, every="60") as (_, client):
        became = time.monotonic()
        asked = len(server.asked)
        server.put("decode.test", "A", "10.0.0.1", "10.0.0.2", ttl=600)
        time.sleep(1.5)
        assert len(server.asked) == asked
        become(client, TWO)
        assert 1.5 < time.monotonic() - became < 20
        server.put("decode.test", "A", "10.0.0.1", ttl=600)
        time.sleep(1.5)
        assert (
            states(client) == TWO
        )  # the answer before is good for ten minutes, and for --dns-interval


def test_several_names(server):
    server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")
    server.put("_http._tcp.prefill.test", "SRV", "0 0 9000 p.test.")
    names = f"{HEADLESS};_http._tcp.prefill.test:model=m,role=prefill"
    with found_by(server, names) as (_, client):
        become(client, {**TWO, "p.test:9000": "READY"})


def test_one_that_registers_itself_by_the_same_id_is_its_own_master(server, served):
    """ELDR's connector goes by host and port unless it is told otherwise."""
    _, client = served
    life = client.register("m", "10.0.0.1:8000", url="http://10.0.0.1:8000", group="own")
    server.put("decode.test", "A", "10.0.0.1", "10.0.0.3")
    become(client, {"10.0.0.1:8000": "READY", "10.0.0.3:8000": "READY"})
    own = client.workers("m")["10.0.0.1:8000"]
    assert (own.incarnation, own.group) == (life, "own")


def test_without_its_library_it_says_what_is_missing():
    program = "import sys; sys.modules['dns'] = None; from eldr_service.server import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--dns", HEADLESS, "--state", ":memory:"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last == "eldr-server: --dns needs the package dnspython: pip install dnspython"
