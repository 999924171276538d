"""Files: bounded, rotating, whole or torn, with gaps that are told of."""

import itertools
import shutil

import pytest
from replayed import changed, replayed
from small_daemon import MODEL, SmallDaemon, counts_on
from wire import eventually

from eldr_service.decision_log import from_records, to_records, writer
from eldr_service.decision_log.reader import LogError, LogReader
from eldr_service.decision_log.recorder import Recorder
from eldr_service.decision_log.writer import Writer


class Logging(SmallDaemon):
    """A daemon with a log; it ticks when it is told to, and turns its own clock."""

    def __init__(self, folder, max_bytes=1_000_000):
        self.lost, self.wrote = [], []
        self.writer = Writer(folder, max_bytes, self.lost.append, self.wrote.append)
        self.recorder = Recorder(self.writer, self.lost.append)
        super().__init__(journal=self.recorder)
        self.recorder.watch(self.router)
        self.recorder.tick()
        self._numbers = itertools.count()
        self.join("a", "b", "c", "d")
        self.activate()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.recorder.close()

    def serve(self, requests):
        """Place requests, and release each when three more have come."""
        for number in itertools.islice(self._numbers, requests):
            self.now += 0.01
            self.route(f"r{number}", counts=counts_on(number * number % 4, tokens=number % 90 + 1))
            if number >= 3:
                self.router.release(MODEL, f"r{number - 3}", 0, self.now)

    def drained(self):
        eventually(lambda: self.writer.may_begin)
        self.recorder.tick()


def decided(path):
    by_model, reader = replayed(path)
    decisions = by_model.get(MODEL, [])
    assert not changed(decisions)
    return [d.request_id for d in decisions], reader.notes


def size(folder):
    """Bytes of all files at one moment, while a writer works: two equal readings in a row."""
    before, now = None, {}
    while now != before:
        before, now = now, writer.sizes(folder.glob(writer.PATTERN))
    return sum(now.values())


def test_the_bound_is_never_exceeded(tmp_path):
    bound = 30_000
    with Logging(tmp_path, bound) as daemon:
        for _ in range(20):
            daemon.serve(150)
            daemon.drained()
            assert size(tmp_path) <= bound
    assert sum(daemon.wrote) > 1.3 * bound
    assert bound >= size(tmp_path) > bound / 2
    requests, notes = decided(tmp_path)
    assert requests == [f"r{number}" for number in range(3_000)][-len(requests) :]
    assert len(requests) > 1_000
    assert (notes, sum(daemon.lost)) == ([], 0)
    assert "000001" not in min(tmp_path.iterdir()).name


def test_a_file_deleted_by_another_hand_is_no_error(tmp_path):
    kept, deleted = tmp_path / "kept", tmp_path / "deleted"
    kept.write_bytes(bytes(3))
    assert writer.sizes([deleted, kept]) == {kept: 3}


def test_chunks_that_come_after_a_placement_are_not_in_it(tmp_path):
    with Logging(tmp_path) as daemon:
        for sequence, expert in enumerate((0, 1)):
            daemon.router.register_signature(
                MODEL, "r", 0, counts_on(expert), sequence=sequence, fingerprint=0, now=daemon.now
            )
            if sequence == 0:
                daemon.route("r")
    (placement,) = (r.placement for r in LogReader(tmp_path) if r.HasField("placement"))
    assert (from_records.placement(placement, MODEL)[1].counts == counts_on(0).counts).all()


def test_files_of_earlier_runs_count_and_go_first(tmp_path):
    with Logging(tmp_path) as daemon:
        daemon.serve(1_000)
    before = set(tmp_path.iterdir())
    with Logging(tmp_path) as daemon:
        daemon.serve(1_000)
    requests, notes = decided(tmp_path)
    assert requests == [f"r{number}" for number in range(1_000)] * 2
    assert not notes  # another run is no gap
    assert len(before & set(tmp_path.iterdir())) == 1
    with Logging(tmp_path, size(tmp_path)) as daemon:
        daemon.serve(10)
    assert not before & set(tmp_path.iterdir())


def test_a_full_queue_leaves_a_gap_that_the_next_file_tells_of(tmp_path, monkeypatch):
    with Logging(tmp_path) as daemon:
        daemon.serve(20)
        daemon.drained()
        monkeypatch.setattr(writer, "QUEUE_BYTES", 5_000)
        daemon.serve(200)  # faster than the writer wakes
        monkeypatch.undo()
        assert 0 < sum(daemon.lost) < 400
        daemon.drained()
        daemon.serve(20)
    requests, notes = decided(tmp_path)
    assert len(notes) == 1
    assert notes[0].startswith(f"{sum(daemon.lost)} events before decisions-")
    assert requests[-20:] == [f"r{number}" for number in range(220, 240)]
    assert requests[:20] == [f"r{number}" for number in range(20)]
    assert 40 < len(requests) < 240


def test_a_torn_file_is_read_as_far_as_it_is_whole(tmp_path):
    folder = tmp_path / "log"
    with Logging(folder) as daemon:
        for _ in range(5):
            daemon.serve(30)
            daemon.drained()
    (path,) = folder.iterdir()
    data, (whole, _) = path.read_bytes(), decided(folder)
    assert len(whole) == 150
    lengths = set()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        requests, notes = decided(folder)
        lengths.add(len(requests))
        assert requests == whole[: len(requests)]
        assert all("truncated" in note for note in notes)
        assert notes or length == 0 or len(requests) % 30 == 0
    assert lengths >= {0, 30, 60, 90, 120}
    path.write_bytes(data[:-100] + bytes(50) + data[-50:])
    assert "damaged" in decided(folder)[1][0]


def test_a_file_that_is_missing_between_others_is_told_of(tmp_path):
    with Logging(tmp_path, 50_000) as daemon:
        for _ in range(3):
            daemon.serve(700)
            eventually(lambda: daemon.writer.is_full)
            daemon.recorder.tick()
        daemon.serve(10)
    first, second, *_ = sorted(tmp_path.iterdir())
    second.unlink()
    requests, notes = decided(tmp_path)
    assert requests[0] == "r0"
    assert requests[-1] == "r2109"
    assert len(requests) < 2_000
    assert notes == [f"1 of the files before {sorted(tmp_path.iterdir())[1].name} are missing"]
    assert decided(first)[0] == requests[: len(decided(first)[0])]


def test_a_folder_that_vanishes_breaks_the_log_off_until_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.0)
    folder = tmp_path / "log"
    with Logging(folder, 50_000) as daemon:
        daemon.serve(1_000)
        eventually(lambda: daemon.writer.is_full)
        shutil.rmtree(folder)
        daemon.recorder.tick()
        eventually(lambda: daemon.writer.is_broken)
        daemon.serve(5)
        eventually(lambda: sum(daemon.lost) > 5)
        folder.mkdir()
        daemon.drained()
        eventually(lambda: not daemon.writer.is_broken)
        daemon.serve(50)
    requests, notes = decided(folder)
    assert len(requests) == 50
    assert sum(daemon.lost) > 5
    assert "were lost" in notes[0]


def test_a_bound_below_the_snapshot_is_said(tmp_path, capsys):
    with Logging(tmp_path, 100) as daemon:
        eventually(lambda: daemon.writer.is_broken)
        daemon.serve(5)
        daemon.recorder.tick()
        daemon.serve(5)
    assert size(tmp_path) <= 100
    assert "100 bytes cannot hold a snapshot" in "".join(capsys.readouterr())


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(LogError, match="no decision log in this folder"):
        LogReader(tmp_path)
    path = tmp_path / "decisions-other.zst"
    path.write_text("something else")
    with pytest.raises(LogError, match="no decision log"):
        list(LogReader(path))


def test_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(to_records, "FORMAT", to_records.FORMAT + 1)
    with Logging(tmp_path):
        pass
    with pytest.raises(LogError, match="reads up to 1"):
        list(LogReader(tmp_path))
