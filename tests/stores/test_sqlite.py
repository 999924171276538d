import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eldr_service.core.errors import NotFoundError
from eldr_service.core.geometry import ModelGeometry
from eldr_service.stores import volume
from eldr_service.stores.bookings import BookingStore
from eldr_service.stores.records import ModelRecord, StoreError, WorkerRecord
from eldr_service.stores.sqlite import FILE, SqliteStore
from eldr_service.stores.volume import network_volume

NOBODY = 65_534
fork = multiprocessing.get_context("fork")

WORKER = WorkerRecord(
    model="m",
    worker_id="w0",
    role="DECODE",
    url="http://w0:8000",
    dp_rank=1,
    group="rack-1",
    labels={"domain": "code", "name": "Ölpfütze"},
    capacity_sequences=64,
    capacity_kv_tokens=2**64 - 1,  # what a client can send
    state="READY",
    incarnation=7,
    time_to_live=2.5,
    slot=3,
)
MODEL = ModelRecord(
    name="m",
    geometry=ModelGeometry(48, 128, 8),
    policy="locality-band",
    policy_parameters={"tau": 0.2, "load": "tokens"},
    active_version=3,
    history=(1, 2),
    next_version=4,
)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    store = SqliteStore(None if request.param == "memory" else tmp_path)
    yield store
    store.close()


def test_gives_back_what_it_was_given(store):
    bare = ModelRecord(name="bare")
    store.save_worker(WORKER)
    store.save_model(MODEL)
    store.save_model(bare)
    store.add_partition("m", 2, b"\0two")
    store.add_partition("m", 1, b"one")
    assert store.workers() == [WORKER]
    assert store.models() == [MODEL, bare]
    assert store.partition("m", 2) == b"\0two"
    assert store.partition_versions("m") == [1, 2]
    assert store.partition_versions("other") == []


def test_keeps_the_order_of_registration(store):
    first, second = replace(WORKER, worker_id="z"), replace(WORKER, worker_id="a")
    store.save_worker(first)
    store.save_worker(second)
    changed = replace(first, state="DRAINING")
    store.save_worker(changed)
    assert store.workers() == [changed, second]
    store.delete_worker("m", "z")
    store.save_worker(first)
    assert store.workers() == [second, first]


def test_forgets_one_worker_of_one_model(store):
    other = replace(WORKER, model="other")
    store.save_worker(WORKER)
    store.save_worker(other)
    store.delete_worker("m", "w0")
    store.delete_worker("m", "never there")
    assert store.workers() == [other]


def test_a_partition_is_never_replaced(store):
    store.add_partition("m", 1, b"one")
    with pytest.raises(StoreError, match="UNIQUE"):
        store.add_partition("m", 1, b"another")
    assert store.partition("m", 1) == b"one"
    with pytest.raises(NotFoundError, match="model m has no partition 9"):
        store.partition("m", 9)


def test_a_transaction_is_all_or_nothing(store):
    def fail():
        with store.transaction():
            store.add_partition("m", 1, b"one")
            store.save_model(MODEL)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.models() == []
    assert store.partition_versions("m") == []
    with store.transaction():
        store.save_model(MODEL)
    assert store.models() == [MODEL]


def test_opens_again(tmp_path):
    store = SqliteStore(tmp_path / "made" / "on the way")
    store.save_worker(WORKER)
    store.add_partition("m", 1, b"one")
    store.close()
    again = SqliteStore(tmp_path / "made" / "on the way")
    assert again.workers() == [WORKER]
    assert again.partition("m", 1) == b"one"
    again.close()


WRITER = """
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from eldr_service.stores.records import ModelRecord
from eldr_service.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
for number in range(1, 1_000_000):
    with store.transaction():
        store.add_partition("m", number, bytes(10_000))
        store.save_model(ModelRecord(name="m", active_version=number))
    print(number, flush=True)
"""


def test_survives_kill_9_in_the_midst_of_writing(tmp_path):
    for _ in range(3):
        directory = tmp_path / os.urandom(4).hex()
        command = [sys.executable, "-c", WRITER, str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for line in writer.stdout:
                if int(line) == 50:
                    break
            with pytest.raises(StoreError, match=f"another eldr-server uses {directory}"):
                SqliteStore(directory)
            writer.send_signal(signal.SIGKILL)
            kept = int(([line, *writer.stdout])[-1])
        store = SqliteStore(directory)  # and the lock died with the process
        (model,) = store.models()
        versions = store.partition_versions("m")
        assert versions == list(range(1, model.active_version + 1))
        assert model.active_version >= kept
        store.close()


def test_two_daemons_do_not_share(tmp_path):
    first = SqliteStore(tmp_path)
    with pytest.raises(StoreError, match="another eldr-server uses"):
        SqliteStore(tmp_path)
    first.close()
    SqliteStore(tmp_path).close()


def test_leaves_what_is_not_its_own(tmp_path):
    file = tmp_path / FILE
    file.write_bytes(b"letters to my grandmother" * 100)
    with pytest.raises(StoreError, match="is not a SQLite database, and was left unchanged"):
        SqliteStore(tmp_path)
    assert file.read_bytes().startswith(b"letters")

    file.unlink()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE letters (text)")
    other.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match="is another program's database"):
        SqliteStore(tmp_path)
    assert file.read_bytes() == before


def test_refuses_a_newer_schema(tmp_path):
    SqliteStore(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StoreError, match=r"newer eldr-server \(schema 99, this one knows 4\)"):
        SqliteStore(tmp_path)


def test_takes_over_what_earlier_versions_left(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as earlier:
        earlier.executescript(Path(__file__).with_name("schema_1.sql").read_text())
    earlier.close()
    for _ in range(2):  # the second time there is nothing to migrate
        store = SqliteStore(tmp_path)
        assert (store.workers(), store.models()) == ([WORKER], [MODEL])
        assert store.partition("m", 3) == b"\0three"
        assert list(BookingStore(store).living()) == []
        store.close()


def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path):
    store = SqliteStore(tmp_path)
    with store.transaction() as execute:
        execute("INSERT INTO bookings VALUES (1, '[1, \"m\"')")
    with pytest.raises(StoreError, match="damaged: restore it, or move it away"):
        list(BookingStore(store).living())
    store.close()
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:5_000])
    with pytest.raises(StoreError, match="damaged: restore it, or move it away"):
        SqliteStore(tmp_path).models()


def refusal(folder):
    """What a store says that cannot be opened; to a plain user, as root may write everything."""

    def opened(said):
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        try:
            SqliteStore(folder)
        except StoreError as error:
            said.send(str(error))
        said.close()

    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=opened, args=(theirs,))
    process.start()
    theirs.close()
    process.join(30)
    assert process.exitcode == 0
    return ours.recv()


def test_a_read_only_file_is_named():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        SqliteStore(folder).close()
        (folder / FILE).chmod(0o400)
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, NOBODY, -1)
        assert "cannot be written: it is read-only; give --state a" in refusal(folder)


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / {folder} rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
24 22 0:41 / {folder}/local\\040disk rw,relatime - xfs /dev/sdb1 rw
25 22 0:42 / /mnt/glu rw,relatime - fuse.glusterfs server:/volume rw
"""


def test_a_network_volume_has_a_warning_and_a_journal_that_is_safe_there(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    (tmp_path / "local disk").mkdir()
    mounts.write_text(MOUNTS.format(folder=tmp_path))
    assert network_volume(tmp_path / "below", mounts) == "nfs4"
    assert network_volume(tmp_path / "local disk" / "x", mounts) == ""
    assert network_volume(tmp_path.parent, mounts) == ""
    assert network_volume(Path("/mnt/glu"), mounts) == "fuse.glusterfs"
    assert network_volume(Path("/mnt/glue"), mounts) == ""
    assert network_volume(tmp_path, tmp_path / "missing") == ""
    monkeypatch.setattr(volume, "MOUNTS", mounts)
    for folder, journal in ((tmp_path, "truncate"), (tmp_path / "local disk", "wal")):
        with capture_logs() as logs:
            store = SqliteStore(folder)
        assert store.read("PRAGMA journal_mode") == [(journal,)]
        assert [line["volume"] for line in logs] == ["nfs4"] * (journal == "truncate")
        store.save_worker(WORKER)
        store.close()
        store = SqliteStore(folder)
        assert store.workers() == [WORKER]
        store.close()


def test_says_why_a_directory_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: File exists"):
        SqliteStore(tmp_path / "file")
    with pytest.raises(StoreError, match="Not a directory"):
        SqliteStore(tmp_path / "file" / "below")
    (tmp_path / FILE).mkdir()
    with pytest.raises(StoreError, match="cannot be written: unable to open"):
        SqliteStore(tmp_path)
