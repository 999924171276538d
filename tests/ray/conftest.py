"""Ray on this machine, for tests that deploy to it."""

import importlib.util
import os
from pathlib import Path

import pytest

from benchmarks.demos.demo_vllm.processes import free_port

CHECKOUT = Path(__file__).parents[2]
# Replicas are other processes: they find the packages and the helpers of these tests by this path.
PATHS = ("tests/support", "tests/vllm", "clients/python", "clients/vllm", "clients/ray", ".")
SKIP = pytest.mark.skip(reason="needs Ray: `make test-ray` installs it and runs this")


def pytest_collection_modifyitems(items):
    """Ray is in an environment of its own. (The folder tests/ray passes for a package, too.)"""
    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(SKIP)


def start(ray, tries=3):
    """Ray gives its own processes seconds to start, which a busy machine can miss."""
    for left in reversed(range(tries)):
        try:
            # Actors of more cores than there are: what they do is wait.
            ray.init(num_cpus=8, object_store_memory=80 * 2**20, include_dashboard=False)
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise


@pytest.fixture(scope="session")
def cluster():
    """Ray, with Serve and nothing in it; the port of its HTTP server."""
    import ray
    from ray import serve

    before = dict(os.environ)
    paths = [str(CHECKOUT / path) for path in PATHS]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, before.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(
        OMP_NUM_THREADS="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    start(ray)
    port = free_port()
    serve.start(http_options={"port": port})
    yield port
    serve.shutdown()
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    from tiny_model import build

    return build(tmp_path_factory.mktemp("model"))
