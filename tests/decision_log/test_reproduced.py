"""Whatever was logged is decided again to the same worker: from the start, and from any file."""

from collections import Counter

import pytest
from all_traffic import MODELS
from replayed import changed, replayed
from small_daemon import MODEL, SmallDaemon

from eldr_service.core.worker import WorkerSpec, WorkerState
from eldr_service.decision_log.reader import LogReader
from eldr_service.decision_log.recorder import Recorder
from eldr_service.decision_log.writer import Writer


@pytest.fixture(scope="module")
def whole(logged):
    return replayed(logged.folder)


def test_the_log_has_several_files_without_a_gap(whole):
    _, reader = whole
    assert len(reader.files) >= 3
    assert not reader.notes


def test_it_holds_what_clients_were_answered(logged, whole):
    by_model, _ = whole
    found = {(d.model, d.request_id, d.attempt): d.logged.worker
             for decisions in by_model.values() for d in decisions}  # fmt: skip
    assert found.items() <= logged.answers.items()
    first = next(iter(LogReader(logged.folder))).header
    if first.file == 1:  # no file had to be deleted yet
        assert len(found) == len(logged.answers)


@pytest.mark.parametrize("model", MODELS)
def test_every_placement_is_reproduced(whole, model):
    decisions = whole[0][model]
    assert len(decisions) > 100
    assert not changed(decisions)
    assert len({d.logged.worker for d in decisions}) > 3


def test_from_any_file_on(logged):
    for path in LogReader(logged.folder).files[1:]:
        by_model, reader = replayed(path)
        assert not reader.notes
        for decisions in by_model.values():
            assert not changed(decisions), path


def test_every_reason_is_among_them(whole):
    reasons = Counter(d.logged.reason.name for ds in whole[0].values() for d in ds)
    assert reasons.keys() >= {
        "POLICY", "LOCALITY_BAND", "PINNED", "LEAST_LOADED_NO_SIGNATURE",
        "LEAST_LOADED_NO_PARTITION", "LEAST_LOADED_LOW_COVERAGE",
    }  # fmt: skip
    assert "LEAST_LOADED_POLICY_ERROR" not in reasons


def test_an_attempt_that_ended_before_a_file_began(tmp_path):
    """The next attempt's worker is another one, from that file on too."""
    lost = []
    recorder = Recorder(Writer(tmp_path, 10_000_000, lost.append, lambda size: None), lost.append)
    daemon = SmallDaemon(journal=recorder)
    recorder.watch(daemon.router)
    daemon.join("a", "b")
    recorder.tick()
    first = daemon.route("r", 0)
    daemon.router.release(MODEL, "r", 0, daemon.now)
    recorder._begin()  # as `tick` does when a file is full
    second = daemon.route("r", 1)
    recorder.close()
    assert second.worker_id != first.worker_id
    assert len(LogReader(tmp_path).files) == 2
    for path in LogReader(tmp_path).files:
        by_model, _ = replayed(path)
        assert not changed(by_model[MODEL]), path


def test_what_stood_behind_others_does_so_in_a_replay_from_any_file_on(tmp_path):
    """Suspects, a relieved worker, a changed capacity and a drain's deadline are in the log."""
    lost = []
    recorder = Recorder(Writer(tmp_path, 10_000_000, lost.append, lambda size: None), lost.append)
    daemon = SmallDaemon(journal=recorder)
    recorder.watch(daemon.router)
    daemon.join("a", "b", "c", time_to_live=60.0, capacity_sequences=20)
    recorder.tick()
    placed = []

    def go(seconds, *reporting):
        daemon.now += seconds
        for worker in reporting:
            steps = {"batch_size": 8.0, "step_seconds": 2.0 if worker == "c" else 1.0}
            daemon.report(worker, int(daemon.now * 10), **steps)
        daemon.router.tick(daemon.now)
        request_id = f"r{len(placed)}"
        placed.append(daemon.route(request_id).worker_id)
        if len(placed) > 6:
            daemon.router.release(MODEL, f"r{len(placed) - 7}", 0, daemon.now)

    for _ in range(60):
        go(1.0, "a", "b", "c")
    assert placed[-20:].count("c") < 5  # relieved
    recorder._begin()
    for _ in range(14):
        go(1.0, "b", "c")
    assert "a" not in placed[-3:]  # suspect
    recorder._begin()
    spec = WorkerSpec("b", capacity_sequences=2, time_to_live=60.0)
    life = daemon.incarnations["b"]
    daemon.workers.register(MODEL, spec, WorkerState.READY, None, daemon.now, incarnation=life)
    for _ in range(6):
        go(1.0, "a", "b", "c")
    daemon.workers.drain(MODEL, "a", until=daemon.now + 2.0)
    for _ in range(6):
        go(1.0, "a", "b", "c")
    recorder.close()
    assert not lost
    assert len(LogReader(tmp_path).files) == 3
    for path in LogReader(tmp_path).files:
        by_model, _ = replayed(path)
        assert not changed(by_model[MODEL]), path
