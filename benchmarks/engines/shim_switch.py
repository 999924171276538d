"""EldrConnector with a switch: it is inactive while the file named by ELDR_BENCH_OFF exists."""

import os
from pathlib import Path
from typing import Any

from eldr_vllm.connector import EldrConnector


class SwitchedConnector(EldrConnector):
    """Checks the switch in each process before starting anything; set it while nothing runs."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._off = Path(os.environ["ELDR_BENCH_OFF"])
        self._parts: tuple[Any, Any] = (self._scheduler, None)
        self._is_off = False

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        super().register_kv_caches(kv_caches)
        self._parts = None, self._worker

    def on_new_request(self, request: Any) -> None:
        self._turn()
        super().on_new_request(request)

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        self._turn()
        super().bind_connector_metadata(connector_metadata)

    def _turn(self) -> None:
        is_off = self._off.exists()
        if is_off == self._is_off:
            return
        self._is_off = is_off
        self._scheduler, self._worker = (None, None) if is_off else self._parts
        worker = self._parts[1]
        if worker is not None and is_off:
            self._heard = [module.router.capture_fn for module in worker._layers.modules]
        for index, module in enumerate(worker._layers.modules if worker is not None else ()):
            module.router.set_capture_fn(None if is_off else self._heard[index])


class SwitchedRecording(EldrConnector):
    """The same for recording alone: ELDR's other parts stay on."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._off = Path(os.environ["ELDR_BENCH_OFF"])
        self._record = self._scheduler and self._scheduler._record

    def on_new_request(self, request: Any) -> None:
        self._scheduler._record = None if self._off.exists() else self._record
        super().on_new_request(request)
