"""What listens at an address: nothing, plain text or TLS, and why a TLS handshake fails."""

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What one connection to an address found.

    Attributes
    ----------
    error : str
        Why there was no connection, in words; empty if there was one.
    speaks_tls : bool
    distrust : str
        Why the certificate is not trusted; empty if it is, or was not checked.
    wants_certificate : bool
        Callers without a certificate of their own are refused.
    expires_in : float or None
        Seconds until the certificate ends; None if it was not checked.
    """

    error: str = ""
    speaks_tls: bool = False
    distrust: str = ""
    wants_certificate: bool = False
    expires_in: float | None = None


def connect(
    host: str,
    port: int,
    seconds: float,
    *,
    tls: bool = True,
    ca: Path | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> Listener:
    """Connect, and with `tls` shake hands; `ca` checks its certificate, `certificate` is ours."""
    try:
        with socket.create_connection((host, port), seconds) as connection:
            return _shake_hands(connection, host, ca, certificate) if tls else Listener()
    except ConnectionRefusedError:
        return Listener(error="nothing listens there")
    except socket.gaierror as error:
        return Listener(error=f"the name does not resolve here ({error.strerror})")
    except TimeoutError:
        return Listener(error=f"no answer within {seconds:g} s")
    except OSError as error:
        return Listener(error=error.strerror or str(error))


def _shake_hands(
    connection: socket.socket, host: str, ca: Path | None, own: tuple[Path, Path] | None
) -> Listener:
    context = ssl.create_default_context(cafile=ca)
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # gRPC hangs up on clients that do not offer it
    if own:
        context.load_cert_chain(*own)
    try:
        speaking = context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return Listener(speaks_tls=True, distrust=error.verify_message)
    except ssl.SSLError as error:
        return Listener(speaks_tls="CERTIFICATE" in (error.reason or "").upper())
    except OSError:  # a server of plain gRPC hung up
        return Listener()
    with speaking:
        told = speaking.getpeercert() if ca else None
        expires = ssl.cert_time_to_seconds(str(told["notAfter"])) - time.time() if told else None
        try:  # with TLS 1.3 a missing certificate is refused only after the handshake
            refuses = not speaking.recv(1)
        except TimeoutError:
            refuses = False
        except OSError:
            refuses = True
        return Listener(speaks_tls=True, wants_certificate=refuses, expires_in=expires)
