import socket

import pytest
from scripted_router import ScriptedRouter


@pytest.fixture
def router():
    router = ScriptedRouter().start()
    yield router
    router.stop()


@pytest.fixture
def dead_target():
    """A port of this machine that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound without listening, so that nobody else gets it
        yield f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def black_hole():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
