"""What `eldr` says to the likely mistakes, and that its help names no types for values."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from eldr_service.cli.app import app


def commands(command, words=()):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


@pytest.mark.parametrize("words", list(commands(get_command(app))), ids=" ".join)
def test_help_says_what_a_value_is(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    for nothing in ("<bool>", "<str>", "<int>", "<float>", "<list", "range>", "TEXT", "4294967295"):
        assert nothing not in shown.output


def test_all_that_is_missing_is_named_at_once(eldr):
    assert "Missing WORKER, --model, --url." in eldr("workers", "add", code=2)
    assert "Missing --url." in eldr("workers", "add", "w", "--model", "m", code=2)
    assert "Missing VERSION, FILE." in eldr("partition", "export", code=2)


def test_names_that_are_nearly_right(fleet):
    assert "no worker w0x; did you mean w0?" in fleet("workers", "drain", "w0x", code=1)
    fleet("workers", "add", "x", "--model", "Qwen3-30B", "--url", "http://x")
    for words in (("route",), ("release", "r"), ("explain", "r"), ("policy", "set", "random")):
        assert "did you mean Qwen3-30B?" in fleet(*words, "--model", "Qwen-30B", code=1), words
    assert "did you mean" not in fleet("route", "--model", "other", code=1)


def test_one_is_not_many(fleet):
    fleet("route", "--request-id", "a single one", "--pin", "w0")
    refused = fleet("workers", "add", "w0", "--model", "m", "--url", "http://w", code=1)
    assert "READY, with 1 booking;" in refused
    assert fleet("workers", "drain", "w0") == "draining w0 of m: 1 sequence booked on it\n"
    assert fleet("workers", "remove", "w0") == "removed w0 from m: 1 booking ended\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--geometry", "3x16x99"), "--geometry top_k: expected"),
        (("--label", f"k={'v' * 300}"), "--label k: expected 0 to 256 bytes"),
        (("--kv-tokens", 1 << 60), "--kv-tokens: expected below"),
        (("--group", "g" * 300), "--group: expected 0 to 256 bytes"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_errors_name_what_was_written(eldr, words, told):
    add = "workers", "add", "w", "--model", "m", "--url", "http://w"
    assert told in eldr(*add, *words, code=1)
    error = eldr.json(*add, *words, code=1)["error"]
    assert error["field"]  # the contract's own, for programs


def test_a_figure_that_is_nearly_right(recording):
    result = CliRunner().invoke(
        app, ["report", "--activations", str(recording), "--figure", "raet"]
    )
    assert result.exit_code == 2
    assert "did you mean rate" in " ".join(result.output.replace("│", "").split())
