"""The daemon's own part: settings, metrics, and what a sudden end leaves behind."""

import asyncio
import subprocess
import urllib.request

import pytest
from all_traffic import Traffic
from daemon import command, running_daemon
from replayed import changed, replayed
from wire import Client, eventually


def metric(daemon, name):
    with urllib.request.urlopen(f"http://{daemon.http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_off_by_default(tmp_path):
    with running_daemon(env={"HOME": str(tmp_path)}) as daemon:
        assert metric(daemon, "eldr_decision_log_bytes_total") == 0
    assert not list(tmp_path.rglob("decisions-*"))


def test_a_killed_daemon_leaves_what_it_had_written(tmp_path):
    """And the next one goes on in the same folder."""
    folder = tmp_path / "log"
    flags = "--decision-log", str(folder), "--state", str(tmp_path / "state")
    with running_daemon(*flags) as daemon:
        answers = asyncio.run(Traffic(daemon.grpc, requests=40).run())
        written = metric(daemon, "eldr_decision_log_bytes_total")
        daemon.process.kill()
    assert len(answers) > 200
    assert written > 0
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        client.route("band", "after")
        eventually(lambda: metric(daemon, "eldr_decision_log_bytes_total") > 0)
        assert metric(daemon, "eldr_decision_log_lost_total") == 0
    by_model, reader = replayed(folder)
    assert len(reader.files) == 2
    assert len(reader.notes) <= 1  # torn, if it was just writing
    found = [(d.model, d.request_id, d.attempt) for ds in by_model.values() for d in ds]
    assert set(found) <= {*answers, ("band", "after", 0)}
    assert found[-1] == ("band", "after", 0) or by_model["band"][-1].request_id == "after"
    assert len(found) > len(answers) / 2
    assert not any(changed(decisions) for decisions in by_model.values())
    assert all(path.stat().st_mode & 0o077 == 0 for path in reader.files)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--decision-log", __file__), "--decision-log: expected a directory"),
        (("--decision-log-max-mb", "0"), "--decision-log-max-mb: expected"),
    ],
)
def test_wrong_settings_are_refused(flags, said):
    found = subprocess.run(command(*flags), capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert said in found.stderr


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "log")
    flags = ("--decision-log", folder, "--state", ":memory:")
    found = subprocess.run(command(*flags), capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert f"--decision-log {folder}: " in found.stderr
