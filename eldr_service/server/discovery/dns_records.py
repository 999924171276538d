"""Finds workers by DNS: SRV records, or the addresses of a headless service."""

import asyncio
import time
from collections.abc import Iterator

import dns.asyncresolver
import dns.name
import dns.resolver
from dns.exception import DNSException, Timeout

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.server.address import Address
from eldr_service.server.discovery.described import described
from eldr_service.server.discovery.source import Fail, Snapshot, Take
from eldr_service.server.origins import Origin, read_traits

LOOKUP_SECONDS = 5.0
SHORTEST_WAIT = 1.0
"""The shortest interval, whatever the TTL."""
EMPTY_ANSWERS = 3
"""Consecutive empty answers that are believed: a starting server knows no names yet."""
UDP_BYTES = 1_232  # fits every path; longer answers use TCP


class NoRecordsError(Exception):
    """The name does not exist, or has no records of the wanted kind."""


class DnsSource:
    """The workers that a name stands for.

    A name that begins with an underscore has SRV records, one per worker. For any other name, each
    address is a worker: its IPv4 addresses, or if there are none, its IPv6 addresses.

    Parameters
    ----------
    origin : Origin
        `where` is the name.
    default_capacity : int
        Sequences of a worker without a stated capacity.
    interval : float
        Seconds between two lookups, unless the records' time to live is shorter.
    server : Address, optional
        The name server; by default those in /etc/resolv.conf.
    """

    def __init__(
        self, origin: Origin, default_capacity: int, interval: float, server: Address | None
    ) -> None:
        self.name = f"dns:{origin.where}"
        self._asked = origin.where
        self._traits = read_traits(origin.texts)
        self._default_capacity = default_capacity
        self._interval = interval
        self._server = server

    async def follow(self, take: Take, fail: Fail) -> None:
        """Report the name's workers, as often as the records' time to live says."""
        empty = failed = 0
        while True:
            wait = self._interval
            try:
                snapshot, time_to_live = await self._look()
                empty = failed = 0
                wait = min(max(time_to_live, SHORTEST_WAIT), self._interval)
                await take(snapshot)
            except NoRecordsError as error:
                empty, failed = empty + 1, 0
                if empty < EMPTY_ANSWERS:
                    fail(f"{error}; believed after {EMPTY_ANSWERS} such answers in a row")
                else:
                    await take({})
            except (DNSException, OSError, InvalidArgumentError) as error:
                empty, failed = 0, failed + 1
                late = isinstance(error, Timeout)  # its own text differs each time
                why = f"no answer within {LOOKUP_SECONDS:g} s" if late else str(error)
                fail(f"{self._asked}: {why}")
                wait = min(SHORTEST_WAIT * 2 ** min(failed - 1, 10), self._interval)
            await asyncio.sleep(wait)

    async def _look(self) -> tuple[Snapshot, float]:
        """The workers, and for how many seconds they are valid."""
        resolver = self._resolver()
        kinds = ("SRV",) if self._asked.startswith("_") else ("A", "AAAA")
        for kind in kinds:
            try:
                answer = await resolver.resolve(
                    self._asked, kind, lifetime=LOOKUP_SECONDS, search=True
                )
            except dns.resolver.NXDOMAIN as error:
                raise NoRecordsError(f"{self._asked} does not exist") from error
            except dns.resolver.NoAnswer:
                continue
            endpoints = list(self._endpoints(kind, answer))
            workers = [
                described(self._traits, where, where, self._default_capacity) for where in endpoints
            ]
            return dict(workers), answer.expiration - time.time()
        raise NoRecordsError(f"{self._asked} has no {' or '.join(kinds)} records")

    def _endpoints(self, kind: str, answer: dns.resolver.Answer) -> Iterator[str]:
        """HOST:PORT of each record."""
        for record in answer:
            if kind == "SRV":
                if record.target != dns.name.root:  # the root means no service (RFC 2782)
                    target = record.target.to_text(omit_final_dot=True).lower()
                    yield f"{target}:{record.port}"
            else:
                yield str(Address(record.address, int(self._traits.port)))

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """A new resolver per lookup, so that changes of /etc/resolv.conf are followed."""
        resolver = dns.asyncresolver.Resolver(configure=self._server is None)
        if self._server:
            resolver.nameservers = [self._server.host]
            resolver.port = self._server.port
        resolver.use_edns(0, 0, UDP_BYTES)
        return resolver
