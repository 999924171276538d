"""What the page can do: switch a policy, drain a worker; as the services' own calls do."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import structlog

from eldr_service.policies.registry import create_prepared, parse
from eldr_service.routing.chosen import Chosen
from eldr_service.routing.router import Router
from eldr_service.routing.workers import Workers
from eldr_service.server.rpc.agreement import Agreed
from eldr_service.server.rpc.caller import Caller
from eldr_service.server.rpc.errors import PermissionDeniedError

log = structlog.get_logger(__name__)


class Actions:
    """Acts for callers that may; raises the errors that the services' calls answer with."""

    def __init__(
        self,
        router: Router,
        chosen: Chosen,
        workers: Workers,
        agreed: Agreed,
        written: Callable[[], Awaitable[None] | None],
    ) -> None:
        self._router = router
        self._chosen = chosen
        self._workers = workers
        self._agreed = agreed
        self._written = written

    async def set_policy(self, caller: Caller, model: str, policy: str) -> None:
        """Put a policy, ``name[:key=value,...]``, in force."""
        _own(caller, model)
        self._router.model(model)
        made = await asyncio.to_thread(create_prepared, *parse(policy))
        async with self._agreed(model):
            self._chosen.set_policy(model, made)
        log.info("policy set on the page", model=model, policy=policy, caller=caller.name)

    async def drain(self, caller: Caller, model: str, worker: str) -> None:
        """Place no new requests on a worker."""
        _own(caller, model)
        self._workers.drain(model, worker, until=math.inf)
        if written := self._written():
            await written
        log.info("drained on the page", model=model, worker=worker, caller=caller.name)


def _own(caller: Caller, model: str) -> None:
    if not caller.may_touch(model):
        raise PermissionDeniedError(f"token {caller.name} is not for this model")
