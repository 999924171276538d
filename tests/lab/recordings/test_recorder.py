"""The thread that writes, and the files that stay bounded."""

import logging
import time

import numpy as np
import pytest
from eldr_vllm.recording import recorder as recording
from eldr_vllm.recording.files import PARTS, RecordingFiles
from eldr_vllm.recording.recorder import Recorder
from eldr_vllm.recording.tables import is_sampled, request_key
from engine_recording import ABOUT

from eldr_service.lab.recordings.frames import read_frames


def about(role="decode"):
    return {**ABOUT, "role": role, "engine": "e"}


def test_a_second_is_what_a_killed_engine_loses(tmp_path):
    recorder = Recorder(RecordingFiles(tmp_path, "e", 1 << 30), about())
    recorder.put("steps", [(1.0, 0.01)], [(1, 1, 5, 6)])
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (path,) = tmp_path.iterdir()  # not closed
    ((frame,), torn) = read_frames(path)
    assert torn == 0
    assert frame.columns["steps.sizes"].tolist() == [[1, 1, 5, 6]]
    recorder.close()


def test_the_oldest_files_are_dropped(tmp_path):
    most = 64_000
    for run in range(2):  # the second finds what the first has left
        files = RecordingFiles(tmp_path, "e:8000/dp1", most)
        files.open()
        for _ in range(100):
            files.append(bytes(1_000 + run))
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= most
        files.close()
    kept = sorted(tmp_path.iterdir())
    assert len(kept) >= PARTS - 1
    assert files.run in kept[-1].name


def test_another_engines_files_stay(tmp_path):
    other = tmp_path / "e2.20200101T000000Z-0.000000.eldr"
    other.write_bytes(bytes(100_000))
    files = RecordingFiles(tmp_path, "e", 16_000)
    for _ in range(50):
        files.append(bytes(1_000))
    files.close()
    assert other.exists()


def test_what_finds_no_room_is_counted_and_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(recording, "MOST_WAITING", 1_000)
    with caplog.at_level(logging.WARNING, "vllm.eldr"):
        recorder = Recorder(RecordingFiles(tmp_path, "e", 1 << 30), about())
        for _ in range(4):
            recorder.put("tokens", np.zeros(9, np.uint32), np.zeros((9, 3, 20), np.uint8))
        recorder.close()
    assert [r.message for r in caplog.records] == [
        "the disk is too slow for the recording: rows are dropped"
    ]
    ((frame,), _) = read_frames(next(tmp_path.iterdir()))
    assert frame.about["dropped"] == "3"
    assert len(frame.columns["tokens.sequence"]) == 9


def test_a_folder_that_cannot_be_written_ends_the_recording_alone(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "vllm.eldr"):
        recorder = Recorder(RecordingFiles(tmp_path / "file", "e", 1 << 30), about())
        recorder.close()
    assert not recorder.active
    recorder.put("steps", [(1.0, 0.01)], [(1, 1, 5, 6)])
    assert "ELDR steps aside (recording)" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_is_of_requests_and_the_same_everywhere(share):
    keys = [request_key(f"r{i}") for i in range(2_000)]
    sampled = [key for key in keys if is_sampled(key, share)]
    assert len(sampled) == pytest.approx(2_000 * share, abs=100)
    assert set(sampled) <= {key for key in keys if is_sampled(key, min(share + 0.1, 1.0))}


def test_large_counts_keep_their_value(tmp_path):
    recorder = Recorder(RecordingFiles(tmp_path, "e", 1 << 30), about())
    counts = np.array([[[70_000, 3]]], np.uint32)
    recorder.put("signatures", [1], [0], counts)
    recorder.close()
    ((frame,), _) = read_frames(next(tmp_path.iterdir()))
    assert frame.columns["signatures.counts"].tolist() == counts.tolist()
