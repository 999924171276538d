"""Model Runner V2, vLLM's default on GPUs, here with its kernels in Triton's interpreter."""

import sys

import pytest

from benchmarks.engines.capture_matrix.cell import Nursery
from benchmarks.engines.capture_matrix.configurations import CONFIGURATIONS

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def nursery():
    with Nursery(sys.executable, CONFIGURATIONS["v2"].env) as process:
        yield process


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_counts_are_exact(nursery, architecture):
    outcome = nursery.run(architecture, CONFIGURATIONS["v2"], timeout=140)
    assert outcome.good, str(outcome)
    assert outcome.figures["v2"]
