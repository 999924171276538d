"""What all tests share."""

import importlib.util
import os
import signal
import sys
import time

import pytest
from hypothesis import settings

from benchmarks.demos.demo_vllm.memory import ENGINE_GB, available_gb, engines_that_fit

# CI draws the same examples each time; at a desk the search goes on.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell that starts the tests in the background has them ignore Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

VLLM_SECONDS = 900
"""For a test on vLLM: the first of a file waits for its engines, on cores that may be busy."""

HEADROOM_GB = 1.0
"""An engine's weights, 0.2 at most in these tests, and what its requests take."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A CI job that is killed at its limit tells nothing: on a slow machine it ends before that."""
    if time.time() > float(os.environ.get("ELDR_TESTS_UNTIL", "inf")):
        pytest.skip("too slow a machine for CI's time limit: `make test` alone has none")


@pytest.fixture(autouse=True, scope="session")
def compiled():
    """Kernels that the tests import are compiled ahead: a first call takes seconds."""
    if kernels := sys.modules.get("eldr_service.kernels"):
        kernels.warm_up()


def pytest_collection_modifyitems(items):
    """Tests on vLLM have more time, and are skipped where vLLM or the memory is missing."""
    found = importlib.util.find_spec("vllm")
    # The folder tests/vllm passes for a package of that name, one without a file of its own.
    has_vllm = found is not None and found.origin is not None
    room = engines_that_fit(HEADROOM_GB, available_gb()) if has_vllm else 0
    for item in items:
        if not (mark := item.get_closest_marker("vllm")):
            continue
        item.add_marker(pytest.mark.timeout(VLLM_SECONDS))
        engines = mark.kwargs.get("engines", 1)
        if not has_vllm:
            reason = "needs vLLM: `make test-vllm` installs it and runs this"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif engines > room:
            needed = engines * (ENGINE_GB + HEADROOM_GB)
            reason = f"needs {needed:.0f} GB for {engines} vLLM engines; there is room for {room}"
            item.add_marker(pytest.mark.skip(reason=reason))
