"""Everything that the checks look at, looked at once; what could not be seen says why."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2

from eldr_service.cli.doctor.door import Door, knock
from eldr_service.cli.doctor.pages import Page, fetch
from eldr_service.cli.doctor.samples import Samples
from eldr_service.cli.failure import CommandError
from eldr_service.cli.session import Session
from eldr_service.cli.standing import Standing, standings

HTTP_PORT = 9464
SECONDS = 5.0
"""For each call and page, unless --timeout says so."""


@dataclass
class Evidence:
    """What was seen of a deployment.

    Attributes
    ----------
    server : str
    uses_tls : bool
        We do.
    doors : mapping of HOST:PORT to Door
        Of each replica that is named; none of a name that gRPC resolves itself.
    ready : bool or CommandError
        What the health service says, or why it says nothing.
    standings : list of Standing, or CommandError
        The models as the daemon tells them, or why it does not.
    policies : mapping of model to ActivePolicy
    http : list of (health, metrics)
        The pages of each replica.
    http_given : bool
        Where they are was said, not guessed.
    replicas : list of Samples
        Of those replicas that have a page of metrics.
    metrics : Samples or None
        Their sum; None where there are none.
    watched : float
        Seconds that counters in `metrics` are of; 0 for all since the daemon's start.
    workers : mapping of URL to Page
        What each worker's /health says.
    proxies : mapping of URL to (health, metrics)
    """

    server: str
    _: KW_ONLY
    uses_tls: bool = False
    doors: dict[str, Door] = field(default_factory=dict)
    ready: bool | CommandError = False
    standings: list[Standing] | CommandError = field(default_factory=list)
    policies: dict[str, policy_pb2.ActivePolicy] = field(default_factory=dict)
    http: list[tuple[Page, Page]] = field(default_factory=list)
    http_given: bool = False
    replicas: list[Samples] = field(default_factory=list)
    metrics: Samples | None = None
    watched: float = 0.0
    workers: dict[str, Page] = field(default_factory=dict)
    proxies: dict[str, tuple[Page, Page]] = field(default_factory=dict)
    proxy_metrics: dict[str, Samples | None] = field(default_factory=dict)

    @property
    def period(self) -> str:
        """What time counters in `metrics` are of, in words."""
        return f"in {self.watched:g} s" if self.watched else "since the daemon's start"
