"""The sources that the settings name."""

from eldr_service.server.config import Settings
from eldr_service.server.discovery.fleet_file import FleetFile
from eldr_service.server.discovery.kubernetes import KubernetesSource
from eldr_service.server.discovery.kubernetes_api import KubernetesAccess, KubernetesApi
from eldr_service.server.discovery.source import Source


class Sources:
    """What the settings name, ready to be followed.

    Attributes
    ----------
    all : list of Source

    Raises
    ------
    SourceError
        Kubernetes is to be asked, and nothing says where it is.
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

    def check(self) -> None:
        """Read what can be read at once.

        Raises
        ------
        SourceError
            The fleet file is wrong.
        """
        if self._file:
            self._file.read()
