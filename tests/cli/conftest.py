import datetime
import ipaddress
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from daemon import running_daemon
from routed import separable
from typer.testing import CliRunner
from wire import eventually

from eldr_service.cli.app import app


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("ELDR_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def daemon():
    """It only ever knows the model m, so that no command has to name it."""
    with running_daemon("--report-interval", "0.1", "--report-limit", "0.2") as daemon:
        yield daemon


@dataclass
class Eldr:
    """Runs `eldr` in this process, against one server."""

    server: str
    options: tuple[str, ...] = ()

    @property
    def _common(self):
        return ("--server", self.server, *self.options)

    def __call__(self, *words, code=0, on_stdout=False):
        """What it printed on stdout; on stderr where it fails, unless its answer is the failure."""
        result = CliRunner().invoke(app, [*map(str, words), *self._common])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        if code == 0 or on_stdout:
            return result.stdout
        assert not result.stdout
        return " ".join(word for word in result.stderr.split() if word != "│")

    def json(self, *words, code=0):
        """The one document that it printed."""
        result = CliRunner().invoke(app, [*map(str, words), "--json", *self._common])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def eldr(daemon):
    return Eldr(daemon.grpc)


@pytest.fixture
def eldr_at():
    """Makes an `Eldr` of a daemon's address."""
    return Eldr


TOKENS = {role: f"{role}-token-0123456789" for role in ("route", "worker", "admin")}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Files of a self-signed certificate for loopback and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "eldr")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - hour, now + hour)
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tuple(map(str, files))


@contextmanager
def with_tls_and_tokens(certificate, folder):
    tokens = folder / "tokens.toml"
    for role, token in TOKENS.items():
        with tokens.open("a") as file:
            file.write(f'[[tokens]]\nname = "{role}"\ntoken = "{token}"\nroles = ["{role}"]\n')
    cert, key = certificate
    tls = "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert
    with running_daemon(*tls, "--tokens", str(tokens)) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def secured(certificate, tmp_path_factory):
    """A daemon with TLS, client certificates and tokens; it knows several models."""
    with with_tls_and_tokens(certificate, tmp_path_factory.mktemp("tokens")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def secured_alone(certificate, tmp_path_factory):
    """The same, which knows nothing of what tests of other files did."""
    with with_tls_and_tokens(certificate, tmp_path_factory.mktemp("tokens")) as daemon:
        yield daemon


@pytest.fixture
def as_role(secured, certificate):
    """Makes an `Eldr` with everything that the secured daemon asks for."""
    cert, key = certificate
    tls = "--tls-ca", cert, "--tls-cert", cert, "--tls-key", key
    return lambda role: Eldr(secured.grpc, (*tls, "--token", TOKENS[role]))


def add_workers(eldr):
    for number in range(3):
        eldr(
            *("workers", "add", f"w{number}", "--model", "m", "--url", f"http://{number}"),
            *("--capacity", 4, "--geometry", "3x16x2", "--label", f"zone={'ab'[number % 2]}"),
        )


@pytest.fixture
def fresh_fleet():
    """The same workers as `fleet`, at a daemon that has seen no other test's requests."""
    with running_daemon() as daemon:
        eldr = Eldr(daemon.grpc)
        add_workers(eldr)
        yield eldr


@pytest.fixture
def fleet(eldr):
    """The workers w0, w1 and w2 of the model m, which is the only one before and after."""
    add_workers(eldr)
    yield eldr
    for worker in eldr.json("workers", "list")["workers"]:
        eldr("workers", "remove", worker["worker_id"], "--model", worker["model"])
    # A model is forgotten a moment after its last worker.
    eventually(lambda: {each["model"] for each in eldr.json("policy", "list")["active"]} <= {"m"})


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """24 requests of three kinds, as a file; its requests are 0, 1, 2, 0, 1, 2, …"""
    made = separable(3, 8)
    path = tmp_path_factory.mktemp("recorded") / "recording.npz"
    np.savez(
        path,
        expert_ids=made.expert_ids,
        offsets=made.offsets,
        prefill_len=made.prefill_len,
        domain=made.domains,
        num_experts=made.geometry.num_experts,
    )
    return path


@pytest.fixture(scope="session")
def aggregate(tmp_path_factory):
    """The same requests as counts alone."""
    path = tmp_path_factory.mktemp("recorded") / "counts.npz"
    np.savez(path, counts=separable(3, 8).prefill_counts())
    return path
