"""What was seen of a deployment: all that checks look at."""

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
    """The two pages of something that serves HTTP, a daemon or a proxy.

    Attributes
    ----------
    url : str
        Of the whole.
    health, metrics : Page
    samples : Samples or None
        What the page of metrics shows; None where it is none.
    """

    url: str
    health: Page
    metrics: Page
    samples: Samples | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of a deployment; what could not be seen says why.

    Attributes
    ----------
    server : str
    uses_tls : bool
        We do.
    listeners : mapping of HOST:PORT to Listener
        Of each replica that is named; none of a name that gRPC resolves by itself.
    ready : bool or CommandError
        What the health service says.
    standings : sequence of Standing, or CommandError
        The models, as the daemon told them at `listed_at`, by our clock.
    policies : mapping of model to ActivePolicy
    daemons : sequence of Served
        The HTTP of each replica.
    http_given : bool
        Where that is was said, not guessed.
    metrics : Samples or None
        The sum over the replicas; None where none shows any.
    workers : mapping of URL to Page
        What is at each worker's /health.
    proxies : sequence of Served
    watched : float
        Seconds that counters are of; 0 for all since the start of what counts.
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
        """What time the daemon's counters are of, in words."""
        return f"in the {self.watched:g} s watched" if self.watched else "since the daemon's start"
