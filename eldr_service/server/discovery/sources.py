"""The sources in the settings."""

from eldr_service.server.config import Settings
from eldr_service.server.discovery.fleet_file import FleetFile
from eldr_service.server.discovery.kubernetes import KubernetesSource
from eldr_service.server.discovery.kubernetes_api import KubernetesAccess, KubernetesApi
from eldr_service.server.discovery.source import Source, SourceError


class Sources:
    """The sources in the settings, ready to be followed.

    Attributes
    ----------
    all : list of Source

    Raises
    ------
    SourceError
        Kubernetes is asked for without an address for it, or DNS without its library.
    """

    def __init__(self, settings: Settings) -> None:
        capacity = settings.default_capacity
        self.all: list[Source] = []
        self._file = FleetFile(settings.fleet, capacity) if settings.fleet else None
        if self._file:
            self.all.append(self._file)
        if settings.kubernetes:
            access = KubernetesAccess.of(
                settings.kubernetes_api, settings.kubernetes_token, settings.kubernetes_ca
            )
            api = KubernetesApi(access)
            self.all += [KubernetesSource(api, o, capacity) for o in settings.kubernetes]
        self.all += _by_dns(settings)

    def check(self) -> None:
        """Read what can be read at once.

        Raises
        ------
        SourceError
            The fleet file is wrong.
        """
        if self._file:
            self._file.read()


def _by_dns(settings: Settings) -> list[Source]:
    """DNS sources, if the settings ask for them; their library is an extra."""
    if not settings.dns:
        return []
    try:
        from eldr_service.server.discovery.dns_records import DnsSource
    except ModuleNotFoundError as error:
        raise SourceError("--dns needs the package dnspython: pip install dnspython") from error
    capacity, every, server = settings.default_capacity, settings.dns_interval, settings.dns_server
    return [DnsSource(origin, capacity, every, server) for origin in settings.dns]
