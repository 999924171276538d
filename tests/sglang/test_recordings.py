"""Recordings from a real SGLang server: what it returns against what its recorder dumps."""

import json
import random
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sglang_engines import EXPERTS, LAYERS, PYTHON, TOP_K, running

from eldr_service.lab.recordings.imported import import_answers
from eldr_service.lab.recordings.recording import Recording
from eldr_service.lab.recordings.torch_file import load

REQUESTS = 30
CHUNK = 128

PROMPT = "The same prompt, asked for in each form of an answer."
GENERATE = {
    "text": PROMPT,
    "sampling_params": {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True},
    "return_routed_experts": True,
}
OPENAI = {
    "model": "tiny",
    "prompt": PROMPT,
    "temperature": 0,
    "max_tokens": 6,
    "ignore_eos": True,
    "return_routed_experts": True,
}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
FORMS = (
    ("generate", "/generate", GENERATE),
    ("generate-stream", "/generate", GENERATE | {"stream": True}),
    ("completions", "/v1/completions", OPENAI),
    ("completions-stream", "/v1/completions", OPENAI | USAGE),
)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Answers, and the dump of the same requests: 6 at once, some in chunks, no prefix cache."""
    folder = tmp_path_factory.mktemp("served")
    drawn = random.Random(0)
    bodies = [
        {
            "text": "".join(drawn.choices("abcdefghij klmnop", k=drawn.randint(8, 300))),
            "rid": f"r-{number}",
            "sampling_params": {
                "temperature": 0,
                "max_new_tokens": drawn.randint(2, 12),
                "ignore_eos": True,
            },
            "return_routed_experts": True,
        }
        for number in range(REQUESTS)
    ]
    recorder = ("--expert-distribution-recorder-mode", "per_token", "--disable-radix-cache")
    chunked = ("--chunked-prefill-size", str(CHUNK))
    with running(model, folder, (*recorder, *chunked)) as (engine,):
        engine.post("/start_expert_distribution_record")
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda body: engine.post("/generate", body), bodies))
        engine.post("/stop_expert_distribution_record")
        engine.post("/dump_expert_distribution_record")
        (folder / "forms").mkdir()
        for name, path, fields in FORMS:
            text = raw(engine.url + path, fields)
            (folder / "forms" / name).write_bytes(text)
    (dump,) = folder.glob("*.pt")
    logged = folder / "answers.jsonl"
    logged.write_text("".join(json.dumps(answer) + "\n" for answer in answers), "utf-8")
    return logged, dump


def raw(url, body):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def requests_of(recording):
    """What tells one from another: tokens of the prompt, and all experts."""
    ids, offsets = recording.expert_ids.astype(int), recording.offsets
    return {
        (int(recording.prefill_len[r]), ids[offsets[r] : offsets[r + 1]].tobytes())
        for r in range(recording.num_requests)
    }


def test_the_recorder_and_the_answers_agree(served):
    logged, dump = served
    returned = import_answers([logged], EXPERTS, (LAYERS, TOP_K))
    dumped = import_answers([dump], EXPERTS)
    assert returned.recording.num_requests == REQUESTS
    assert not returned.malformed
    assert max(returned.recording.prefill_len) > CHUNK  # came in several passes
    assert requests_of(dumped.recording) <= requests_of(returned.recording)
    # Left out are those that cannot be told apart, no other.
    assert dumped.recording.num_requests + len(dumped.malformed) == REQUESTS
    assert dumped.recording.num_requests > REQUESTS / 2
    assert all("same position" in one.why for one in dumped.malformed)


@pytest.mark.parametrize("form", [name for name, *_ in FORMS[1:]])
def test_each_form_of_an_answer_has_the_same(served, form):
    folder = served[0].parent / "forms"
    shape = (LAYERS, TOP_K)
    plain, other = (import_answers([folder / one], EXPERTS, shape) for one in ("generate", form))
    assert plain.recording.num_requests == 1
    assert requests_of(other.recording) == requests_of(plain.recording)


def test_the_command_reads_both(served, tmp_path):
    logged, dump = served
    out = tmp_path / "recorded.npz"
    command = [sys.executable, "-c", "from eldr_service.cli import main; main()", "--json"]
    command += ["recording", "import", str(logged), str(dump), "--experts", str(EXPERTS)]
    command += ["--hidden-layers", str(LAYERS), "--top-k", str(TOP_K), "--out", str(out)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert said["geometry"] == {"num_layers": LAYERS, "num_experts": EXPERTS, "top_k": TOP_K}
    assert Recording.load(out).num_requests == said["requests"] > REQUESTS


def test_a_dump_is_read_as_torch_reads_it(served):
    dump = load(served[1])
    code = f"""
import json, torch
dump = torch.load(r"{served[1]}", weights_only=True)
ids = [one["topk_ids_of_layer"] for one in dump["records"]]
print(json.dumps([[int(one.sum()), list(one.shape)] for one in ids]))
"""
    read = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True).stdout
    ids = [one["topk_ids_of_layer"] for one in dump["records"]]
    assert [[int(np.sum(one)), list(one.shape)] for one in ids] == json.loads(read)
