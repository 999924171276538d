import uuid

import pytest
from daemon import running_daemon
from wire import Client


@pytest.fixture(scope="session")
def daemon():
    """One daemon for all tests that need no other; each has models of its own in it."""
    with running_daemon("--log-format", "json", "--max-models", "100000") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def client(daemon):
    with Client(daemon.grpc) as client:
        yield client


@pytest.fixture
def model():
    return f"model-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def fleet(client, model):
    """A model with four workers and a partition for kinds 0 to 3; its name."""
    for number in range(4):
        client.register(model, f"w{number}")
    client.fit(model, kinds=4)
    return model
