"""The experts that vLLM itself returns, imported, against a log of what its passes computed."""

import json
import pickle
import sys

import numpy as np
import pytest
from rig import MODEL, Engine, prompt

from benchmarks.engines.capture_matrix import interpreted
from benchmarks.engines.capture_matrix.configurations import CONFIGURATIONS
from benchmarks.engines.capture_matrix.engine import transfer

pytestmark = pytest.mark.vllm
SIZES = (
    (70, 6),
    (300, 20),
    (300, 9),
    (33, 2),
)  # tokens of prompts and answers


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    """vLLM returns experts with Model Runner V2 alone, so its kernels are interpreted here.

    The shim stands aside then, so the log's connector is the only one.
    """
    folder = tmp_path_factory.mktemp("returned")
    more = {
        "aux-output-config": json.dumps({"enable_return_routed_experts": True}),
        "kv-transfer-config": json.dumps(transfer(folder, "", shim=False)),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CONFIGURATIONS["v2"].env.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(interpreted.prepare(sys.executable)), prepend=":")
        engine = Engine("engine", model, folder, "kv_both", {}, **more)
    try:
        yield engine.wait(), folder
    finally:
        engine.kill()


def computed(folder, answers):
    """Experts [layers, top_k] as bytes, by the tokens up to theirs: what passes computed."""
    tokens = {
        answer["id"]: choice["prompt_token_ids"] + choice["token_ids"]
        for answer in answers
        for choice in answer["choices"]
    }
    found = {}
    (path,) = folder.glob("*.pickle")
    with path.open("rb") as log:
        while log.peek(1):
            name, before, _, rows = pickle.load(log)
            said = next((tokens[key] for key in tokens if name.startswith(key)), [])
            for position, picks in enumerate(rows[: len(said) - before], before + 1):
                picks = np.sort(picks.astype(np.int64), axis=1).tobytes()
                found.setdefault(tuple(said[:position]), set()).add(picks)
    return found


def test_imported_experts_are_those_of_the_forward_passes(engine, tmp_path):
    from tiny_model import DENSE, EXPERTS, LAYERS, TOP_K

    from eldr_service.lab.recordings.imported import import_answers

    engine, folder = engine
    answers = [engine.complete(prompt(7, size), length) for size, length in SIZES]
    one_token = engine.complete(prompt(7, 150), 1)
    later = engine.complete(prompt(7, 300), 5, routed_experts_prompt_start=200)
    kept = tmp_path / "answers.jsonl"
    kept.write_text("".join(json.dumps(each) + "\n" for each in [*answers, one_token, later]))
    found = import_answers([kept], EXPERTS)
    assert (found.one_token, found.cut_short, found.without_experts) == (1, 0, 0)
    assert (found.hidden_layers, found.layers) == (LAYERS, tuple(range(DENSE, LAYERS)))
    (begins_later,) = found.malformed  # its request is not in the file
    assert f"has {100 + 5 - 1} tokens, expected {300 + 5 - 1}" in begins_later.why
    recording, passes = found.recording, computed(folder, answers)
    assert recording.geometry.top_k == TOP_K
    assert recording.num_requests == len(SIZES)
    for request, (answer, (size, length)) in enumerate(zip(answers, SIZES, strict=True)):
        (choice,) = answer["choices"]
        tokens = choice["prompt_token_ids"] + choice["token_ids"]
        first, end = recording.offsets[request : request + 2]
        assert recording.prefill_len[request] == size
        assert end - first == size + length - 1
        ours = np.sort(recording.expert_ids[first:end].astype(np.int64), axis=2)
        for position, picks in enumerate(ours, 1):  # prompts share blocks, computed once
            assert picks.tobytes() in passes[tuple(tokens[:position])]
    assert len({picks for seen in passes.values() for picks in seen}) > 100  # there is a difference


def test_several_choices_and_the_request_in_the_log(engine, tmp_path):
    from tiny_model import EXPERTS

    from eldr_service.lab.recordings.imported import import_answers

    engine, _ = engine
    asked = {"n": 2, "temperature": 1.0, "routed_experts_prompt_start": 40}
    answer = engine.complete(prompt(3, 90), 4, **asked)
    kept = tmp_path / "logged.json"
    line = {"request": {"model": MODEL, **asked}, "response": answer, "kind": "both"}
    kept.write_text(json.dumps(line, indent=1))
    found = import_answers([kept], EXPERTS, domain_field="kind", time_field="created")
    assert found.recording.domains.tolist() == ["both", "both"]
    assert found.recording.prefill_len.tolist() == [50, 50]
    assert np.diff(found.recording.offsets).tolist() == [53, 53]
    assert [arrival[1:] for arrival in found.arrivals] == [(90, 4), (90, 4)]
