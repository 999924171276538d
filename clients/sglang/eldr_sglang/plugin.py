"""SGLang's plugin: on prefill servers, a hook after each batch's result."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from eldr_client import RouterClient

from eldr_sglang.outbox import Outbox
from eldr_sglang.prefill import Prefills, UnsupportedError

logger = logging.getLogger("sglang.srt.eldr")  # so that it appears in SGLang's log

PREFILL_RESULT = (
    "sglang.srt.disaggregation.prefill.SchedulerDisaggregationPrefillMixin"
    ".process_batch_result_disagg_prefill"
)

TIMEOUT = 2.0  # seconds for the daemon's answer, which only the outbox waits for


def register() -> None:
    """Called by SGLang in each of its processes; without ELDR_ROUTER it does nothing.

    Further environment variables: ELDR_MODEL (default: the served model's name), ELDR_TOKEN,
    ELDR_TLS_CA (a file).
    """
    router = os.environ.get("ELDR_ROUTER")
    if not router:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(PREFILL_RESULT, _Hook(router), HookType.AFTER)


class _Hook:
    """Sends signatures until its first failure; SGLang continues in any case."""

    __name__ = "eldr_signatures"

    def __init__(self, router: str) -> None:
        self._router = router
        self._say: Callable[[Any], None] | None = None
        self._given_way = False

    def __call__(self, result: Any, scheduler: Any, batch: Any, *_: Any, **__: Any) -> None:
        if self._given_way:
            return
        try:
            if self._say is None:
                self._say = _sender(self._router, scheduler)
            self._say(batch)
        except UnsupportedError as error:
            self._give_way(str(error))
        except Exception as error:
            logger.exception("ELDR fails")
            self._give_way(f"{type(error).__name__}: {error}")

    def _give_way(self, why: str) -> None:
        self._given_way = True
        logger.warning("ELDR sends no signatures: %s. SGLang continues without them", why)


def _sender(router: str, scheduler: Any) -> Callable[[Any], None]:
    prefills = Prefills(scheduler)
    if not prefills.is_first_rank:
        return lambda batch: None  # each rank has captured the same
    model = os.environ.get("ELDR_MODEL") or scheduler.server_args.served_model_name
    roots = os.environ.get("ELDR_TLS_CA")
    certificates = None
    if roots:
        with open(roots, "rb") as file:
            certificates = file.read()
    client = RouterClient(
        router,
        timeout=TIMEOUT,
        token=os.environ.get("ELDR_TOKEN"),
        root_certificates=certificates,
    )
    outbox = Outbox(client)
    logger.info("ELDR: signatures of %s go to %s", model, router)

    def send(batch: Any) -> None:
        for prefilled in prefills.ended(batch):
            outbox.put(partial(prefilled.register, model=model))

    return send
