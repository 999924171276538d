"""Where the shared state is: the URL of a Redis or Valkey server, a Cluster or its Sentinels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

_SCHEMES = {
    "redis": ("redis", False), "rediss": ("redis", True), "valkey": ("redis", False),
    "valkeys": ("redis", True), "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True), "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}  # fmt: skip
FORMS = (
    "redis://HOST:PORT/DB, redis+cluster://HOST:PORT,HOST:PORT or"
    " redis+sentinel://HOST:PORT,HOST:PORT/SERVICE (rediss… for TLS)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateAddress:
    """A parsed URL; `str` gives it as written.

    Attributes
    ----------
    text : str
    kind : {"redis", "cluster", "sentinel"}
    tls : bool
    hosts : tuple of (host, port)
    database : int
    service : str
        The Sentinels' name of the master.
    name : str
        Prefix of every key: deployments with different names share nothing.
    """

    text: str
    kind: str
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    database: int = 0
    service: str = ""
    name: str = "eldr"

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> "StateAddress":
        """Parse a URL; ValueError says what was expected."""
        scheme, _, _ = text.partition("://")
        if scheme not in _SCHEMES:
            raise ValueError(f"expected {FORMS}")
        url = urlsplit(text)
        if "@" in url.netloc:
            raise ValueError("expected a URL without a password: --state-password names its file")
        kind, tls = _SCHEMES[scheme]
        port = 26_379 if kind == "sentinel" else 6_379
        hosts = tuple(_host(part, port) for part in url.netloc.split(","))
        if len(hosts) > 1 and kind == "redis":
            raise ValueError(
                f"expected one host, or redis+cluster:// or redis+sentinel://: {FORMS}"
            )
        given = parse_qs(url.query, keep_blank_values=True)
        name = given.pop("name", ["eldr"])[0]
        if given or url.fragment or not name or set(name) & set("{}"):
            raise ValueError("expected ?name=NAME and nothing else after the address")
        path = url.path.strip("/").split("/") if url.path.strip("/") else []
        address = cls(text=text, kind=kind, tls=tls, hosts=hosts, name=name)
        if kind == "sentinel":
            if not path:
                raise ValueError("expected the service's name after the Sentinels: …/SERVICE")
            address = replace(address, service=path.pop(0))
        if path and kind != "cluster" and path[0].isdecimal():
            address = replace(address, database=int(path.pop(0)))
        if path:
            raise ValueError(f"expected {FORMS}")
        return address

    @property
    def prefix(self) -> str:
        """Prefix of every key. In braces, so that a Cluster keeps them together for the script."""
        return f"{{{self.name}}}:"

    def client(self, password_file: Path | None, timeout: float) -> "Redis | RedisCluster":
        """A client that connects on first use; the file is read now.

        It holds the password, or `user:password`. `timeout` is for connecting, in seconds.
        """
        from redis.asyncio import Redis
        from redis.asyncio.cluster import ClusterNode, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff

        secret: dict[str, Any] = {}
        if password_file:
            user, colon, password = password_file.read_text().strip().rpartition(":")
            secret = {"password": password} | ({"username": user} if colon else {})
        # The replica itself retries, as it knows what a failed call may have done.
        options: dict[str, Any] = {**secret, "ssl": self.tls, "socket_connect_timeout": timeout}
        if self.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in self.hosts]
            return RedisCluster(startup_nodes=nodes, **options)
        options |= {"db": self.database, "retry": Retry(NoBackoff(), 0)}
        if self.kind == "sentinel":
            asked = {"socket_connect_timeout": timeout}
            sentinels: Any = Sentinel(self.hosts, sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]
            master: Redis = sentinels.master_for(self.service)
            return master
        (host, port), *_ = self.hosts
        return Redis(host=host, port=port, **options)


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        url = urlsplit(f"//{text}")
        host, given = url.hostname, url.port
    except ValueError:
        host, given = None, None
    if not host:
        raise ValueError(f"expected {FORMS}")
    return host, port if given is None else given
