"""What a request has in common with earlier ones, according to its caller."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_NAME = 256  # bytes, of a label at the daemon; a session may be longer
_SAID_IN_BODY = ("prompt_cache_key", "user")


@dataclass(frozen=True, slots=True)
class Kin:
    """The conversation that a request is a turn of, and its tenant; empty if unknown."""

    session: str = ""
    tenant: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """The tenant, as a label for the daemon."""
        return {"tenant": self.tenant} if self.tenant else {}


def kin_of(headers: Mapping[str, str], body: Mapping[str, Any], tenant_header: str) -> Kin:
    """X-Session-Id names the conversation, else OpenAI's `prompt_cache_key`, else `user`."""
    said = (headers.get("X-Session-Id"), *(body.get(name) for name in _SAID_IN_BODY))
    session = next((each for each in said if isinstance(each, str) and each), "")
    return Kin(_name(session), _name(headers.get(tenant_header, "")))


def _name(said: str) -> str:
    """The text itself, or a digest if the daemon would not accept it as a name."""
    encoded = said.encode(errors="surrogatepass")
    if len(encoded) <= MAX_NAME and said.isprintable():
        return said
    return hashlib.sha256(encoded).hexdigest()
