"""Nothing that a client sends acts on a terminal or hides in a log."""

import json
import unicodedata

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from typer.testing import CliRunner
from wire import GEOMETRY, Client, Refused

from eldr_service.cli.app import app

HOSTILE = ["\x1b[2J", "a\nb", "\x7f", "\x9b31m", "‮abc", "a⁦b", "zero​width", "\u2028", "\U000e0041"]
SPELLED = "decode-0 Ölpfütze 模型 👍"
CLEAR = "\x1b[2J\x9b31m\u202e\nnext"


def unfit(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c != "\n"}


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_names_with_control_characters_are_refused(client, model, text):
    code = f"U+{next(ord(c) for c in text if unfit(c) or c == chr(10)):04X}"
    for fields in (
        {"worker_id": text},
        {"url": f"http://{text}"},
        {"group": text},
        {"labels": {text: "x"}},
        {"labels": {"x": text}},
    ):
        with Refused("INVALID_ARGUMENT") as refused:
            client.register(model, **fields)
        assert refused.status.expected == "no control or format characters"
        assert refused.status.found == code
    for fields in ({"request_id": text}, {"model": text}, {"labels": {"x": text}}):
        request = router_pb2.RouteRequest(**{"model": model, "request_id": "r", **fields})
        with Refused("INVALID_ARGUMENT"):
            client.router.Route(request)


def test_other_characters_are_names_like_any(client, model):
    client.register(model, SPELLED, labels={SPELLED: SPELLED})
    assert client.route(model, SPELLED).worker_id == SPELLED


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logs_and_tables_hold_none_whatever_comes(log_format):
    with (
        running_daemon("--log-format", log_format, "--log-level", "debug") as daemon,
        Client(daemon.grpc) as client,
    ):
        capture = fleet_pb2.CaptureStatus(state="CAPTURE_STATE_STOPPED", reason=CLEAR)
        client.register("m", "w0", geometry=GEOMETRY, capture=capture)
        with Refused("INVALID_ARGUMENT"):
            client.fit("m", transform=CLEAR)
        log = daemon.said
        assert "[2J" in log
        assert not unfit(log)
        if log_format == "json":
            assert any(line.get("reason") == CLEAR for line in map(json.loads, log.splitlines()))
        shown = CliRunner().invoke(app, ["workers", "list", "--server", daemon.grpc])
        assert shown.exit_code == 0
        assert "\\x1b[2J" in shown.output
        assert not unfit(shown.output)
        failed = CliRunner().invoke(app, ["workers", "drain", CLEAR, "--server", daemon.grpc])
        assert failed.exit_code == 1
        assert not unfit(failed.output)
