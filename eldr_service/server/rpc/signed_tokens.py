"""Bearer tokens signed by an issuer: JSON Web Tokens (RFC 7519), verified and cached."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from eldr_service.core.escaping import escaped
from eldr_service.server.rpc.caller import ROLES, Caller, Models
from eldr_service.server.rpc.errors import UNKNOWN_TOKEN, UnauthenticatedError
from eldr_service.server.rpc.expiry import EXPIRED
from eldr_service.server.rpc.key_set import KeySet

MAX_REMEMBERED = 4_096
MAX_NAME = 128
# What PyJWT raises, and what malformed JSON makes the code below raise.
_WRONG = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The required claims of a token, and those that say what its bearer may do.

    Attributes
    ----------
    leeway : float
        Allowed difference in seconds between the issuer's clock and this one.
    """

    issuer: str
    audience: str
    leeway: float
    roles_claim: str
    models_claim: str


class SignedTokens:
    """Verifies tokens by their issuer's keys, and caches them until they expire.

    The cache holds digests of tokens.
    """

    def __init__(self, keys: KeySet, expected: Expected) -> None:
        self._keys = keys
        self._expected = expected
        self._remembered: dict[bytes, Caller] = {}
        self._generation = 0  # of the keys that verified them

    def known(self, token: str) -> Caller | None:
        """Return the caller of a token that was verified earlier and is still valid."""
        if self._generation != self._keys.generation or not self._keys.usable:
            return None
        digest = _digest(token)
        caller = self._remembered.get(digest)
        if caller is None or caller.expires > time.time():
            return caller
        del self._remembered[digest]
        return None

    async def verify(self, token: str) -> Caller:
        """Return the caller that the token stands for.

        Raises
        ------
        UnauthenticatedError
            The cause, only for the log, says what is wrong; the message does so only for a token
            that was valid once.
        UnavailableError
            There are no keys to verify it with.
        """
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:
                raise ValueError("crit names extensions that are not known here")
            key = await self._keys.find(header.get("kid"), header.get("alg"))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._expected.issuer,
                audience=self._expected.audience,
                leeway=self._expected.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
            caller = self._caller(claims)
        except jwt.ExpiredSignatureError as error:  # raised only for a valid signature
            raise UnauthenticatedError(EXPIRED) from error
        except _WRONG as error:
            raise UnauthenticatedError(UNKNOWN_TOKEN) from error
        self._remember(token, caller)
        return caller

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        roles = claims.get(self._expected.roles_claim, [])
        if isinstance(roles, str):
            roles = roles.split()
        if not isinstance(roles, list):
            raise ValueError(f"{self._expected.roles_claim}: expected a list of roles")
        models = claims.get(self._expected.models_claim)
        return Caller(
            name=escaped(str(claims.get("sub", "without sub")))[:MAX_NAME],
            roles=frozenset(role for role in roles if isinstance(role, str)) & ROLES,
            models=None if models is None else Models(models),
            expires=int(claims["exp"]) + self._expected.leeway,
        )

    def _remember(self, token: str, caller: Caller) -> None:
        if self._generation != self._keys.generation:
            self._remembered.clear()
            self._generation = self._keys.generation
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[_digest(token)] = caller


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
