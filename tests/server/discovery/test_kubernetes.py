"""Workers behind Services of Kubernetes, by the API's real protocol over sockets."""

import time
import urllib.request

import pytest
from certificates import issue
from eldr.v1 import fleet_pb2
from fleet_states import become, discovering, said, states
from kubernetes_server import KubernetesServer, endpoint
from wire import LAYERS, eventually

FAILED = "source not read, or not in full: its last known workers stay"
GEOMETRY = f"{LAYERS}x16x2"


@pytest.fixture
def server():
    with KubernetesServer() as server:
        server.put_service()
        server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1"), endpoint("p1", "10.0.0.2")])
        yield server


def found_by(server, where="ns/vllm:model=m", *flags, **options):
    address = "--kubernetes-api", server.url
    return discovering("--kubernetes", where, *address, *flags, **options)


@pytest.fixture
def served(server):
    with found_by(server, f"ns/vllm:model=m,geometry={GEOMETRY}") as (daemon, client):
        yield daemon, client


def lists(server, kind="slice"):
    return [query for what, query in server.asked if what == kind and "watch" not in query]


def watches(server, kind="slice"):
    return [query for what, query in server.asked if what == kind and "watch" in query]


def test_ready_pods_are_workers_from_the_start(server, served):
    _, client = served
    assert states(client) == {"p0": "READY", "p1": "READY"}  # when it begins to serve
    worker = client.workers("m")["p1"]
    assert (worker.url, worker.role) == ("http://10.0.0.2:8000", fleet_pb2.WORKER_ROLE_DECODE)
    assert worker.capacity.sequences == 256
    assert client.route("m", "r").worker_id == "p0"
    assert lists(server)[0]["labelSelector"] == "kubernetes.io/service-name=vllm"
    assert lists(server, "service")[0]["fieldSelector"] == "metadata.name=vllm"


def test_a_pods_life(server, served):
    """Not ready at first, ready, not ready for a while, terminating, gone."""
    daemon, client = served
    other = endpoint("p1", "10.0.0.2")

    def p0(**conditions):
        server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1", **conditions), other])

    server.put_slice("vllm-2", [endpoint("new", "10.0.0.3", ready=False)])
    become(client, {"new": "JOINING", "p0": "READY", "p1": "READY"})
    server.put_slice("vllm-2", [endpoint("new", "10.0.0.3")])
    become(client, {"new": "READY", "p0": "READY", "p1": "READY"})
    server.delete("slice", "vllm-2")
    become(client, {"p0": "READY", "p1": "READY"})
    client.route("m", "r", pinned_worker="p0")
    life = client.workers("m")["p0"].incarnation
    p0(ready=False)
    become(client, {"p0": "DRAINING", "p1": "READY"})
    assert client.route("m", "s").worker_id == "p1"
    p0(ready=True)
    become(client, {"p0": "READY", "p1": "READY"})
    kept = client.workers("m")["p0"]
    assert (kept.incarnation, kept.booked_sequences) == (life, 1)
    p0(ready=False, serving=True, terminating=True)
    become(client, {"p0": "DRAINING", "p1": "READY"})
    p0(ready=False, serving=False, terminating=True)
    time.sleep(1.0)
    assert states(client) == {"p0": "DRAINING", "p1": "READY"}  # its last booking is not over
    client.release("m", "r")
    become(client, {"p1": "READY"})
    server.delete("slice", "vllm-1")
    eventually(lambda: client.workers("m") == {} or states(client) == {"p1": "DRAINING"})
    client.release("m", "s")
    become(client, {})
    of_p0 = [line for line in daemon.logs if line.get("worker") == "p0" and "why" in line]
    events = [(line["event"], line["why"]) for line in of_p0]
    assert events == [
        ("worker joined", "found"),
        ("worker drained", "not ready"),
        ("worker takes requests", "ready"),
        ("worker drained", "about to end"),
        ("worker removed", "no bookings are left"),
    ]


def test_a_change_is_there_at_once(server, served):
    _, client = served
    began = time.monotonic()
    server.put_slice("vllm-2", [endpoint("p2", "10.0.0.3")])
    become(client, {"p0": "READY", "p1": "READY", "p2": "READY"})
    assert time.monotonic() - began < 5
    assert len(lists(server)) == 1


def test_lists_of_many_pages(server):
    server.page = 2
    for number in range(5):
        server.put_slice(f"more-{number}", [endpoint(f"q{number}", f"10.0.1.{number}")])
    with found_by(server) as (_, client):
        assert len(states(client)) == 2 + 5
        assert [query.get("continue") for query in lists(server)] == [None, "2", "4"]


def test_a_connection_cut_in_the_middle_of_a_line(server, served):
    daemon, client = served
    server.put_slice("vllm-2", [endpoint("p2", "10.0.0.3")])
    become(client, {"p0": "READY", "p1": "READY", "p2": "READY"})
    server.cut()
    server.put_slice("vllm-2", [endpoint("p3", "10.0.0.4")])
    become(client, {"p0": "READY", "p1": "READY", "p3": "READY"})
    assert len(lists(server)) == 1  # it went on where it was
    first, *_, last = watches(server)
    assert int(last["resourceVersion"]) > int(first["resourceVersion"])
    assert "ClientPayloadError" in said(daemon, FAILED)[0]["error"]
    eventually(lambda: said(daemon, "source read again"))


def test_a_bookmark_moves_on_what_a_watch_begins_with(server, served):
    eventually(lambda: len(watches(server)) == 1)
    assert watches(server)[0]["allowWatchBookmarks"] == "true"
    before = int(watches(server)[0]["resourceVersion"])
    server.bookmark()
    time.sleep(0.5)
    server.cut()
    eventually(lambda: len(watches(server)) == 2)
    assert int(watches(server)[1]["resourceVersion"]) == before + 1


@pytest.mark.parametrize("cut", [True, False], ids=["asked with an old version", "in the stream"])
def test_a_version_that_is_too_old_leads_to_another_list(server, served, cut):
    daemon, client = served
    eventually(lambda: len(watches(server)) == 1 and len(watches(server, "service")) == 1)
    server.forget()
    if cut:
        server.cut()
    server.put_slice("vllm-1", [endpoint("p9", "10.0.0.9")])
    become(client, {"p9": "READY"})
    assert len(lists(server)) == 2
    if not cut:
        assert not said(daemon, FAILED)  # that is how a watch goes


def test_a_watch_that_the_server_ends_begins_again(server):
    server.watch_seconds = 0.3
    with found_by(server) as (daemon, client):
        eventually(lambda: len(watches(server)) >= 3)
        server.put_slice("vllm-2", [endpoint("p2", "10.0.0.3")])
        become(client, {"p0": "READY", "p1": "READY", "p2": "READY"})
        assert len(lists(server)) == 1
        assert not said(daemon, FAILED)


def test_tokens_rotate(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    with KubernetesServer(token="first") as server:
        server.put_service()
        server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1")])
        server.watch_seconds = 0.5
        with found_by(server, "ns/vllm:model=m", "--kubernetes-token", str(token)) as (
            daemon,
            client,
        ):
            become(client, {"p0": "READY"})
            server.token = "second"
            eventually(lambda: said(daemon, FAILED))
            assert "401 Unauthorized" in said(daemon, FAILED)[0]["error"]
            assert states(client) == {"p0": "READY"}
            token.write_text("second\n")
            server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1"), endpoint("p1", "10.0.0.2")])
            become(client, {"p0": "READY", "p1": "READY"})
            assert b"first" not in daemon.stderr_path.read_bytes()
            assert b"second" not in daemon.stderr_path.read_bytes().replace(b"seconds", b"")


def test_in_a_cluster_with_an_authority_of_its_own(tmp_path):
    """Host and port as a pod's variables tell them, over TLS that another authority cannot fake."""
    authority = issue("cluster")
    chain, key = issue("apiserver", authority).write(tmp_path, "apiserver")
    ca, _ = authority.write(tmp_path, "ca")
    token = tmp_path / "token"
    token.write_text("t0ken")
    with KubernetesServer(tls=(chain, key), token="t0ken") as server:
        server.put_service()
        server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1")])
        files = "--kubernetes-token", str(token), "--kubernetes-ca", str(ca)
        env = {
            "KUBERNETES_SERVICE_HOST": server.host,
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        with discovering("--kubernetes", "ns/vllm:model=m", *files, env=env) as (daemon, client):
            become(client, {"p0": "READY"})
            assert len(watches(server)) == 1
            eventually(lambda: watches(server, "service"))
            server.asked.clear()
            ca.write_bytes(issue("somebody else").chain)  # read for every request, as the token is
            server.cut()
            eventually(lambda: "Certificate" in " ".join(e["error"] for e in said(daemon, FAILED)))
            assert not server.asked
            assert states(client) == {"p0": "READY"}


def test_no_cluster_no_start():
    with pytest.raises(RuntimeError) as refused, discovering("--kubernetes", "ns/vllm:model=m"):
        pass
    assert "eldr-server: --kubernetes: not in a pod" in str(refused.value)
    assert "give --kubernetes-api" in str(refused.value)


def test_a_server_that_refuses_is_asked_again_and_the_daemon_serves(server):
    """What it lacks are the workers, which come as soon as they are known."""
    server.status = 403
    with found_by(server) as (daemon, client):
        assert states(client) == {}
        assert "403 told to" in said(daemon, FAILED)[0]["error"]
        (line,) = said(daemon, "source not read yet: its workers of an earlier run stay")
        assert line["workers"] == 0
        text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
        assert 'eldr_discovery_up{source="kubernetes:ns/vllm"} 0.0' in text
        server.status = 200
        become(client, {"p0": "READY", "p1": "READY"}, seconds=60)
        text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
        assert 'eldr_discovery_up{source="kubernetes:ns/vllm"} 1.0' in text
        assert 'eldr_discovery_workers{source="kubernetes:ns/vllm"} 2.0' in text


def test_what_services_and_slices_say_of_their_workers(server):
    """Annotations over labels, a slice over its Service, both over the option."""
    labels = {"pool": "big", "eldr/role": "prefill", "eldr/group": "g", "helm.sh/chart": "c"}
    server.put_service(
        "decode",
        labels=labels,
        annotations={"eldr/model": "org/model", "eldr/role": "decode", "eldr/sequences": "64"},
    )
    server.put_slice(
        "decode-x",
        [endpoint("d0", "10.0.0.7", nodeName="node-3", zone="z1")],
        service="decode",
        labels={**labels, "endpointslice.kubernetes.io/managed-by": "controller"},  # as it does
        annotations={"eldr/sequences": "32", "eldr/kv-tokens": "4096"},
        ports=[("metrics", 9000), ("http", 8000)],
    )
    server.put_service("prefill", labels={"pool": "big"}, annotations={"eldr/role": "prefill"})
    server.put_slice(
        "prefill-x", [endpoint("f0", "10.0.0.8")], service="prefill", labels={"pool": "big"}
    )
    where = f"ns/pool=big:model=other,group=o,geometry={GEOMETRY},scheme=https"
    with found_by(server, where) as (_, client):
        workers = client.workers()
        assert workers.keys() == {"d0", "f0"}
        d0, f0 = workers["d0"], workers["f0"]
        assert (d0.model, d0.group, d0.url) == ("org/model", "g", "https://10.0.0.7:8000")
        assert d0.role == fleet_pb2.WORKER_ROLE_DECODE
        assert (d0.capacity.sequences, d0.capacity.kv_tokens) == (32, 4096)
        assert dict(d0.labels) == {
            "pool": "big", "helm.sh/chart": "c", "node": "node-3", "zone": "z1"
        }  # fmt: skip
        assert (f0.model, f0.group, f0.role) == ("other", "o", fleet_pb2.WORKER_ROLE_PREFILL)
        server.put_service("prefill", labels={"pool": "big"}, annotations={"eldr/role": "decode"})
        eventually(lambda: client.workers()["f0"].role == fleet_pb2.WORKER_ROLE_DECODE)


def test_a_wrong_annotation_holds_up_nobody_else(server, served):
    daemon, client = served
    server.put_slice("vllm-1", [endpoint("p7", "10.0.0.7")], annotations={"eldr/geometry": "large"})
    server.put_slice("vllm-2", [endpoint("p2", "10.0.0.3")])
    become(client, {"p0": "READY", "p1": "READY", "p2": "READY"})
    (line,) = said(daemon, FAILED)
    expected = "expected LAYERSxEXPERTSxTOP_K such as 48x128x8, found large"
    assert line["error"] == f"EndpointSlice vllm-1: geometry: {expected}"
    server.put_slice("vllm-1", [endpoint("p7", "10.0.0.7")])
    become(client, {"p7": "READY", "p2": "READY"})
    eventually(lambda: said(daemon, "source read again"))


def test_pods_with_two_families_are_one_worker_each(server):
    six = [endpoint("p0", "fd00::1"), endpoint("p6", "fd00::6")]
    server.put_slice("a-six", six, addressType="IPv6")
    with found_by(server) as (_, client):
        urls = {name: worker.url for name, worker in client.workers("m").items()}
        assert urls == {
            "p0": "http://10.0.0.1:8000",
            "p1": "http://10.0.0.2:8000",
            "p6": "http://[fd00::6]:8000",
        }


def test_an_endpoint_that_moves_between_slices_stays(server, served):
    """It is in both for a while, or in none of one list, and may be less ready in the old one."""
    daemon, client = served
    life = client.workers("m")["p0"].incarnation
    server.put_slice("vllm-2", [endpoint("p0", "10.0.0.1")])
    server.put_slice(
        "vllm-1", [endpoint("p0", "10.0.0.1", ready=False), endpoint("p1", "10.0.0.2")]
    )
    server.put_slice("vllm-1", [endpoint("p1", "10.0.0.2")])
    server.put_slice("vllm-3", [endpoint("p3", "10.0.0.4")])
    become(client, {"p0": "READY", "p1": "READY", "p3": "READY"})
    assert client.workers("m")["p0"].incarnation == life
    assert not said(daemon, "worker drained")


def test_a_pod_that_registers_itself_is_its_own_master(server, served):
    _, client = served
    life = client.register("m", "p0", url="http://own:1")
    server.put_slice("vllm-1", [endpoint("p0", "10.0.0.1"), endpoint("p9", "10.0.0.9")])
    become(client, {"p0": "READY", "p9": "READY"})
    own = client.workers("m")["p0"]
    assert (own.incarnation, own.url) == (life, "http://own:1")
    ending = endpoint("p0", "10.0.0.1", ready=False, serving=True, terminating=True)
    server.put_slice("vllm-1", [ending, endpoint("p9", "10.0.0.9")])
    become(client, {"p0": "DRAINING", "p9": "READY"})


def test_bookings_on_pods_survive_a_crash_of_the_daemon(server, tmp_path):
    flags = "--state", str(tmp_path / "state")
    with found_by(server, "ns/vllm:model=m", *flags) as (daemon, client):
        placement = client.route("m", "r", pinned_worker="p1")
        daemon.process.kill()
        daemon.process.wait()
    with found_by(server, "ns/vllm:model=m", *flags) as (_, client):
        assert client.workers("m")["p1"].booked_sequences == 1
        assert client.release("m", "r", lease_id=placement.lease_id) == "RELEASED"
        assert client.booked("m") == 0


def test_a_restart_while_the_api_server_is_away_goes_on_with_what_was_known(server, tmp_path):
    flags = "--state", str(tmp_path / "state")
    where = f"ns/vllm:model=m,geometry={GEOMETRY},sequences=7,group=g"
    with found_by(server, where, *flags) as (daemon, client):
        client.route("m", "r", pinned_worker="p1")
        before = client.workers("m")
        time.sleep(3)  # it is kept every two seconds
        daemon.process.kill()
        daemon.process.wait()
    server.status = 503
    with found_by(server, where, *flags) as (daemon, client):
        (line,) = said(daemon, "source not read yet: its workers of an earlier run stay")
        assert line["workers"] == 2
        after = client.workers("m")
        for name, worker in after.items():
            worker.incarnation = before[name].incarnation
        assert after == before  # the booking on p1 included
        server.put_slice("vllm-1", [endpoint("p1", "10.0.0.2"), endpoint("p2", "10.0.0.3")])
        server.status = 200
        become(client, {"p1": "READY", "p2": "READY"}, seconds=60)
        assert client.workers("m")["p1"].booked_sequences == 1
        assert client.release("m", "r") == "RELEASED"


def test_two_services_at_once(server):
    server.put_service("prefill")
    server.put_slice("prefill-1", [endpoint("f0", "10.0.2.1")], service="prefill")
    where = "ns/vllm:model=m;ns/prefill:model=m,role=prefill"
    with found_by(server, where) as (_, client):
        become(client, {"p0": "READY", "p1": "READY", "f0": "READY"})
        assert client.workers("m")["f0"].role == fleet_pb2.WORKER_ROLE_PREFILL


def test_what_two_sources_have_belongs_to_the_first(server, tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text('[[workers]]\nmodel = "m"\nworker_id = "p0"\nurl = "http://file"\n')
    with found_by(server, "ns/vllm:model=m", "--fleet", str(path)) as (daemon, client):
        become(client, {"p0": "READY", "p1": "READY"})
        (line,) = said(daemon, "worker not taken")
        owner = "kubernetes:ns/vllm" if line["source"] == "fleet-file" else "fleet-file"
        assert line["why"] == f"{owner} has a worker of that model and id already"
        if owner == "fleet-file":
            path.write_text('[[workers]]\nmodel = "m"\nworker_id = "p8"\nurl = "http://file"\n')
        else:
            server.put_slice("vllm-1", [endpoint("p1", "10.0.0.2")])
        other = "http://10.0.0.1:8000" if owner == "fleet-file" else "http://file"
        eventually(lambda: (w := client.workers("m").get("p0")) and w.url == other)
