import os
from pathlib import Path

import forked_engines
import pytest

# Engines are other processes: they find the helpers of these tests, and the packages, by this path.
_CHECKOUT = Path(__file__).parents[2]
_PATHS = [
    Path(__file__).parent,
    _CHECKOUT,
    *(_CHECKOUT / "clients" / n for n in ("vllm", "python")),
]


@pytest.fixture(scope="session", autouse=True)
def _paths(tmp_path_factory):
    before = os.environ.get("PYTHONPATH", "")
    paths = [*_PATHS, forked_engines.offer(tmp_path_factory.mktemp("plugin"))]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), before])
    os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.update(
        OMP_NUM_THREADS="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    from tiny_model import build

    return build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def shared_daemon():
    """For tests that take out again what they put into it."""
    from daemon import running_daemon

    with running_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def router():
    """Answers the shim as a test says, and remembers what it was asked."""
    from scripted_router import ScriptedRouter

    router = ScriptedRouter().start()
    yield router
    router.stop()


@pytest.fixture
def proposals(monkeypatch):
    """The moves that every proxy hears of."""
    from eldr_client.aio import RouterClient
    from moving_rig import Proposals

    proposals = Proposals()
    monkeypatch.setattr(RouterClient, "watch_moves", lambda _client, _model: proposals.watch())
    return proposals
