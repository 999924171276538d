"""NVIDIA Dynamo from PyPI: its frontend, workers and ELDR's router, found through files."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runtime import runtime

from benchmarks.demos.demo_vllm.processes import free_port

ROOT = Path(__file__).parents[2]
VERSION = "1.6.1"
PACKAGES = ("--no-deps", f"ai-dynamo=={VERSION}", f"ai-dynamo-runtime=={VERSION}")
# Their requirements that a frontend without a GPU imports: not transformers and kubernetes.
REQUIRED = ("pydantic>=2.10.6,<=2.13.5", "uvloop>=0.21", "msgspec>=0.19", "packaging", "pyyaml")
START_SECONDS = 120
DECODE = "pool.backend.generate"


def byte_model(folder):
    """A model's configuration and a tokenizer of single bytes, without weights."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in letters]
    alphabet = sorted([*map(chr, letters), *(chr(256 + n) for n in range(len(others)))])
    special = {"<bos>": 256, "<eos>": 257}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [
                {"id": number, "content": text, "special": True, **added}
                for text, number in special.items()
            ],
            "pre_tokenizer": {**level, "use_regex": False},
            "decoder": {**level, "use_regex": True},
            "model": {
                "type": "BPE",
                "vocab": {letter: n for n, letter in enumerate(alphabet)} | special,
                "merges": [],
            },
        },
        "tokenizer_config.json": {
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        },
        "config.json": {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "vocab_size": 260,
            "max_position_embeddings": 2048,
            "bos_token_id": 256,
            "eos_token_id": 257,
        },
    }
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def skip_without_packages():
    """Skip the test if no package index in use has Dynamo for this machine."""
    try:
        Cluster.packages()
    except subprocess.CalledProcessError:
        trial = [sys.executable, "-m", "pip", "install", "--dry-run", *PACKAGES]
        said = subprocess.run(trial, capture_output=True, text=True, check=False).stderr
        if "No matching distribution" in said:
            pytest.skip(f"needs ai-dynamo {VERSION}, which no package index in use has: see PyPI")
        raise


class Cluster:
    """Processes with a common discovery folder, and calls to the frontend."""

    def __init__(self, folder):
        self.folder = folder
        self.model = self.make_model(folder / "model")
        self.children = {}
        self.port = free_port()

    make_model = staticmethod(byte_model)

    @staticmethod
    def packages():
        """The folders with Dynamo and its requirements that this environment lacks."""
        return [runtime(*PACKAGES), runtime(*REQUIRED)]

    def start(self, name, *command, **env):
        """Run `python COMMAND` with Dynamo and this checkout's clients; output in NAME.log."""
        ours = [ROOT / "clients" / each for each in ("dynamo", "python")]
        given = filter(None, [os.environ.get("PYTHONPATH")])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [*ours, *self.packages(), *given])),
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(self.folder / "discovery"),
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_SELF_HOST_METADATA": "0",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            **env,
        }
        with self.log(name).open("wb") as output:
            self.children[name] = subprocess.Popen(
                [sys.executable, *command], stdout=output, stderr=output, env=environment
            )

    def log(self, name):
        return self.folder / f"{name}.log"

    def start_frontend(self, *flags):
        port = ("--http-port", str(self.port), "--http-host", "127.0.0.1")
        self.start("frontend", "-m", "dynamo.frontend", *port, "--namespace", "dynamo", *flags)

    def start_prefill(self, name="prefill"):
        self._worker(name, "prefill", "dynamo.prefill.generate", "-")

    def start_decode(self, letter, **env):
        self._worker(letter, "decode", DECODE, letter, **env)

    def _worker(self, name, role, endpoint, letter, **env):
        program = str(ROOT / "tests/support/dynamo_engine.py")
        self.start(name, program, role, endpoint, str(self.model), letter, **env)

    def start_router(self, daemon, *flags, name="router"):
        said = ["--model-path", str(self.model), "--model-name", "tiny", "--router", daemon]
        said += ["--route-timeout", "5"]  # on cores that may be busy
        self.start(name, "-m", "eldr_dynamo.cli", *said, "--endpoint", DECODE, *flags)

    def kill(self, name, how=signal.SIGKILL):
        child = self.children.pop(name)
        child.send_signal(how)
        child.wait(30)

    def said(self, name):
        """What a worker has printed as JSON."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def worker_id(self, letter):
        """A decode worker's id in ELDR's router."""
        self.until(lambda: self.said(letter), f"{letter} registers")
        return f"{DECODE}/{self.said(letter)[0]['instance']}"

    def post(self, prompt, max_tokens=4, **more):
        """The connection, and a completion's answer with its body still unread."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, **more}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        return connection, connection.getresponse()

    def complete(self, prompt, max_tokens=4, **more):
        """The answer's status, its text or error, and the request's id."""
        connection, answer = self.post(prompt, max_tokens, **more)
        said = answer.read().decode()
        connection.close()
        if answer.status != 200:
            return answer.status, said, ""
        completion = json.loads(said)
        return 200, completion["choices"][0]["text"], completion["id"].removeprefix("cmpl-")

    def serves(self):
        """Whether the frontend has the model, prefill and decode."""
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            return answer.status == 200 and bool(json.loads(answer.read())["data"])
        return False

    def until(self, condition, what, seconds=START_SECONDS):
        """Wait until the condition holds; fails if a process ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            for name, child in self.children.items():
                assert child.poll() is None, f"{name}: {self.log(name).read_text()[-4000:]}"
            logs = {name: self.log(name).read_text()[-1500:] for name in self.children}
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s; {logs}"
            time.sleep(0.1)


@contextmanager
def ended(children):
    """Stop these processes when the block ends."""
    try:
        yield
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def running_cluster(folder, daemon, letters="ab"):
    """A frontend, one prefill worker, ELDR's router and a decode worker per letter, all ready."""
    cluster = Cluster(folder)
    with ended(cluster.children):
        cluster.start_frontend()
        cluster.start_prefill()
        for letter in letters:
            cluster.start_decode(letter)
        cluster.start_router(daemon)
        cluster.until(cluster.serves, "the frontend has the model")
        cluster.until(lambda: cluster.complete("ready?")[0] == 200, "a request is answered")
        yield cluster
