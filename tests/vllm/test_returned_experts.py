"""The experts that vLLM itself returns, imported, against what the shim recorded of the same."""

import json
import sys

import numpy as np
import pytest
from rig import MODEL, Engine, prompt, wait

from benchmarks.capture_matrix import interpreted
from benchmarks.capture_matrix.configurations import CONFIGURATIONS

pytestmark = pytest.mark.vllm
SIZES = ((70, 6), (300, 20), (300, 9), (33, 2), (150, 1))  # tokens of prompts and answers


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    """vLLM returns experts with Model Runner V2 alone, so its kernels are interpreted here."""
    folder = tmp_path_factory.mktemp("returned")
    (folder / "log").mkdir()
    inner = {
        "kv_connector": "StepLog",
        "kv_connector_module_path": "step_log",
        "kv_connector_extra_config": {"log": str(folder / "log")},
    }
    eldr = {"router": "127.0.0.1:1", "record": str(folder / "recording")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CONFIGURATIONS["v2"].env.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(interpreted.prepare(sys.executable)), prepend=":")
        more = {"aux-output-config": json.dumps({"enable_return_routed_experts": True})}
        engine = Engine("engine", model, folder, "kv_both", eldr, inner, **more)
    try:
        yield engine.wait(), folder
    finally:
        engine.kill()


def test_imported_experts_are_those_that_the_shim_recorded(engine):
    from tiny_model import DENSE, EXPERTS, LAYERS, MOE_LAYERS, TOP_K

    from eldr_service.lab.recordings import read_engine_files
    from eldr_service.lab.recordings.imported import import_answers
    from eldr_service.lab.recordings.recording import Recording

    engine, folder = engine
    answers = [engine.complete(prompt(7, size), length) for size, length in SIZES]
    answers.append(engine.complete(prompt(7, 300), 5, routed_experts_prompt_start=200))
    kept = folder / "answers.jsonl"
    kept.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    found = import_answers([kept], EXPERTS)
    assert (found.one_token, found.cut_short, found.without_experts) == (1, 0, 0)
    assert found.hidden_layers == LAYERS
    assert found.layers == tuple(range(DENSE, LAYERS))
    (begins_later,) = found.malformed  # its request is not in the log
    assert f"has {100 + 5 - 1} tokens, expected {300 + 5 - 1}" in begins_later.why
    imported = found.recording

    def recorded():
        read_engine_files.cache_clear()
        files = read_engine_files(folder / "recording")
        return len(files["decodes.request"]) == len(answers)

    wait(recorded, 20)
    shim = Recording.load(folder / "recording")
    assert imported.geometry == shim.geometry
    assert (imported.geometry.num_layers, imported.geometry.top_k) == (MOE_LAYERS, TOP_K)
    for request in range(len(SIZES) - 1):
        counts = imported.counts_of(imported.prefill(request))
        np.testing.assert_array_equal(counts, shim.counts[request])
        ours, theirs = (
            np.sort(each.expert_ids[each.decode(request)], axis=2) for each in (imported, shim)
        )
        np.testing.assert_array_equal(ours, theirs)
        assert len(ours) == SIZES[request][1] - 1


def test_chat_with_several_choices_and_a_request_in_the_log(engine):
    from tiny_model import EXPERTS

    from eldr_service.lab.recordings.imported import import_answers

    engine, folder = engine
    import urllib.request

    body = {
        "model": MODEL,
        "prompt": prompt(3, 90),
        "max_tokens": 4,
        "n": 2,
        "ignore_eos": True,
        "return_token_ids": True,
        "routed_experts_prompt_start": 40,
    }
    asked = urllib.request.Request(
        engine.url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=120) as answer:
        line = {"request": body, "response": json.load(answer), "kind": "both"}
    kept = folder / "logged.json"
    kept.write_text(json.dumps(line, indent=1))
    found = import_answers([kept], EXPERTS, domain_field="kind", time_field="created")
    recording = found.recording
    assert recording.domains.tolist() == ["both", "both"]
    assert recording.prefill_len.tolist() == [50, 50]
    assert np.diff(recording.offsets).tolist() == [53, 53]
    assert [arrival[1:] for arrival in found.arrivals] == [(90, 4), (90, 4)]
    assert len(set(recording.expert_ids[:50].tobytes() for _ in range(1))) == 1
