"""What the command line says to those who may not do what they ask, or ask at the wrong port."""

import pytest
from daemon import running_daemon
from typer.testing import CliRunner

from eldr_service.cli.app import app

TOKEN = "of-qwen-token-0123456789"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    entry = "[[tokens]]\nname = 'q'\ntoken = '{}'\nroles = ['{}']\nmodels = ['qwen*']\n"
    tokens.write_text(entry.format(TOKEN, "admin") + entry.format(TOKEN[::-1], "route"))
    tokens.chmod(0o600)
    with running_daemon("--tokens", str(tokens), "--admin-listen", "127.0.0.1:0") as daemon:
        yield daemon


def said(address, *words, token=TOKEN):
    result = CliRunner().invoke(app, [*words, "--server", address, "--token", token])
    assert result.exit_code == 1
    return " ".join(result.stderr.split())


def test_another_model_is_no_matter_of_roles(daemon):
    told = said(daemon.admin, "policy", "set", "random", "--model", "gpt-oss")
    assert told == "error: token q is not for this model"


def test_a_role_that_lacks_is_named(daemon):
    told = said(daemon.admin, "policy", "set", "random", "--model", "qwen", token=TOKEN[::-1])
    assert told.endswith("SetPolicy needs the role admin")


def test_administration_at_the_other_port_is_hinted_at(daemon):
    told = said(daemon.grpc, "policy", "set", "random", "--model", "qwen")
    assert told.endswith("without --admin-listen on another port?")
