import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
from daemon import running_daemon
from routed import separable
from typer.testing import CliRunner

from eldr_service.cli.app import app


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("ELDR_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def daemon():
    with running_daemon("--report-interval", "0.1", "--report-limit", "0.2") as daemon:
        yield daemon


@dataclass
class Eldr:
    """Runs `eldr` in this process, against one server."""

    server: str

    def __call__(self, *words, code=0):
        """What it printed on stdout; on stderr where it fails."""
        result = CliRunner().invoke(app, [*map(str, words), "--server", self.server])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        if code == 0:
            return result.stdout
        assert not result.stdout
        return " ".join(word for word in result.stderr.split() if word != "│")

    def json(self, *words, code=0):
        """The one document that it printed."""
        result = CliRunner().invoke(app, [*map(str, words), "--json", "--server", self.server])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def eldr(daemon):
    return Eldr(daemon.grpc)


@pytest.fixture
def fleet(eldr):
    """The workers w0, w1 and w2 of the model m, which is the only one before and after."""
    for number in range(3):
        eldr(
            *("workers", "add", f"w{number}", "--model", "m", "--url", f"http://{number}"),
            *("--capacity", 4, "--geometry", "3x16x2", "--label", f"zone={'ab'[number % 2]}"),
        )
    yield eldr
    for worker in eldr.json("workers", "list")["workers"]:
        eldr("workers", "remove", worker["worker_id"], "--model", worker["model"])


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """24 requests of three kinds, as a file; its requests are 0, 1, 2, 0, 1, 2, …"""
    made = separable(3, 8)
    path = tmp_path_factory.mktemp("recorded") / "recording.npz"
    np.savez(
        path,
        expert_ids=made.expert_ids,
        offsets=made.offsets,
        prefill_len=made.prefill_len,
        domain=made.domains,
        num_experts=made.geometry.num_experts,
    )
    return path


@pytest.fixture(scope="session")
def aggregate(tmp_path_factory):
    """The same requests as counts alone."""
    path = tmp_path_factory.mktemp("recorded") / "counts.npz"
    np.savez(path, counts=separable(3, 8).prefill_counts())
    return path
