"""The proxy with a daemon that asks for TLS, a client's certificate and a token."""

import asyncio
import time

import pytest
from daemon import running_daemon
from eldr_client import WorkerSession
from eldr_vllm.proxy.cli import read_settings
from scripted_engine import MODEL, running_rig
from test_proxy_daemon import health

TOKEN = "admin-token-0123456789"
PLACED = 'eldr_proxy_placements_total{reason="LEAST_LOADED_NO_SIGNATURE"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Certificates and keys of the authority, the daemon and the proxy, and the token."""
    pytest.importorskip("cryptography")
    from certificates import issue

    folder = tmp_path_factory.mktemp("credentials")
    authority = issue("authority")
    authority.write(folder, "authority")
    for name in ("daemon", "proxy"):
        issue(name, authority).write(folder, name)
    (folder / "token").write_text(TOKEN + "\n")
    tokens = folder / "tokens.toml"
    tokens.write_text(f"[[tokens]]\nname = 'proxy'\ntoken = '{TOKEN}'\nroles = ['admin']\n")
    tokens.chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def daemon(folder):
    files = {
        "--tls-cert": "daemon.crt",
        "--tls-key": "daemon.key",
        "--tls-client-ca": "authority.crt",
        "--tokens": "tokens.toml",
    }
    with running_daemon(*(part for f, n in files.items() for part in (f, f"{folder}/{n}"))) as it:
        yield it


@pytest.fixture
def environ(folder):
    return {
        "ELDR_PROXY_TOKEN_FILE": f"{folder}/token",
        "ELDR_PROXY_ROOT_CERTIFICATES": f"{folder}/authority.crt",
        "ELDR_PROXY_CLIENT_KEY": f"{folder}/proxy.key",
        "ELDR_PROXY_CLIENT_CERTIFICATE": f"{folder}/proxy.crt",
    }


async def test_it_learns_its_fleet_and_is_given_placements(daemon, environ):
    credentials = read_settings([], environ).credentials
    async with running_rig(decodes=1, static=False, router=daemon.grpc, **credentials) as rig:
        with (
            WorkerSession(
                "p", MODEL, rig.prefill[0].url, role="PREFILL", target=daemon.grpc, **credentials
            ),
            WorkerSession("d", MODEL, rig.decode[0].url, target=daemon.grpc, **credentials),
        ):
            deadline = time.monotonic() + 15
            while (await health(rig))["status"] != "ok":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            assert (await rig.post())[0].status == 200
            assert await rig.metric(PLACED) == 1


@pytest.mark.parametrize("missing", ["ROOT_CERTIFICATES", "CLIENT"])
async def test_without_its_papers_it_places_in_turn(daemon, environ, missing):
    given = {k: v for k, v in environ.items() if not k.startswith(f"ELDR_PROXY_{missing}")}
    credentials = read_settings([], given).credentials
    async with running_rig(router=daemon.grpc, **credentials) as rig:
        assert (await health(rig))["router"] == "down"
        assert (await rig.post())[0].status == 200
        assert await rig.metric('eldr_proxy_placements_total{reason="CLIENT_FALLBACK"}') == 1


def test_credentials_that_cannot_be_used_are_wrong_use(environ, capsys):
    for flags in (["--root-certificates", "/none"], ["--client-key", environ.popitem()[1]]):
        with pytest.raises(SystemExit) as end:
            read_settings(flags, {})
        assert end.value.code == 2
        assert flags[0] in capsys.readouterr().err
