"""EldrConnector with a switch: it is idle while the file that ELDR_BENCH_OFF names exists."""

import os
from pathlib import Path
from typing import Any

from eldr_vllm.connector import EldrConnector


class SwitchedConnector(EldrConnector):
    """Looks at the switch in each process before it begins anything; turn it while nothing runs."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._off = Path(os.environ["ELDR_BENCH_OFF"])

    def on_new_request(self, request: Any) -> None:
        self._guard.active = not self._off.exists()
        super().on_new_request(request)

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        self._guard.active = not self._off.exists()
        super().bind_connector_metadata(connector_metadata)


class SwitchedRecording(EldrConnector):
    """The same for the recording alone: ELDR's other parts go on."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._off = Path(os.environ["ELDR_BENCH_OFF"])
        self._record = self._scheduler and self._scheduler._record

    def on_new_request(self, request: Any) -> None:
        self._scheduler._record = None if self._off.exists() else self._record
        super().on_new_request(request)
