"""The engine's entry in the fleet."""

import http.client
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from eldr_client import LoadReport, WorkerSession

from eldr_vllm.scheduler.address import Address
from eldr_vllm.settings import Settings

_HEALTH_PAUSE = 0.5
_HEALTH_TIMEOUT = 2.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past any http_proxy


class Registration:
    """Sessions of the roles that the engine has, READY as soon as its HTTP server answers.

    Parameters
    ----------
    settings : Settings
    reports : mapping of role (DECODE, PREFILL) to a callable () -> LoadReport
        An engine with both roles is registered twice, the second time as `ID/prefill`.
    session : mapping
        What the sessions have in common: keywords of WorkerSession.
    address : Address
        Of a registered engine.
    """

    def __init__(
        self,
        settings: Settings,
        reports: Mapping[str, Callable[[], LoadReport]],
        session: Mapping[str, Any],
        address: Address,
    ) -> None:
        self._closing = threading.Event()
        self._sessions = [
            WorkerSession(
                address.worker_id if index == 0 else f"{address.worker_id}/{role.lower()}",
                url=address.url,
                dp_rank=address.dp_rank,
                report=report,
                role=role,
                group=settings.group,
                labels=settings.labels,
                ready=not settings.health_check,
                time_to_live=settings.time_to_live,
                **settings.endpoint(),
                **session,
            )
            for index, (role, report) in enumerate(reports.items())
        ]
        if settings.health_check:
            url = address.url.rstrip("/") + "/health"
            threading.Thread(
                target=self._await_health, args=(url,), name="eldr-health", daemon=True
            ).start()

    def close(self) -> None:
        """Deregister."""
        self._closing.set()
        for session in self._sessions:
            session.close()

    def _await_health(self, url: str) -> None:
        while not self._answers(url):
            if self._closing.wait(_HEALTH_PAUSE):
                return
        for session in self._sessions:
            session.set_ready()

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            with _DIRECTLY.open(url, timeout=_HEALTH_TIMEOUT) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False
