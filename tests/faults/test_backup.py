"""The commands of docs/operations.md."""

import re
import subprocess
from pathlib import Path

from daemon import running_daemon
from wire import Client

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_a_backup_brings_back_what_was_there(tmp_path):
    backup, restore = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    state = tmp_path / "state"

    def shell(commands: str) -> None:
        subprocess.run(
            ["sh", "-euc", commands], check=True, env={"PATH": "/usr/bin:/bin", "STATE": str(state)}
        )

    with running_daemon("--state", str(state)) as daemon, Client(daemon.grpc) as client:
        client.register("m", "a")
        client.fit("m")
        client.route("m", "kept")
    shell(backup)
    with running_daemon("--state", str(state)) as daemon, Client(daemon.grpc) as client:
        client.release("m", "kept")
        client.register("m", "later")
    shell(restore)
    with running_daemon("--state", str(state)) as daemon, Client(daemon.grpc) as client:
        assert list(client.workers("m")) == ["a"]
        assert client.route("m", "kept").repeated
