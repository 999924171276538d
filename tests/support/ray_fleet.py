"""The daemon beside a Ray Serve application, and what it knows about the replicas."""

import signal

import grpc
from eldr.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
)
from rig import Daemon, wait


class Fleet:
    """A daemon whose one model is served by replicas."""

    def __init__(self, directory, model="tiny"):
        self.directory, self.model = directory, model
        self.daemon = Daemon(directory)
        self.target = self.daemon.target

    def restart(self):
        """Start a new daemon at the same address, without any state."""
        self.daemon.kill()
        self.daemon = Daemon(self.directory, int(self.target.rpartition(":")[2]))

    def freeze(self):
        """Make the daemon keep its connections but answer nothing until `thaw`."""
        self.daemon.signal(signal.SIGSTOP)

    def thaw(self):
        self.daemon.signal(signal.SIGCONT)

    def workers(self):
        """The ready workers by id."""
        request, ready = fleet_pb2.ListWorkersRequest(), fleet_pb2.WORKER_STATE_READY
        answer = self._ask(fleet_pb2_grpc.FleetServiceStub, "ListWorkers", request)
        return {worker.worker_id: worker for worker in answer.workers if worker.state == ready}

    def await_workers(self, count):
        wait(lambda: len(self.workers()) == count, 30, lambda: str(sorted(self.workers())))

    def total(self, field):
        """A field of ListWorkers, summed over the workers."""
        return sum(getattr(worker, field) for worker in self.workers().values())

    def await_no_bookings(self):
        wait(lambda: not self.total("booked_sequences"), 10, lambda: str(self.workers()))

    def set_policy(self, name, **parameters):
        request = policy_pb2.SetPolicyRequest(model=self.model, name=name, parameters=parameters)
        self._ask(policy_pb2_grpc.PolicyServiceStub, "SetPolicy", request)

    def fit(self, counts=(), slots=2):
        """Activate a partition fitted on these counts, or on what the daemon has seen."""
        request = partition_pb2.FitPartitionRequest(
            model=self.model, counts=counts, num_slots=slots, activate=True
        )
        self._ask(partition_pb2_grpc.PartitionServiceStub, "FitPartition", request)

    def _ask(self, stub, method, request):
        with grpc.insecure_channel(self.target) as channel:
            return getattr(stub(channel), method)(request, timeout=60)
