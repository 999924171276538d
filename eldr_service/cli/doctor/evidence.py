"""What was seen of a deployment: all that the checks judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eldr.v1 import policy_pb2

from eldr_service.cli.doctor.listener import Listener
from eldr_service.cli.doctor.samples import Samples
from eldr_service.cli.failure import CommandError
from eldr_service.cli.pages import Page
from eldr_service.cli.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Served:
    """The two pages of a daemon or a proxy.

    Attributes
    ----------
    url : str
        Where it serves HTTP.
    health, metrics : Page
    samples : Samples or None
        What `metrics` shows; None if that is not a page of metrics.
    """

    url: str
    health: Page
    metrics: Page
    samples: Samples | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of a deployment, or why it could not be seen.

    Attributes
    ----------
    server : str
    uses_tls : bool
        This `eldr` does.
    listeners : mapping of HOST:PORT to Listener
        Of each replica in `server`; empty for a name that only gRPC resolves.
    ready : bool or CommandError
        Whether the health service says SERVING.
    standings : sequence of Standing, or CommandError
        The models, as the daemon listed them at `listed_at` by our clock.
    policies : mapping of model to ActivePolicy
    daemons : sequence of Served
        The HTTP of each replica.
    http_given : bool
        Their address was given, not guessed.
    metrics : Samples or None
        The sum over the replicas; None if none shows metrics.
    workers : mapping of URL to Page
        Each worker's /health.
    proxies : sequence of Served
    watched : float
        Seconds that the counters cover; 0 for all since each program's start.
    """

    server: str
    uses_tls: bool
    listeners: Mapping[str, Listener]
    ready: bool | CommandError
    standings: Sequence[Standing] | CommandError
    listed_at: float
    policies: Mapping[str, policy_pb2.ActivePolicy]
    daemons: Sequence[Served]
    http_given: bool
    metrics: Samples | None
    workers: Mapping[str, Page]
    proxies: Sequence[Served]
    watched: float

    @property
    def period(self) -> str:
        """The time that the daemon's counters cover, in words."""
        return f"in the {self.watched:g} s watched" if self.watched else "since the daemon's start"
