"""Certificates are replaced while the daemon serves, without a failed call."""

import signal
import threading
from pathlib import Path

import grpc
import pytest
from certificates import issue
from daemon import running_daemon
from grpc_health.v1 import health_pb2
from wire import Client, eventually


class Site:
    """A folder with the daemon's certificate, key and authority of clients, to be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = issue("authority")
        self.clients = issue("clients")
        self.replace(self.authority)
        self.clients.write(folder, "clients")

    @property
    def flags(self):
        names = {"--tls-cert": "server.crt", "--tls-key": "server.key"}
        return [part for flag, name in names.items() for part in (flag, str(self.folder / name))]

    def replace(self, authority, name="server") -> None:
        """Each file in one step, the pair in two."""
        for new in issue("server", authority).write(self.folder, "new"):
            new.replace(self.folder / f"{name}{new.suffix}")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def code_of(daemon, authority, identity=None):
    """How a check over a connection of its own ends."""
    pair = (identity.key, identity.chain) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.chain, *pair)
    with Client(daemon.grpc, credentials=credentials) as client:
        try:
            client.health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def test_rotated_certificates_are_taken_without_a_failed_call(site):
    second = issue("second authority")
    codes, stop = [], threading.Event()

    def call_on_and_on(daemon):
        both = issue("x")  # only to hold the two authorities' certificates
        trusted = site.authority.chain + second.chain
        while not stop.is_set():
            codes.append(code_of(daemon, type(both)(both.subject, both.private, b"", trusted)))

    with running_daemon(*site.flags) as daemon:
        credentials = grpc.ssl_channel_credentials(site.authority.chain)
        with Client(daemon.grpc, credentials=credentials) as settled:
            settled.register("m")
            calling = threading.Thread(target=call_on_and_on, args=(daemon,))
            calling.start()
            assert code_of(daemon, second) == "UNAVAILABLE"
            site.replace(second)
            eventually(lambda: code_of(daemon, second) == "OK")
            assert code_of(daemon, site.authority) == "UNAVAILABLE"
            assert settled.workers("m")  # the connection that was there goes on
            stop.set()
            calling.join()
    assert set(codes) == {"OK"}
    assert len(codes) > 10


def test_authorities_of_clients_are_rotated_too(site):
    ours, theirs = issue("client", site.clients), issue("client", issue("other clients"))
    flags = [*site.flags, "--tls-client-ca", str(site.folder / "clients.crt")]
    with running_daemon(*flags) as daemon:
        assert code_of(daemon, site.authority, ours) == "OK"
        assert code_of(daemon, site.authority, theirs) == "UNAVAILABLE"
        renewed = issue("clients, renewed")
        renewed.write(site.folder, "clients")
        new = issue("client", renewed)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: code_of(daemon, site.authority, new) == "OK")
        assert code_of(daemon, site.authority, ours) == "UNAVAILABLE"
        assert code_of(daemon, site.authority) == "UNAVAILABLE"


@pytest.mark.parametrize("broken", ["nonsense", "another key", "missing"])
def test_broken_files_leave_the_earlier_ones_in_force_and_are_said_once(site, broken):
    with running_daemon(*site.flags, "--log-format", "json") as daemon:
        key = site.folder / "server.key"
        if broken == "missing":
            key.unlink()
        else:
            key.write_bytes(issue("x").key if broken == "another key" else b"nonsense")

        def said():
            return [line for line in daemon.logs if "not reloaded" in line["event"]]

        eventually(lambda: said())
        assert code_of(daemon, site.authority) == "OK"
        assert "server.key" in said()[0]["error"]
        daemon.process.send_signal(signal.SIGHUP)  # who asks is told again
        eventually(lambda: len(said()) == 2)
        site.replace(site.authority)
        eventually(lambda: any(line["event"] == "certificates reloaded" for line in daemon.logs))
        assert len(said()) == 2
        assert code_of(daemon, site.authority) == "OK"
        assert "PRIVATE" not in daemon.said
