"""A decision log written by a real daemon under load, once for all tests that read it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from all_traffic import MODELS, Traffic
from daemon import running_daemon

from eldr_service.policies.registry import installed, parse


@dataclass(frozen=True)
class Logged:
    """The log's folder, and what its clients were answered: (model, request, attempt) -> worker."""

    folder: Path
    answers: dict[tuple[str, str, int], str]


@pytest.fixture(scope="session")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged") / "log"
    assert {parse(policy)[0] for policy in MODELS.values()} == set(installed())
    with running_daemon(
        *("--decision-log", str(folder), "--decision-log-max-mb", "1", "--refit", "manual")
    ) as daemon:
        answers = asyncio.run(Traffic(daemon.grpc).run())
    return Logged(folder, answers)
