"""The walk of docs/grpc.md."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from daemon import running_daemon

ROOT = Path(__file__).parents[1]
BUF = Path(sys.executable).with_name("buf")


def walk() -> list[list[str]]:
    """The page's grpcurl commands, as arguments."""
    blocks = re.findall(r"```sh\n(grpcurl.*?)```", (ROOT / "docs/grpc.md").read_text(), flags=re.S)
    commands: list[list[str]] = []
    for word in shlex.split(blocks[0].replace("\\\n", " "), comments=True):
        if word == "grpcurl":
            commands.append([])
        commands[-1].append(word)
    return commands


def test_the_walk_by_hand():
    """The same calls by `buf curl`, which reads reflection as grpcurl does."""
    answers = []
    with running_daemon() as daemon:
        for command in walk():
            grpcurl, plaintext, flag, data, _address, method = command
            assert (grpcurl, plaintext, flag) == ("grpcurl", "-plaintext", "-d")
            url = f"http://{daemon.grpc}/{method}"
            curl = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", data, url]
            answer = subprocess.run(curl, capture_output=True, text=True, check=True)
            answers.append(json.loads(answer.stdout))
    *_, first, second, released = answers
    workers = set()
    for placed in (first, second):
        placement = placed["placement"]
        assert placement["reason"] == "PLACEMENT_REASON_LOCALITY_BAND"
        assert len(placement["scores"]) == 4
        alike = {s["workerId"] for s in placement["scores"] if s.get("similarity", 0) > 0.5}
        assert len(alike) == 2
        assert placement["workerId"] in alike
        assert alike == {s["workerId"] for s in placement["scores"] if s.get("inBand")}
        workers |= alike
    assert len(workers) == 4  # the two kinds share none
    assert released == {"result": "RELEASE_RESULT_RELEASED"}
