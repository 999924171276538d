"""Speculative decoding: what vLLM rejects is in no count."""

import sys

import pytest

from benchmarks.engines.capture_matrix.cell import Nursery
from benchmarks.engines.capture_matrix.configurations import CONFIGURATIONS

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("architecture", "configuration"), [("qwen3_moe", "ngram"), ("deepseek_v3_mtp", "mtp")]
)
def test_counts_are_exact(architecture, configuration):
    with Nursery(sys.executable, {}) as nursery:
        outcome = nursery.run(architecture, CONFIGURATIONS[configuration], timeout=140)
    assert outcome.good, str(outcome)
