"""The fleet file is followed while the daemon serves."""

import os
import signal
import time
import urllib.request

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from fleet_states import become, discovering, fleet_file, said, states
from wire import GEOMETRY, Refused, eventually

from eldr_service.server.discovery import SourceError
from eldr_service.server.discovery.fleet_file import FleetFile


def replace(path, text: str) -> None:
    """As editors and programs do: the new file gets the name in one step."""
    unfinished = path.with_name("unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(fleet_file("a", "b"))
    return path


@pytest.fixture
def served(path):
    with discovering("--fleet", str(path)) as (daemon, client):
        yield daemon, client


def metrics(daemon) -> list[str]:
    text = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
    return text.splitlines()


def test_workers_come_and_go_with_the_file(path, served):
    daemon, client = served
    assert states(client) == {"a": "READY", "b": "READY"}
    assert client.workers("m")["a"].url == "http://a:8000"
    assert client.workers("m")["a"].capacity.sequences == 9
    with Refused("FAILED_PRECONDITION"):
        client.register("m", "c", geometry=type(GEOMETRY)(num_layers=1, num_experts=1, top_k=1))
    client.route("m", "r", pinned_worker="a")
    client.route("m", "s", pinned_worker="b")
    began = time.monotonic()
    replace(path, fleet_file("a", "c"))
    become(client, {"a": "READY", "b": "DRAINING", "c": "READY"})
    assert time.monotonic() - began < 10  # two looks half a second apart, on a busy machine
    assert client.workers("m")["a"].booked_sequences == 1  # unchanged, so its life goes on
    assert client.release("m", "s") == "RELEASED"  # the last booking of b
    become(client, {"a": "READY", "c": "READY"})
    assert [(line["worker"], line["why"]) for line in said(daemon, "worker drained")] == [
        ("b", "no longer found")
    ]
    (removed,) = said(daemon, "worker removed")
    assert (removed["worker"], removed["source"]) == ("b", "fleet-file")
    assert removed["why"] == "no bookings are left"


def test_a_changed_worker_is_another_one(path, served):
    daemon, client = served
    before = client.workers("m")
    replace(path, fleet_file("a") + fleet_file("b").replace("b:8000", "b:9000"))
    eventually(lambda: client.workers("m")["b"].url == "http://b:9000")
    after = client.workers("m")
    assert after["a"] == before["a"]
    assert after["b"].incarnation > before["b"].incarnation
    assert [line["why"] for line in said(daemon, "worker joined")] == ["found", "found", "changed"]


def test_the_same_engine_with_other_labels_goes_on(path, served):
    _, client = served
    client.route("m", "r", pinned_worker="b")
    life = client.workers("m")["b"].incarnation
    replace(path, fleet_file("a") + fleet_file("b", labels='{ zone = "z" }').replace("= 9", "= 5"))
    eventually(lambda: client.workers("m")["b"].labels)
    changed = client.workers("m")["b"]
    assert (changed.incarnation, changed.booked_sequences) == (life, 1)
    assert changed.capacity.sequences == 5


def test_a_worker_that_comes_back_in_time_keeps_its_bookings(path, served):
    _, client = served
    client.route("m", "r", pinned_worker="b")
    life = client.workers("m")["b"].incarnation
    replace(path, fleet_file("a"))
    become(client, {"a": "READY", "b": "DRAINING"})
    replace(path, fleet_file("a", "b"))
    become(client, {"a": "READY", "b": "READY"})
    assert client.workers("m")["b"].incarnation == life
    assert client.workers("m")["b"].booked_sequences == 1
    assert client.route("m", "s", pinned_worker="b").worker_id == "b"


def test_the_drain_has_an_end(path):
    with discovering("--fleet", str(path), "--discovery-drain", "1") as (daemon, client):
        client.route("m", "r", pinned_worker="b")
        replace(path, fleet_file("a"))
        become(client, {"a": "READY"})
        (removed,) = said(daemon, "worker removed")
        assert (removed["why"], removed["ended_bookings"]) == (
            "its drain took too long",
            1,
        )
        assert client.release("m", "r") == "ALREADY_RELEASED"


@pytest.mark.parametrize("text", ["[[workers]]\nmodel = 1\n", "nonsense", "", None])
def test_a_broken_file_leaves_the_last_good_one_in_force(path, served, text):
    daemon, client = served
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    eventually(lambda: said(daemon, "source not read, or not in full: its last known workers stay"))
    time.sleep(1.2)  # two more looks
    (line,) = said(daemon, "source not read, or not in full: its last known workers stay")
    assert str(path) in line["error"]
    assert line["workers"] == 2
    assert states(client) == {"a": "READY", "b": "READY"}
    assert 'eldr_discovery_up{source="fleet-file"} 0.0' in metrics(daemon)
    path.write_text(fleet_file("a", "b"))  # what it was before
    eventually(lambda: said(daemon, "source read again"))
    assert 'eldr_discovery_up{source="fleet-file"} 1.0' in metrics(daemon)
    assert 'eldr_discovery_workers{source="fleet-file"} 2.0' in metrics(daemon)
    path.write_text(fleet_file("c"))
    become(client, {"c": "READY"})


def test_a_file_written_in_place_is_not_taken_half(path, served):
    daemon, client = served
    text = fleet_file(*(f"w{number}" for number in range(30)), "a", "b")
    halves = text.split("[[workers]]")
    with path.open("w") as file:
        for each in halves[1:]:
            file.write("[[workers]]" + each)
            file.flush()  # what is there now is a file of its own right
            time.sleep(0.05)
    eventually(lambda: len(states(client)) == 32)
    assert not said(daemon, "worker drained")


def test_the_link_of_a_config_map_is_followed(tmp_path):
    """The kubelet makes a new folder and points ..data at it; the file is a link through that."""

    def publish(revision: str, text: str) -> None:
        folder = tmp_path / f"..{revision}"
        folder.mkdir()
        (folder / "fleet.toml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("1", fleet_file("a"))
    path = tmp_path / "fleet.toml"
    path.symlink_to("..data/fleet.toml")
    with discovering("--fleet", str(path)) as (_, client):
        become(client, {"a": "READY"})
        publish("2", fleet_file("b"))
        become(client, {"b": "READY"})


def test_one_that_does_not_fit_keeps_out_no_other(path, served):
    daemon, client = served
    replace(path, fleet_file("e").replace("= 16", "= 17") + fleet_file("a", "b", "d"))
    become(client, {"a": "READY", "b": "READY", "d": "READY"})
    eventually(lambda: said(daemon, "worker not taken"))
    (line,) = said(daemon, "worker not taken")
    assert (line["worker"], line["level"]) == ("e", "error")
    assert "17 experts" in line["why"]
    replace(path, fleet_file("e").replace("= 16", "= 17"))
    become(client, {"e": "READY"})  # tried again: those that were in its way have gone


def test_one_that_registers_itself_is_its_own_master(path, served):
    _, client = served
    life = client.register("m", "a", url="http://own", capacity=fleet_pb2.WorkerCapacity())
    replace(path, fleet_file("a", "b", labels='{ zone = "z" }'))
    eventually(lambda: client.workers("m")["b"].labels)
    own = client.workers("m")["a"]
    assert (own.incarnation, own.url, dict(own.labels)) == (life, "http://own", {})
    replace(path, fleet_file("b"))
    become(client, {"a": "DRAINING", "b": "READY"})  # what its source takes away gets no more
    time.sleep(1.0)
    assert states(client) == {"a": "DRAINING", "b": "READY"}  # but it goes by itself
    report = fleet_pb2.ReportLoadRequest(
        model="m", worker_id="a", incarnation=life, state=fleet_pb2.WORKER_STATE_GONE
    )
    assert client.fleet.ReportLoad(report).accepted
    become(client, {"b": "READY"})


def test_one_that_has_registered_before_it_is_found_stays_as_it_is(path, served):
    daemon, client = served
    life = client.register("m", "c", url="http://own")
    replace(path, fleet_file("a", "b", "c"))
    eventually(lambda: said(daemon, "worker found"))
    (line,) = said(daemon, "worker found")
    assert (line["worker"], line["why"]) == ("c", "its own registration is kept")
    own = client.workers("m")["c"]
    assert (own.incarnation, own.url) == (life, "http://own")


def test_what_an_operator_did_stays_done(path, served):
    _, client = served
    client.fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(model="m", worker_id="a"))
    client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id="b"))
    replace(path, fleet_file("a", "b", "c"))
    become(client, {"a": "DRAINING", "c": "READY"})


def test_silence_removes_no_worker_of_a_file(path):
    """What has no agent reports nothing; it stays and is placed on by ELDR's own bookings."""
    flags = "--report-limit", "0.5", "--report-interval", "0.1"
    with discovering("--fleet", str(path), *flags) as (_, client):
        time.sleep(1.5)
        assert states(client) == {"a": "READY", "b": "READY"}
        assert not client.route("m", "r").stale


def test_sighup_says_what_is_wrong(path, served):
    daemon, client = served
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: said(daemon, "reloaded"))
    path.write_text("[[workers]]\nmodel = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: said(daemon, "not reloaded"))
    assert len(states(client)) == 2


def test_a_wrong_file_ends_the_start(path):
    path.write_text(fleet_file("a", "a"))
    with pytest.raises(RuntimeError) as refused, running_daemon("--fleet", str(path)):
        pass
    assert f"eldr-server: {path}: worker 2: a again" in str(refused.value)
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected [[workers]] tables"),
        ("nonsense", "is not a TOML file"),
        (fleet_file("a") + "[other]", "expected [[workers]] tables"),
        ("[[workers]]\nmodel = 'm'", "worker 1: worker_id: expected 1 to 256 bytes"),
        (fleet_file("a") + "port = 1", 'worker 1: Message type "eldr.v1.RegisterWorkerRequest"'),
        (fleet_file("a").replace("16", "99999"), "worker 1: geometry.num_experts: expected"),
    ],
)
def test_a_wrong_file_names_the_place(path, text, told):
    path.write_text(text)
    with pytest.raises(SourceError) as refused:
        FleetFile(path, default_capacity=256).read()
    assert f"{path}" in str(refused.value)
    assert told in str(refused.value)
