"""Unmodified vLLM loads the checkpoint, and the widened one, and says the same with both."""

import json
import os
import subprocess
import sys

import pytest

WHY = "needs vLLM: `make test-vllm` installs it and runs this"
pytest.importorskip("vllm", reason=WHY)
torch = pytest.importorskip("torch", reason=WHY)

from benchmarks.engines.tiny_moe import checkpoint, widen  # noqa: E402

pytestmark = pytest.mark.vllm

PROMPTS = (
    "import os\nimport sys\n\n\ndef ",
    "#ifndef _LINUX_",
    '      "name": "',
    "You may copy and distribute the ",
    "NOM\n",
    "DESCRIPCIÓN\nLa función ",
    "BESCHREIBUNG\nDie Funktion ",
    "ОПИСАНИЕ\nФункция ",
    "描述\n",
    "説明\n",
)
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    folder, out, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    llm = LLM(folder, dtype="float32", enforce_eager=True, block_size=32, max_model_len=512)
    params = SamplingParams(temperature=0, max_tokens=80)
    answers = [request.outputs[0] for request in llm.generate(prompts, params)]
    with open(out, "w") as file:
        json.dump([[list(a.token_ids), a.text] for a in answers], file)
"""


def answers(folder, out):
    """Tokens and text of each answer, from a process of its own: its memory goes with it."""
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    script = out.with_suffix(".py")
    script.write_text(GENERATE)
    command = [sys.executable, str(script), str(folder), str(out), json.dumps(PROMPTS)]
    subprocess.run(command, env=environment, check=True)
    return json.loads(out.read_text())


def test_vllm_says_the_same_with_wider_experts(tmp_path):
    widen.widen(checkpoint.CHECKPOINT, tmp_path / "wide", 1024, torch.float32)
    narrow = answers(checkpoint.CHECKPOINT, tmp_path / "narrow.json")
    wide = answers(tmp_path / "wide", tmp_path / "wide.json")
    assert narrow == wide
    for prompt, (tokens, text) in zip(PROMPTS, narrow, strict=True):
        print(repr(prompt + text))  # to be looked at, with -s
        spoken = bytes(token for token in tokens if token < checkpoint.END_OF_TEXT)
        assert text.replace("\ufffd", "") == spoken.decode(errors="ignore")
