"""The engine's entry in the fleet."""

from collections.abc import Callable, Mapping
from typing import Any

from eldr_client import LoadReport, WorkerSession

from eldr_vllm.scheduler.address import Address
from eldr_vllm.settings import Settings


class Registration:
    """Sessions for the engine's roles.

    Parameters
    ----------
    settings : Settings
    reports : mapping of role (DECODE, PREFILL) to a callable () -> LoadReport
        An engine with both roles is registered twice, the second time as `ID/prefill`.
    session : mapping
        Keywords of WorkerSession that the sessions share.
    address : Address
        The registered engine's address.
    """

    def __init__(
        self,
        settings: Settings,
        reports: Mapping[str, Callable[[], LoadReport]],
        session: Mapping[str, Any],
        address: Address,
    ) -> None:
        self._sessions = [
            WorkerSession(
                address.worker_id if index == 0 else f"{address.worker_id}/{role.lower()}",
                url=address.url,
                dp_rank=address.dp_rank,
                report=report,
                role=role,
                group=settings.group,
                ready=not settings.health_check,
                time_to_live=settings.time_to_live,
                **settings.endpoint(),
                **session,
            )
            for index, (role, report) in enumerate(reports.items())
        ]

    def set_ready(self) -> None:
        """The engine serves; until then it is JOINING, if its health is checked."""
        for session in self._sessions:
            session.set_ready()

    def close(self) -> None:
        """Deregister."""
        for session in self._sessions:
            session.close()
