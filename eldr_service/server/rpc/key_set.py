"""The public keys of a token issuer: a JSON Web Key Set (RFC 7517), kept up to date."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import jwt
import structlog

from eldr_service.core.errors import UnavailableError

# (kty, crv) of a key -> its only algorithm, whatever a token's header says.
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
MIN_RSA_BITS = 2_048
MAX_BYTES = 1 << 20
MAX_KEYS = 256
FILE_SECONDS, URL_SECONDS = 5.0, 300.0  # between two reads
UNKNOWN_KEY_SECONDS = 5.0  # least time between reads for missing keys
FETCH_SECONDS = 5.0
# How long a call may wait for a key that a read in progress may bring.
PATIENCE_SECONDS = 2.0

log = structlog.get_logger("eldr")


class Key(NamedTuple):
    """A public key and the algorithm that it verifies."""

    algorithm: str
    key: Any


class KeySet:
    """Keys by id, from a file or URL.

    If the source cannot be read, the last good keys stay valid for `max_age` seconds.

    Attributes
    ----------
    generation : int
        Increases whenever the keys change.
    """

    def __init__(self, source: str, max_age: float) -> None:
        self.generation = 0
        self._source = source
        self._max_age = max_age
        self._is_url = "://" in source
        self._keys: Mapping[str | None, tuple[Key, ...]] = {}
        self._read_at = self._tried_at = float("-inf")
        self._trouble = ""
        self._reading: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether there are keys that are recent enough."""
        return time.monotonic() - self._read_at <= self._max_age

    async def find(self, kid: str | None, algorithm: object) -> Key:
        """Return the key that a token names; without a name, the only one for its algorithm.

        Raises
        ------
        ValueError
            There is none, or it is for another algorithm.
        UnavailableError
            There are no keys.
        """
        if (found := self._look(kid, algorithm)) is None or not self.usable:
            await self._ask_again()
            found = self._look(kid, algorithm)
        if not self.usable:
            raise UnavailableError(
                "tokens cannot be checked now: there are no keys of their issuer"
            )
        if found is None:
            raise ValueError("no key of that id and algorithm")
        return found

    async def keep_reading(self) -> None:
        """Read the keys periodically, without end."""
        while True:
            await self._read()
            usual = URL_SECONDS if self._is_url else FILE_SECONDS
            await asyncio.sleep(min(usual, self._max_age / 3))

    def _look(self, kid: str | None, algorithm: object) -> Key | None:
        keys = [key for key in self._keys.get(kid, ()) if key.algorithm == algorithm]
        return keys[0] if len(keys) == 1 else None

    async def _ask_again(self) -> None:
        """Read the keys out of turn, at a bounded rate, and wait briefly for that."""
        if self._reading is None:
            if time.monotonic() - self._tried_at < UNKNOWN_KEY_SECONDS:
                return
            self._begin()
        assert self._reading
        await asyncio.wait({self._reading}, timeout=PATIENCE_SECONDS)

    async def _read(self) -> None:
        if self._reading is None:
            self._begin()
        assert self._reading
        await asyncio.wait({self._reading})

    def _begin(self) -> None:
        self._tried_at = time.monotonic()
        self._reading = asyncio.create_task(self._take())
        self._reading.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._reading = None

    async def _take(self) -> None:
        try:
            keys = read_keys(await (self._fetch() if self._is_url else self._load()))
        except (OSError, ValueError, aiohttp.ClientError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}"
            if said != self._trouble:
                self._trouble = said
                log.error("keys of the token issuer not read", source=self._source, error=said)
                if self.usable:
                    left = round(self._read_at + self._max_age - time.monotonic())
                    log.warning("the last good keys stay valid", seconds=left)
            return
        self._read_at = time.monotonic()
        if keys != self._keys:
            self._keys = keys
            self.generation += 1
            log.info(
                "keys of the token issuer", source=self._source, keys=sorted(filter(None, keys))
            )
        elif self._trouble:
            log.info("keys of the token issuer read again", source=self._source)
        self._trouble = ""

    async def _load(self) -> bytes:
        return await asyncio.to_thread(_bounded, Path(self._source))

    async def _fetch(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._source, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"expected status 200, found {response.status}")
            data = b""
            async for chunk in response.content.iter_chunked(1 << 16):  # decompressed if need be
                data = _checked(data + chunk)
            return data


def read_keys(data: bytes) -> Mapping[str | None, tuple[Key, ...]]:
    """Read a key set; keys by id, and all of them under None.

    Keys for other purposes and algorithms are skipped.

    Raises
    ------
    ValueError
        It is not a key set, or has no usable key.
    """
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise ValueError("expected a JSON Web Key Set") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f'expected a JSON Web Key Set, {{"keys": [...]}} of at most {MAX_KEYS}')
    keys: dict[str | None, tuple[Key, ...]] = {}
    for entry in entries:
        if isinstance(entry, dict) and (key := _read_key(entry)):
            names = {None, entry.get("kid") if isinstance(entry.get("kid"), str) else None}
            for name in names:
                keys[name] = (*keys.get(name, ()), key)
    if not keys:
        raise ValueError("expected an RSA key of 2048 bits or more, a P-256 or an Ed25519 key")
    return keys


def _read_key(entry: Mapping[str, Any]) -> Key | None:
    kind = entry.get("kty"), entry.get("crv")
    algorithm = next((a for known, a in _ALGORITHMS.items() if known == kind), None)
    if algorithm is None or entry.get("alg", algorithm) != algorithm or "d" in entry:
        return None
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or operations != ["verify"]:
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return None if algorithm == "RS256" and key.key_size < MIN_RSA_BITS else Key(algorithm, key)


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return _checked(file.read(MAX_BYTES + 1))


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes")
    return data
