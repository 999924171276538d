"""The part of the llm-d client that asks the daemon, by its own tests in Go, with the real one."""

from pathlib import Path

import pytest
from daemon import running_daemon
from eldr.v1.activation_pb2 import ModelGeometry
from languages import needs_go, run_go_tests
from wire import Client, eventually

LLM_D = Path(__file__).parents[2] / "clients/llm-d"
MODEL = "tiny"


@pytest.mark.timeout(900)  # gRPC is compiled, once
@needs_go
def test_go_says_that_it_passes():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        geometry = ModelGeometry(num_layers=2, num_experts=4, top_k=1)
        for number in range(6):
            url = f"http://10.0.0.{number}:8000"
            client.register(MODEL, f"d{number}", url=url, geometry=geometry)
        run_go_tests("./placing", LLM_D, ELDR_TEST_ROUTER=daemon.grpc)
        eventually(lambda: client.booked(MODEL) == 0)
