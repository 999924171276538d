"""Options of the connection, what they beat, and what is said when there is none."""

import socket

import pytest
from typer.testing import CliRunner

from eldr_service.cli.app import app


@pytest.fixture
def hole():
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def run(*words, **env):
    return CliRunner().invoke(app, words, env=env)


def test_options_stand_before_or_after_the_command_or_in_the_environment(daemon):
    command = "workers", "list"
    assert run("--server", daemon.grpc, *command).exit_code == 0
    assert run(*command, "--server", daemon.grpc).exit_code == 0
    assert run(*command, ELDR_SERVER=daemon.grpc).exit_code == 0
    nobody = "127.0.0.1:1"
    assert run("--server", nobody, *command, "--server", daemon.grpc).exit_code == 0
    assert run("--server", daemon.grpc, *command, ELDR_SERVER=nobody).exit_code == 0
    assert run(*command, "--server", daemon.grpc, ELDR_SERVER=nobody).exit_code == 0
    assert run("--json", *command, "--server", nobody).stdout.startswith("{")


def test_nobody_there(eldr, hole):
    eldr.server = "127.0.0.1:1"
    told = "nothing listens at 127.0.0.1:1; is eldr-server running, and at that address (--server)?"
    assert eldr("workers", "list", code=1) == f"error: {told}"
    error = eldr.json("policy", "list", code=1)["error"]
    assert (error["code"], error["message"]) == ("UNAVAILABLE", told.partition(";")[0])
    eldr.server, eldr.options = hole, ("--timeout", "0.2")
    assert "gave no answer within 0.2 s" in eldr("workers", "list", code=1)


def test_replicas(eldr, daemon):
    eldr.server = f"127.0.0.1:1,{daemon.grpc}"
    assert eldr.json("workers", "list") == {"workers": []}
    eldr.server = "127.0.0.1:1,127.0.0.1:2"
    assert "nothing listens at 127.0.0.1:1,127.0.0.1:2" in eldr("workers", "list", code=1)


def test_wrong_connections_are_wrong_use(eldr, certificate):
    listing = "workers", "list"
    assert "Missing" not in eldr(*listing)
    for options, told in (
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "nan"), "--timeout"),
        (("--token", "ä" * 20), "printable ASCII"),
        (("--tls-key", certificate[1]), "go together"),
        (("--tls-ca", "missing.pem"), "does not exist"),
    ):
        eldr.options = options
        assert told in eldr(*listing, code=2)
    eldr.server, eldr.options = "localhost", ()
    told = "expected HOST:PORT with a port from 1 to 65535, several"
    assert told in eldr(*listing, code=2)
    eldr.server = "127.0.0.1:1,localhost"
    assert told in eldr(*listing, code=2)


def test_tls_with_certificates_and_a_token(as_role, certificate, tmp_path):
    eldr = as_role("admin")
    assert eldr.json("workers", "list") == {"workers": []}
    token = tmp_path / "token"
    token.write_text(f"{eldr.options[-1]}\n")
    eldr.options = (*eldr.options[:-2], "--token", "unknown", "--token-file", str(token))
    assert eldr.json("workers", "list") == {"workers": []}
    eldr.options = ("--tls-ca", certificate[0])
    assert "no eldr-server answers at" in eldr("workers", "list", code=1)
    eldr.options = ()
    assert "does it use TLS (--tls-ca)?" in eldr("workers", "list", code=1)


def test_tokens_say_who_may_do_what(as_role):
    stranger, router, worker = as_role("route"), as_role("route"), as_role("worker")
    stranger.options = stranger.options[:-2]
    assert "give a token with --token-file, --token or ELDR_TOKEN" in stranger(
        "workers", "list", code=1
    )
    stranger.options += ("--token", "of-nobody-0123456789")
    assert "unknown token" in stranger("workers", "list", code=1)
    told = router("workers", "list", code=1)
    assert told.endswith(
        "token route lacks the role for this call; ListWorkers needs the role admin"
    )
    told = router("workers", "add", "w", "--model", "m", "--url", "u", code=1)
    assert told.endswith("RegisterWorker needs the role worker or admin")
    assert "the token may not list models" in router("route", code=2)
    worker("workers", "add", "w0", "--model", "a", "--url", "u")
    assert router.json("route", "--model", "a")["placement"]["worker_id"] == "w0"
    as_role("admin")("workers", "remove", "w0")


def test_where_there_are_several_models_one_must_be_named(as_role, aggregate):
    eldr = as_role("admin")
    for model in ("a", "b"):
        eldr("workers", "add", "w0", "--model", model, "--url", "u")
    assert "no partitions yet; eldr fit" in eldr("partition", "list")
    assert "--model: expected one of a, b" in eldr("workers", "drain", "w0", code=2)
    for words in (("route",), ("policy", "set", "random"), ("partition", "show")):
        assert "--model: expected one of a, b" in eldr(*words, code=2)
    counts = "--counts", aggregate, "--top-k", 2
    explained = eldr("explain", "--model", "b", *counts)
    assert "the model has no partition, so the least loaded of 1 eligible worker: w0" in explained
    assert "eldr fit --import --activate makes a partition" in explained
    assert "b has no active partition" in eldr("partition", "show", "--model", "b", code=1)
    for model in ("a", "b"):
        eldr("workers", "remove", "w0", "--model", model)
