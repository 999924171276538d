"""TLS certificates that may be replaced while the daemon serves."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog

CHECK_SECONDS = 1.0

log = structlog.get_logger("eldr")


class CertificateError(Exception):
    """Certificate, key or authorities cannot be used; says which and why, and shows no key."""


class Certificates:
    """Certificate chain, private key and client authorities, as in their files.

    New handshakes use what was read last; existing connections keep what they began with.

    Parameters
    ----------
    chain, key : Path
        PEM files.
    authorities : Path, optional
        PEM file; if given, clients must present a certificate signed by one of them.

    Raises
    ------
    CertificateError
        The files cannot be used.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self._authorities = authorities
        self._read = self._contents()
        self._check()
        self._current = self._configuration()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow `reload`."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            lambda: self._current,  # called in a gRPC thread, once per handshake
            require_client_authentication=self._authorities is not None,
        )

    def reload(self) -> bool:
        """Reread the files if they have changed; if they are wrong, the earlier ones stay in force.

        Returns
        -------
        bool
            Whether new certificates are in force.

        Raises
        ------
        CertificateError
            The current files cannot be used.
        """
        contents = self._contents()
        if contents == self._read:
            return False
        self._check()
        if self._contents() != contents:  # changed during the check; the next call will see
            return False
        self._read = contents
        self._current = self._configuration()
        return True

    async def watch(self) -> None:
        """Reload whenever the files change, without end; logs each fault once."""
        said = ""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                if await asyncio.to_thread(self.reload):
                    log.info("certificates reloaded", file=str(self._chain))
                said = ""
            except CertificateError as error:
                if str(error) != said:
                    said = str(error)
                    log.error(
                        "certificates not reloaded, the earlier ones stay in force", error=said
                    )

    def _contents(self) -> Sequence[bytes]:
        files = [self._chain, self._key, *([self._authorities] if self._authorities else [])]
        try:
            return [file.read_bytes() for file in files]
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from error

    def _check(self) -> None:
        """Refuse what gRPC would only find out during a handshake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._chain, self._key, password=lambda: "")
        except (OSError, ValueError) as error:  # ssl.SSLError among them
            raise CertificateError(
                f"{self._chain} and {self._key}: expected a certificate chain and its private key"
                f" without a passphrase, both PEM ({_reason(error)})"
            ) from error
        if self._authorities:
            try:
                context.load_verify_locations(self._authorities)
            except (OSError, ValueError) as error:
                raise CertificateError(
                    f"{self._authorities}: expected PEM certificates ({_reason(error)})"
                ) from error

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        chain, key, *authorities = self._read
        return grpc.ssl_server_certificate_configuration(
            [(key, chain)], authorities[0] if authorities else None
        )


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
