"""What the probe makes of an engine whose experts change while it serves."""

import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.vllm

LAYERS, EXPERTS, TOP_K, TOKENS = 2, 64, 2, 40


class Answers(BaseHTTPRequestHandler):
    """Experts that follow from the server's weights and the prompt; `noise` mixes others in."""

    def do_POST(self):
        from eldr_client import Counts
        from eldr_vllm.scheduler.transfer_params import encode_counts

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        noise = self.server.asked if self.server.noise else 0
        rng = np.random.default_rng(
            [zlib.crc32(body["prompt"].encode()), self.server.weights, noise]
        )
        counts = np.stack(
            [
                rng.multinomial(TOKENS * TOP_K, rng.dirichlet(np.full(EXPERTS, 0.1)))
                for _ in range(LAYERS)
            ]
        )
        said = encode_counts(Counts(counts.astype(np.uint32), TOP_K).to_proto())
        answer = json.dumps({"kv_transfer_params": {"eldr": {"counts": said}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """No word of it on stderr."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked, server.weights, server.noise = 0, 0, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def probe(server):
    from eldr_vllm.scheduler.capture_state import CaptureState
    from eldr_vllm.scheduler.probe import Probe
    from eldr_vllm.settings import Settings

    address = SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", dp_rank=0)
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(data_parallel_size=1),
        model_config=SimpleNamespace(served_model_name="m"),
    )
    capture = CaptureState(probes=True)
    probe = Probe(Settings(), address, config, "key", capture)
    probe.run()
    assert capture.capturing
    return SimpleNamespace(again=probe.again, capture=capture)


def test_the_same_again_costs_one_completion(server, probe):
    before = server.asked
    probe.again()
    assert server.asked == before + 1
    assert probe.capture.capturing


def test_new_weights_are_taken_as_they_are(server, probe):
    server.weights = 1
    probe.again()
    before = server.asked
    probe.again()
    assert server.asked == before + 1  # what they tell is what is expected from now on
    assert probe.capture.capturing


def test_experts_that_differ_each_time_end_the_capture(server, probe):
    server.noise = True
    probe.again()
    assert probe.capture.stopped
    assert "while the engine served" in probe.capture.status().reason


@pytest.mark.parametrize(
    ("others", "alone"),
    [({}, True), ({"decode": (90, 91)}, True), ({"a": (0, 30), "b": (5, 25)}, False)],
)
def test_a_prompt_among_few_tokens_of_others_counts_as_alone(others, alone):
    from eldr_vllm.scheduler.prefill import _is_alone

    step = SimpleNamespace(computed={"probe": (0, 40), **others})
    assert _is_alone("probe", step) is alone
