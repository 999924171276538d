"""The same counts on every version of vLLM that is supported; `make setup-vllm-versions`."""

from pathlib import Path

import pytest

from benchmarks.engines.capture_matrix.cell import CHECKOUT, Nursery
from benchmarks.engines.capture_matrix.configurations import CONFIGURATIONS

pytestmark = pytest.mark.vllm

FOLDER = CHECKOUT / "build" / "vllm-versions"
VERSIONS = ("0.30.0", "0.31.0", "0.33.0")  # .venv-vllm has the one between


@pytest.mark.parametrize("version", VERSIONS)
def test_counts_are_exact(version):
    python = Path(FOLDER, version, "bin", "python")
    if not python.exists():
        pytest.skip(f"vLLM {version} is not there: make setup-vllm-versions")
    with Nursery(str(python), {}) as nursery:
        outcome = nursery.run("qwen3_moe", CONFIGURATIONS["eager"], timeout=140)
    assert outcome.good, str(outcome)
