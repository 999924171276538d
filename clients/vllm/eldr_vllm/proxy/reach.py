"""Keeps requests from addresses at which machines serve their own credentials."""

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult

# Beside the link-local 169.254.169.254 of most clouds.
_METADATA = {ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200")}


class ForbiddenAddressError(OSError):
    """An engine's address is link-local, a metadata service's, or not a host's."""


def check_address(address: str) -> None:
    """Raise ForbiddenAddressError for an address that only a mistake or an attack would use."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        raise ForbiddenAddressError(
            f"{address} is link-local, multicast, unspecified or a metadata service; engines"
            " there need --allow-link-local"
        )


def check_url(url: str) -> None:
    """Check a URL's host if it is an address; names are checked when they are resolved."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    check_address(host)


class CheckedResolver(ThreadedResolver):
    """The system's resolver, which refuses names of forbidden addresses."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host; ForbiddenAddressError if any is forbidden."""
        found = await super().resolve(host, port, family)
        for each in found:
            check_address(each["host"])
        return found
