from itertools import pairwise

import numpy as np
import pytest
import zstandard

from eldr_service.lab.simulation.traces import Trace
from eldr_service.lab.simulation.traffic import Traffic

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:48.6805900,396,109
2023-11-16 18:15:47.1805900,10,0
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 5, "output_length": 6, "hash_ids": [1]}
{"timestamp": 1000, "input_length": 7, "output_length": 8, "hash_ids": []}
"""


@pytest.fixture
def written(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def test_azure(written):
    trace = Trace.load(written("conv.csv", AZURE))
    assert trace.times_s == pytest.approx([0.0, 0.5, 2.0], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 10, 396]
    assert trace.output_tokens.tolist() == [44, 1, 109]
    assert trace.rate_per_s == pytest.approx(1.0)


def test_mooncake(written):
    packed = zstandard.ZstdCompressor().compress(MOONCAKE.encode())
    for path in (written("m.jsonl", MOONCAKE), written("m.jsonl.zst", packed)):
        trace = Trace.load(path)
        assert trace.times_s.tolist() == [0.0, 2.0]
        assert trace.prompt_tokens.tolist() == [7, 5]
        assert trace.output_tokens.tolist() == [8, 6]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.txt", "", "expected .csv"),
        ("t.csv", "a,b\n1,2\n", "request 1: missing 'TIMESTAMP'"),
        ("t.csv", AZURE.replace("396", "many"), "request 2: invalid literal"),
        ("t.csv", AZURE.replace("396", "-1"), "negative"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "two or more times"),
        ("t.jsonl", "{", "Expecting property name"),
        ("t.jsonl", '{"timestamp": 1}', "request 1: missing 'input_length'"),
        ("t.csv", b"\xff\xfe", "utf-8"),
    ],
)
def test_a_wrong_trace_says_what_is_wrong(written, name, data, said):
    path = written(name, data)
    with pytest.raises(ValueError, match=said) as caught:
        Trace.load(path)
    assert str(path) in str(caught.value)


TRACE = Trace(np.array([0.0, 1.0, 4.0]), np.array([10, 20, 30]), np.array([1, 2, 3]))


def test_a_trace_is_taken_from_some_moment_on_and_goes_round():
    drawn = Traffic(40.0, trace=TRACE).draw(seed=2)
    assert len(drawn.times_s) == pytest.approx(20, abs=1)
    gaps = np.diff(drawn.times_s).round(6)
    assert set(gaps) == {1.0, 3.0, 2.0}  # the last a mean gap, before the next round
    prompts = drawn.prompt_tokens.tolist()
    after = {10: 20, 20: 30, 30: 10}
    assert all(after[a] == b for a, b in pairwise(prompts))
    assert (drawn.output_tokens * 10 == drawn.prompt_tokens).all()
    assert (drawn.times_s == Traffic(40.0, trace=TRACE).draw(seed=2).times_s).all()


def test_a_trace_is_stretched_to_the_rate():
    drawn = Traffic(4000.0, 5.0, TRACE).draw(seed=0)
    assert len(drawn.times_s) / 4000 == pytest.approx(5.0, rel=0.001)


def test_lengths():
    recorded = Traffic(1.0, 100.0).draw(seed=1)
    assert recorded.prompt_tokens is recorded.output_tokens is None
    assert set(Traffic(1.0, 100.0, output_tokens=7).draw(seed=1).output_tokens) == {7}
    drawn = Traffic(10.0, 100.0, output_tokens=TRACE).draw(seed=1)
    assert set(drawn.output_tokens) == {1, 2, 3}
    over = Traffic(10.0, trace=TRACE, output_tokens=9).draw(seed=1)
    assert set(over.output_tokens) == {9}


def test_what_makes_no_sense():
    for wrong in ((0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, 1.0, None, 0)):
        with pytest.raises(ValueError, match="positive"):
            Traffic(*wrong)
    with pytest.raises(ValueError, match="rate"):
        Traffic(1.0)
    with pytest.raises(ValueError, match="no request arrives"):
        Traffic(1e-9, 1.0).draw(0)
