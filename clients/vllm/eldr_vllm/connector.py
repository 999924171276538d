"""The KV connector that vLLM loads: it wraps the real one and adds ELDR.

Every method first does what the wrapped connector does; ELDR's own part runs under a guard. If it
fails, the wrapped connector works on alone, and the scheduler's side is told.
"""

import contextlib
from functools import partial
from typing import Any

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)

from eldr_vllm.delegation import DelegatingConnector
from eldr_vllm.guard import Guard
from eldr_vllm.messages import EldrHandshake, EldrMetadata, EldrWorkerMetadata, StepReport
from eldr_vllm.settings import Settings


class EldrConnector(DelegatingConnector):
    """Loaded by `kv_connector_module_path`; README.md describes its configuration."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any):
        super().__init__(vllm_config, role, kv_cache_config)
        self._guard = Guard(role.name.lower())
        self._settings: Settings | None = None
        self._scheduler: Any = None
        self._worker: Any = None
        self._told_of_end = False
        self._guard.run(self._begin)

    def _begin(self) -> None:
        transfer = self._vllm_config.kv_transfer_config
        self._settings = Settings.read(
            transfer.kv_connector_extra_config.get("eldr", {}), transfer.kv_role
        )
        if self.role is KVConnectorRole.SCHEDULER:
            from eldr_vllm.scheduler.side import SchedulerSide

            self._scheduler = SchedulerSide(
                self._vllm_config, self._kv_cache_config, self._settings
            )

    # The workers' side

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Also the time to attach to the MoE layers: no CUDA graph has been captured yet."""
        super().register_kv_caches(kv_caches)
        worker = self._guard.run(self._prepare)
        if self._vllm_config.parallel_config.use_sequence_parallel_moe:
            from eldr_vllm.worker.agreement import all_ranks

            if not all_ranks(worker is not None):
                self._guard.step_aside("another tensor-parallel rank cannot listen")
        if worker is not None:
            self._guard.run(worker.listen)
            self._worker = worker

    def _prepare(self) -> Any:
        # Late: not every vLLM version has what they import from it.
        from eldr_vllm.worker.side import WorkerSide

        return WorkerSide(self._vllm_config, self._kv_cache_config, self._settings)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        """The inner connector's, and the MoE layers that are captured."""
        inner = super().get_handshake_metadata()
        if self._worker is None or not self._guard.active:
            return EldrHandshake(inner, None, self._guard.reason)
        return EldrHandshake(inner, self._worker.geometry)

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """Forwarded, with the inner metadata."""
        super().handle_preemptions(kv_connector_metadata.inner)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """The beginning of a step."""
        super().bind_connector_metadata(connector_metadata.inner)
        if self._worker is not None and connector_metadata.plan is not None:
            self._guard.run(self._worker.begin, connector_metadata.plan)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Before or after the forward pass."""
        super().start_load_kv(forward_context, **kwargs)
        if self._worker is not None:
            self._guard.run(self._worker.see, kwargs)

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """The end of a step; even empty metadata of ours may be of use to the scheduler."""
        inner = super().build_connector_worker_meta()
        number = None
        if self._worker is not None:
            number = self._guard.run(self._worker.finish)
        return EldrWorkerMetadata(inner, partial(self._report, number))

    def _report(self, number: int | None) -> tuple[dict[int, list[StepReport]], str]:
        """Called when the step's output is ready, on the thread that sends it."""
        reports = None
        if number is not None:
            reports = self._guard.run(self._worker.reports, number)
        return {self._worker.rank: reports} if reports else {}, self._guard.reason

    # The scheduler's side

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """Forwarded without our metadata; all workers are there now."""
        ours = {rank: item for rank, item in metadata.items() if isinstance(item, EldrHandshake)}
        # In a MultiConnector it gets other connectors' metadata too.
        inner = {rank: item.inner for rank, item in ours.items() if item.inner is not None}
        inner |= {rank: item for rank, item in metadata.items() if rank not in ours}
        if inner:
            super().set_xfer_handshake_metadata_pp_aware(inner)
        if self._scheduler is not None:
            ranks = [item.geometry for (_, tp), item in ours.items() if tp == 0 and item.geometry]
            stopped = next((item.stopped for item in ours.values() if item.stopped), "")
            self._guard.run(self._scheduler.register, ranks, stopped)

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """Forwarded; the cache's usage goes into the reports."""
        super().bind_kv_cache_manager(kv_cache_manager)
        if self._scheduler is not None:
            self._guard.run(self._scheduler.bind, kv_cache_manager)

    def on_new_request(self, request: Any) -> None:
        """A request has arrived."""
        super().on_new_request(request)
        if self._scheduler is not None:
            self._guard.run(self._scheduler.begin, request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Forwarded; a fill from outside begins where the local hit ends."""
        if self._scheduler is not None:
            self._guard.run(self._scheduler.match, request, num_computed_tokens)
        return super().get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Blocks filled from outside are unknown to the signature cache."""
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if self._scheduler is not None:
            self._guard.run(self._scheduler.fill, request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """The inner metadata and the step's plan."""
        inner = super().build_connector_meta(scheduler_output)
        plan = None
        if self._scheduler is not None:
            plan = self._guard.run(self._scheduler.plan, scheduler_output)
        return EldrMetadata(inner, plan)

    def update_connector_output(self, connector_output: Any) -> None:
        """The inner connector sees its own metadata only."""
        ours = connector_output.kv_connector_worker_meta
        if not isinstance(ours, EldrWorkerMetadata):  # from a worker that ran nothing
            super().update_connector_output(connector_output)
            return
        connector_output.kv_connector_worker_meta = ours.inner
        try:
            super().update_connector_output(connector_output)
        finally:
            connector_output.kv_connector_worker_meta = ours
        if self._scheduler is not None:
            self._guard.run(self._scheduler.take, *ours.report())

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The answer's parameters, including `eldr`."""
        return self._with_eldr(request, *super().request_finished(request, block_ids))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The answer's parameters, including `eldr`."""
        return self._with_eldr(request, *super().request_finished_all_groups(request, block_ids))

    def _with_eldr(
        self, request: Any, delayed: bool, params: dict[str, Any] | None
    ) -> tuple[bool, dict[str, Any] | None]:
        said = None
        if self._scheduler is not None:
            said = self._guard.run(self._scheduler.finish, request)
        return delayed, params if said is None else {**(params or {}), "eldr": said}

    # Both sides

    def get_kv_connector_stats(self) -> Any:
        """The inner connector's, always inside ours: vLLM adds up those of both sides."""
        from eldr_vllm.stats import EldrStats

        inner = super().get_kv_connector_stats()
        news = {}
        if self._scheduler is not None and self._guard.active:
            news = self._guard.run(self._scheduler.tally.news) or {}
        elif self.role is KVConnectorRole.SCHEDULER and not self._told_of_end:
            self._told_of_end = True
            news = {"state": "STOPPED", "layers": 0}
        stats = EldrStats(news, inner)
        return None if stats.is_empty() else stats

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        """The inverse of `get_kv_connector_stats`, from its plain values."""
        from eldr_vllm.stats import EldrStats

        if data is None:
            return EldrStats()
        inner = data["inner"]
        if inner is not None:
            inner = super().build_kv_connector_stats(data=inner)
        return EldrStats(data["eldr"], inner)

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> Any:
        """The inner connector's metrics and ours."""
        from eldr_vllm.stats import EldrPromMetrics

        given = metric_types, labelnames, per_engine_labelvalues
        inner = super().build_prom_metrics(vllm_config, *given)
        return EldrPromMetrics(inner, vllm_config, *given)

    def shutdown(self) -> None:
        """Deregisters."""
        super().shutdown()
        if self._scheduler is not None:
            self._scheduler.close()


# In a MultiConnector, vLLM looks a connector up by name to read its stats.
with contextlib.suppress(ValueError):
    KVConnectorFactory.register_connector("EldrConnector", __name__, "EldrConnector")
