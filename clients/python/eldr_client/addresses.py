"""The router's address: its one notation, and the gRPC options for it."""

import ipaddress
import json
import logging
import re
import socket
from dataclasses import dataclass

logger = logging.getLogger("eldr_client")

EXPECTED = (
    "expected HOST:PORT with a port from 1 to 65535, several of them with commas between them, "
    "or dns:///NAME:PORT"
)

# gRPC's own schemes; a host may have such a name too.
_SCHEME = re.compile(r"(?P<scheme>dns|unix|unix-abstract|ipv4|ipv6|vsock|xds):(?!\d{1,5}(?:,|$))")
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:,/\s]+)):(?P<port>\d{1,5})")

# Calls rotate over the replicas; one that is NOT_SERVING (it drains) gets no new ones.
_IN_TURN = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}
# All calls go to one replica, and to another when that one is lost. Shuffled, so that the clients
# of a fleet do not all choose the first.
_STICKY = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}

_OPTIONS = (
    # A replica that is frozen or cut off is detected in two to four seconds, by pings during calls.
    # While gRPC's own ping (it measures bandwidth) is unanswered no other is sent, so this one may
    # be late by as much; gRPC waits a minute for its own.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Least time between two resolutions of a DNS name, which a lost connection triggers.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """A router's address, as written.

    Parameters
    ----------
    text : str
        `HOST:PORT`, a comma-separated list of these, `dns:///NAME:PORT` for all addresses of a
        name, `unix:PATH`, or any other gRPC target.

    Raises
    ------
    ValueError
        The text is none of these.
    """

    text: str

    def __post_init__(self) -> None:
        if self._is_target:
            return
        for each in self._each():
            found = _HOST_PORT.fullmatch(each)
            if found is None or not 0 < int(found["port"]) < 65_536:
                raise ValueError(f"{EXPECTED}, found {each!r} in {self.text!r}")

    @property
    def are_several(self) -> bool:
        """Whether there may be more than one replica behind it."""
        scheme = _SCHEME.match(self.text)
        if scheme is None or scheme["scheme"] in ("ipv4", "ipv6"):
            return "," in self.text
        return scheme["scheme"] in ("dns", "xds")

    def target(self) -> str:
        """The gRPC target. Host names in a list are resolved now.

        A name that does not resolve is left out; if none does, the first is left to gRPC, which
        retries as long as necessary.
        """
        if self._is_target:
            return self.text
        if not self.are_several:
            return self._each()[0]
        found: list[tuple[str, str]] = []
        for each in self._each():
            host, port = _host_and_port(each)
            try:
                found += [(address, port) for address in _resolved(host)]
            except OSError as error:
                logger.warning("the router's address %s is left out: %s", each, error)
        if not found:
            return f"dns:///{self._each()[0]}"
        if all(":" not in address for address, _ in found):
            return "ipv4:" + ",".join(f"{address}:{port}" for address, port in found)
        return "ipv6:" + ",".join(
            f"[{address if ':' in address else f'::ffff:{address}'}]:{port}"
            for address, port in found
        )

    def options(self, sticky: bool = False) -> tuple[tuple[str, int | str], ...]:
        """Channel options for several replicas; empty for a single address.

        `sticky` keeps to one replica while it lives, for peers that identify themselves.
        """
        if not self.are_several:
            return ()
        config = _STICKY if sticky else _IN_TURN
        return (("grpc.service_config", json.dumps(config)), *_OPTIONS)

    @property
    def _is_target(self) -> bool:
        return _SCHEME.match(self.text) is not None

    def _each(self) -> list[str]:
        return [each.strip() for each in self.text.split(",")]


def _host_and_port(each: str) -> tuple[str, str]:
    found = _HOST_PORT.fullmatch(each)
    assert found is not None  # checked in the constructor
    return found["v6"] or found["host"], found["port"]


def _resolved(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
