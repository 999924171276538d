"""Where to look for workers, as written in an option: `WHERE[:key=value,…][;WHERE…]`.

The keys supply what a source cannot know about its workers: model, role, group, capacity, geometry.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from eldr_service.core.errors import InvalidArgumentError, did_you_mean
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.worker import WorkerRole

MAX_NUMBER = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the workers of one origin have in common.

    Attributes
    ----------
    model : str
        Empty if not given.
    role : WorkerRole
    group : str
    sequences, kv_tokens : int
        Capacity of each worker; 0 if not given.
    geometry : ModelGeometry or None
    port : str
        A port's name or number; empty for the only one, or the one named http.
    scheme : str
        Of their URLs.
    """

    model: str = ""
    role: WorkerRole = WorkerRole.DECODE
    group: str = ""
    sequences: int = 0
    kv_tokens: int = 0
    geometry: ModelGeometry | None = None
    port: str = ""
    scheme: str = "http"


KEYS = ("model", "role", "group", "sequences", "kv-tokens", "geometry", "port", "scheme")


class Origin(NamedTuple):
    """One place to look for workers, and the traits of those found there."""

    where: str
    texts: Mapping[str, str]


def read_traits(texts: Mapping[str, str]) -> Traits:
    """Read the values of `KEYS`; other keys are ignored.

    Raises
    ------
    InvalidArgumentError
        Names the key, what was expected and what was found.
    """
    scheme = texts.get("scheme", "http")
    if scheme not in ("http", "https"):
        raise InvalidArgumentError("scheme", "http or https", scheme)
    role = texts.get("role", "decode").upper()
    if role not in WorkerRole.__members__:
        raise InvalidArgumentError("role", "decode or prefill", texts["role"])
    return Traits(
        model=texts.get("model", ""),
        role=WorkerRole[role],
        group=texts.get("group", ""),
        sequences=_number("sequences", texts),
        kv_tokens=_number("kv-tokens", texts),
        geometry=_geometry(texts["geometry"]) if "geometry" in texts else None,
        port=texts.get("port", ""),
        scheme=scheme,
    )


def _parse(text: str, form: str, keys: Collection[str] = KEYS) -> tuple[Origin, ...]:
    """Parse an option; `form` says what a place looks like.

    Raises
    ------
    ValueError
        Says what was expected.
    """
    origins = []
    for each in text.split(";"):
        where, _, rest = each.strip().partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
        if not where or any(not (key and value) for key, _, value in pairs):
            raise ValueError(f"expected {form} or {form}:key=value,key=value, separated by ;")
        for key, _, _ in pairs:
            if key not in keys:
                known = f"one of the keys {', '.join(keys)}"
                raise ValueError(f"expected {known}, found {key}{did_you_mean(key, keys)}")
        texts = {key: value for key, _, value in pairs}
        if len(texts) < len(pairs):
            raise ValueError("expected each key once")
        try:
            read_traits(texts)
        except InvalidArgumentError as error:
            raise ValueError(f"expected {error.field}={error.expected}") from error
        origins.append(Origin(where, texts))
    return tuple(origins)


def kubernetes_origins(text: object) -> tuple[Origin, ...]:
    """Parse --kubernetes; ValueError says what was expected."""
    form = "NAMESPACE/SERVICE or NAMESPACE/LABEL=VALUE"
    origins = _parse(str(text), form)
    for origin in origins:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?/.+", origin.where):
            raise ValueError(f"expected {form}")
    return origins


def dns_origins(text: object) -> tuple[Origin, ...]:
    """Parse --dns; ValueError says what was expected."""
    origins = _parse(str(text), "NAME")
    for where, texts in origins:
        if "model" not in texts:
            raise ValueError("expected the key model=NAME, which DNS cannot tell")
        port = texts.get("port", "")
        if where.startswith("_"):
            if port:
                raise ValueError("expected no port for a name of SRV records, which contain it")
        elif not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
            raise ValueError("expected port=1 to 65535 for a name without SRV records")
    return origins


def _number(key: str, texts: Mapping[str, str]) -> int:
    text = texts.get(key, "0")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_NUMBER:
        raise InvalidArgumentError(key, f"0 to {MAX_NUMBER}", text)
    return int(text)


def _geometry(text: str) -> ModelGeometry:
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})x([0-9]{1,6})", text)
    if not found:
        raise InvalidArgumentError("geometry", "LAYERSxEXPERTSxTOP_K such as 48x128x8", text)
    return ModelGeometry(*map(int, found.groups()))
