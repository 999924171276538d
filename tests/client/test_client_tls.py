import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from eldr_client import RouterClient, RouterUnavailableError, WorkerSession, aio
from scripted_router import ScriptedRouter
from wire import eventually


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    """Key and self-signed certificate for 127.0.0.1, good for both sides."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eldr test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


async def test_tls_of_both_sides_and_a_token(pair):
    key, certificate = pair
    router = ScriptedRouter().start(
        grpc.ssl_server_credentials([pair], certificate, require_client_auth=True)
    )
    options = {
        "token": "secret",
        "root_certificates": certificate,
        "client_key": key,
        "client_certificate": certificate,
        "timeout": 5,
    }
    try:
        with RouterClient(router.target, **options) as client, client.place("m", "sync"):
            pass
        async with aio.RouterClient(router.target, **options) as client:
            assert not (await client.route("m", "aio")).is_fallback
        with WorkerSession("w", "m", "http://w", target=router.target, **options) as worker:
            eventually(lambda: worker.incarnation)
        assert {metadata["authorization"] for metadata in router.metadata} == {"Bearer secret"}
        del options["client_key"], options["client_certificate"]
        with (
            RouterClient(router.target, **options) as client,
            pytest.raises(RouterUnavailableError),
        ):
            client.route("m", "stranger")
    finally:
        router.stop()
