"""The proxy with a daemon that asks for TLS, a client's certificate and a token."""

import asyncio
import time

import pytest
from daemon import running_daemon
from eldr_client import WorkerSession
from eldr_vllm.proxy.cli import read_settings
from eldr_vllm.proxy.reach import CheckedResolver, ForbiddenAddressError, check_url
from scripted_engine import MODEL, running_rig
from test_proxy_daemon import health, register

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
            deadline = time.monotonic() + 60
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


@pytest.mark.parametrize("to_fleet", [False, True])
async def test_the_callers_credentials_go_to_the_fleet_only_where_that_is_said(to_fleet):
    headers = {"authorization": "Bearer key", "X-Api-Key": "key", "X-Tenant-Id": "t"}
    with running_daemon() as daemon:
        async with running_rig(
            static=False, router=daemon.grpc, credentials_to_fleet=to_fleet
        ) as rig:
            await registered(daemon, rig)
            body = {"model": MODEL, "prompt": "Hello"}
            async with rig.session.post(
                rig.url + "/v1/completions", json=body, headers=headers
            ) as answer:
                assert answer.status == 200
            seen = [got for e in (*rig.prefill, *rig.decode) for got in e.headers]
            assert len(seen) == 2
            for got in seen:
                assert got["X-Tenant-Id"] == "t"
                assert ("Authorization" in got, "X-Api-Key" in got) == (to_fleet, to_fleet)


@pytest.mark.parametrize("allowed", [False, True])
async def test_an_engine_at_an_address_that_is_no_hosts_is_not_asked(allowed, caplog):
    with running_daemon() as daemon:
        async with running_rig(
            decodes=1, static=False, router=daemon.grpc, allow_link_local=allowed
        ) as rig:
            rig.decode[0].url = rig.decode[0].url.replace("127.0.0.1", "0.0.0.0")
            await registered(daemon, rig)
            answer, _ = await rig.post()
            assert answer.status == (200 if allowed else 502)
            assert len(rig.decode[0].bodies) == allowed
            assert ("0.0.0.0 is link-local, multicast, unspecified" in caplog.text) != allowed


async def registered(daemon, rig):
    """The rig's engines at a daemon, as soon as the proxy knows them."""
    register(daemon, rig)
    deadline = time.monotonic() + 60
    while (await health(rig))["status"] != "ok":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "0.0.0.0",
    ],
)
def test_addresses_of_metadata_services(host):
    with pytest.raises(ForbiddenAddressError, match="need --allow-link-local"):
        check_url(f"http://{host}:80/latest/meta-data")


def test_ordinary_addresses():
    for host in ("10.0.0.7", "192.168.1.1", "127.0.0.1", "[fd00::7]", "engine.local", "[::1]"):
        check_url(f"http://{host}:8000")


async def test_a_name_of_a_forbidden_address_is_not_resolved():
    assert await CheckedResolver().resolve("localhost", 80)
    with pytest.raises(ForbiddenAddressError):
        await CheckedResolver().resolve("169.254.169.254", 80)
