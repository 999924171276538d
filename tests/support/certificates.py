"""Certificates for tests: an authority, and those it signs for loopback."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@dataclass(frozen=True)
class Identity:
    """A key and its certificate, to sign with and as PEM."""

    subject: x509.Name
    private: ec.EllipticCurvePrivateKey
    key: bytes
    chain: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write certificate and key to files."""
        files = folder / f"{name}.crt", folder / f"{name}.key"
        for file, text in zip(files, (self.chain, self.key), strict=True):
            file.write_bytes(text)
        return files


def issue(name: str, issuer: Identity | None = None) -> Identity:
    """An authority; with `issuer`, an identity at 127.0.0.1 signed by it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(loopback, critical=False)
        .sign(issuer.private if issuer else key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(subject, key, pem, certificate.public_bytes(Encoding.PEM))
