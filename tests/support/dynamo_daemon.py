"""The daemon for tests of ELDR's router in Dynamo."""

import grpc
from dynamo_counts import counts_on_half
from eldr.v1.fleet_pb2 import ListWorkersRequest
from eldr.v1.fleet_pb2_grpc import FleetServiceStub
from eldr.v1.partition_pb2 import FitPartitionRequest
from eldr.v1.partition_pb2_grpc import PartitionServiceStub
from eldr.v1.policy_pb2 import SetPolicyRequest
from eldr.v1.policy_pb2_grpc import PolicyServiceStub
from eldr.v1.router_pb2 import ExplainRequest
from eldr.v1.router_pb2_grpc import RouterServiceStub

MODEL = "tiny"


class Daemon:
    """The daemon at HOST:PORT, which may not have started yet."""

    def __init__(self, target):
        channel = grpc.insecure_channel(target)
        self._fleet = FleetServiceStub(channel)
        self._router = RouterServiceStub(channel)
        self._partitions = PartitionServiceStub(channel)
        self._policies = PolicyServiceStub(channel)

    def workers(self):
        listed = self._fleet.ListWorkers(ListWorkersRequest()).workers
        return {worker.worker_id: worker for worker in listed}

    def booked(self):
        return sum(worker.booked_sequences for worker in self.workers().values())

    def fit(self):
        """Fit two slots, one per half of the experts; only similarity decides between workers."""
        self._fit(counts=[counts_on_half(half, 8).to_proto() for half in (0, 1)])

    def fit_what_it_saw(self):
        """The same from the prompts of the requests so far."""
        self._fit()

    def _fit(self, **of):
        self._partitions.FitPartition(
            FitPartitionRequest(model=MODEL, num_slots=2, activate=True, **of)
        )
        self.set_policy("locality-band", min_band="1")

    def set_policy(self, name, **parameters):
        self._policies.SetPolicy(SetPolicyRequest(model=MODEL, name=name, parameters=parameters))

    def placed(self, request_id):
        try:
            return bool(self.explain(request_id).placement.worker_id)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False

    def explain(self, request_id):
        return self._router.Explain(ExplainRequest(model=MODEL, request_id=request_id))
