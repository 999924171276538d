"""The demo's calls to the daemon."""

import base64
import time
from collections.abc import Callable, Sequence

import grpc
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2
from eldr.v1.activation_pb2 import ActivationCounts
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr.v1.partition_pb2_grpc import PartitionServiceStub
from eldr.v1.policy_pb2_grpc import PolicyServiceStub

from benchmarks.demos.demo_vllm.processes import DemoError


def sequences(worker: fleet_pb2.Worker) -> int:
    """A worker's sequences in flight, from any router."""
    return worker.booked_sequences + worker.foreign_sequences


class Fleet:
    """One model's decode workers, its partition and its policy."""

    def __init__(self, router: str, model: str) -> None:
        self._channel = grpc.insecure_channel(router)
        self._fleet = FleetServiceStub(self._channel)
        self._partitions = PartitionServiceStub(self._channel)
        self._policies = PolicyServiceStub(self._channel)
        self._model = model

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def workers(self) -> list[fleet_pb2.Worker]:
        """The decode workers in service."""
        answer = self._fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=self._model))
        return [
            worker
            for worker in answer.workers
            if worker.role == fleet_pb2.WORKER_ROLE_DECODE
            and worker.state == fleet_pb2.WORKER_STATE_READY
        ]

    def await_workers(
        self, urls: Sequence[str], seconds: float, waiting: Callable[[], None]
    ) -> None:
        """Wait until all of these are registered."""
        deadline = time.monotonic() + seconds
        while missing := set(urls) - {worker.url.rstrip("/") for worker in self.workers()}:
            waiting()
            if time.monotonic() > deadline:
                raise DemoError(f"not registered with the daemon: {', '.join(sorted(missing))}")
            time.sleep(0.2)

    def sequences(self) -> int:
        """Sequences on all workers: booked, or reported if another router sent them."""
        return sum(map(sequences, self.workers()))

    def fit(self, counts: Sequence[str], slots: int) -> partition_pb2.PartitionInfo:
        """Fit on counts from a prefill engine's answers, and activate the partition."""
        return self._partitions.FitPartition(
            partition_pb2.FitPartitionRequest(
                model=self._model,
                counts=[ActivationCounts.FromString(base64.b64decode(text)) for text in counts],
                num_slots=slots,
                n_init=8,
                activate=True,
            )
        ).partition

    @property
    def policy(self) -> str:
        """The policy in force."""
        active = self._policies.ListPolicies(policy_pb2.ListPoliciesRequest()).active
        default = next((each.name for each in active if not each.model), "")
        return next((each.name for each in active if each.model == self._model), default)

    def set_policy(self, name: str) -> None:
        """Place by this policy from now on."""
        self._policies.SetPolicy(policy_pb2.SetPolicyRequest(model=self._model, name=name))
