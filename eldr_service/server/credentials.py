"""Certificates and tokens from the settings: who may call, and how the daemon proves itself."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from eldr_service.core.errors import EldrError
from eldr_service.server.config import Settings
from eldr_service.server.rpc.auth import TokenInterceptor, Tokens
from eldr_service.server.rpc.certificates import Certificates

if TYPE_CHECKING:
    from eldr_service.server.rpc.key_set import KeySet
    from eldr_service.server.rpc.signed_tokens import SignedTokens


class CredentialsError(Exception):
    """A package that the settings need is not installed; says which."""


class Credentials:
    """Credentials read from their files on creation, and again by `reload`.

    Parameters
    ----------
    settings : Settings
    refused : callable (full method name, error)
        Told of each call that is refused for its token.

    Attributes
    ----------
    certificates : Certificates or None
        None without TLS.
    guard : TokenInterceptor
        Finds a token's caller.

    Raises
    ------
    CredentialsError, TokensFileError, CertificateError
    """

    def __init__(self, settings: Settings, refused: Callable[[str, EldrError], None]) -> None:
        self._tokens = Tokens(settings.tokens) if settings.tokens else None
        self._keys, self._signed = _signed_tokens(settings)
        self.certificates = (
            Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            if settings.tls_cert and settings.tls_key
            else None
        )
        self.guard = TokenInterceptor(self._tokens, refused, self._signed)

    @property
    def has_tokens(self) -> bool:
        """Whether callers need a token."""
        return bool(self._tokens or self._signed)

    def watching(self) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that keep certificates and keys current; run them as long as the daemon."""
        certificates = [self.certificates.watch()] if self.certificates else []
        return [*certificates, *([self._keys.keep_reading()] if self._keys else [])]

    def reload(self) -> None:
        """Reread tokens and certificates; if one is wrong, the old one stays in force."""
        if self._tokens:
            self._tokens.reload()
        if self.certificates:
            self.certificates.reload()


def _signed_tokens(settings: Settings) -> tuple["KeySet | None", "SignedTokens | None"]:
    """The verifier of JWTs, if the settings ask for one; its library is an extra."""
    if not (settings.jwks and settings.jwt_issuer and settings.jwt_audience):
        return None, None
    try:
        from eldr_service.server.rpc.key_set import KeySet
        from eldr_service.server.rpc.signed_tokens import Expected, SignedTokens
    except ModuleNotFoundError as error:
        raise CredentialsError(
            f"--jwks needs the package {error.name}: pip install pyjwt cryptography"
        ) from error
    keys = KeySet(settings.jwks, settings.jwks_max_age)
    expected = Expected(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
        roles_claim=settings.jwt_roles_claim,
        models_claim=settings.jwt_models_claim,
    )
    return keys, SignedTokens(keys, expected)
