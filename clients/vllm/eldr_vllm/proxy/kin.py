"""What a request has in common with earlier ones, as its caller says."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_NAME = 256  # bytes, of a label at the daemon; a session may have more
_SAID_IN_BODY = ("prompt_cache_key", "user")


@dataclass(frozen=True, slots=True)
class Kin:
    """The conversation that a request is a turn of, and its tenant; empty for unknown."""

    session: str = ""
    tenant: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """The tenant, as the daemon reads it."""
        return {"tenant": self.tenant} if self.tenant else {}


def kin_of(headers: Mapping[str, str], body: Mapping[str, Any], tenant_header: str) -> Kin:
    """X-Session-Id names the conversation, else OpenAI's `prompt_cache_key`, else `user`."""
    said = (headers.get("X-Session-Id"), *(body.get(name) for name in _SAID_IN_BODY))
    session = next((each for each in said if isinstance(each, str) and each), "")
    return Kin(_name(session), _name(headers.get(tenant_header, "")))


def _name(said: str) -> str:
    """As it is, or a digest of what the daemon would not take for a name."""
    encoded = said.encode(errors="surrogatepass")
    if len(encoded) <= MAX_NAME and said.isprintable():
        return said
    return hashlib.sha256(encoded).hexdigest()
