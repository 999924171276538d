"""HOST:PORT, as the daemon opens it and clients dial it."""

import ipaddress
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port is opened. Port 0 means any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> "Address":
        """Read `HOST:PORT`, IPv6 hosts in brackets; ValueError if malformed."""
        if isinstance(text, Address):
            return text
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):(\d{1,5})", str(text))
        if not found or int(found[3]) > 65_535:
            raise ValueError("expected HOST:PORT with a port from 0 to 65535")
        return cls(found[1] or found[2], int(found[3]))

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
