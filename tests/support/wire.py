"""Clients of the daemon from the generated stubs, and counts as sent."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass

import grpc
import numpy as np
import pytest
from eldr.v1 import (
    activation_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc

LAYERS, EXPERTS, TOP_K = 3, 16, 2
GEOMETRY = activation_pb2.ModelGeometry(num_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K)
MODULES = (router_pb2, fleet_pb2, partition_pb2, policy_pb2)
METHODS = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
DETAILS = "grpc-status-details-bin"
LIMIT = 64 << 20


def path_of(method) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def messages():
    """The request and response classes of the contract, by full name."""
    return {
        kind.full_name: getattr(module, name)
        for module in (*MODULES, activation_pb2)
        for name, kind in module.DESCRIPTOR.message_types_by_name.items()
    }


MESSAGES = messages()


def eventually(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that the daemon does by itself, by its clock."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


class Client:
    """All stubs over one channel; asyncio's if `asynchronous`."""

    def __init__(self, address: str, *, credentials=None, asynchronous: bool = False) -> None:
        library = grpc.aio if asynchronous else grpc
        options = [
            ("grpc.max_receive_message_length", LIMIT),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = (
            library.secure_channel(address, credentials, options)
            if credentials
            else library.insecure_channel(address, options)
        )
        self.router = router_pb2_grpc.RouterServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)
        self.partition = partition_pb2_grpc.PartitionServiceStub(self.channel)
        self.policy = policy_pb2_grpc.PolicyServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.channel.close()

    def call(self, method, request: bytes, **options):
        """Call any method of the contract, streaming or not, with raw bytes."""
        kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
            "stream" if method.server_streaming else "unary"
        )
        answer = MESSAGES[method.output_type.full_name].FromString
        stub = getattr(self.channel, kind)(path_of(method), None, answer)
        options = {"timeout": 10, **options}
        return stub(iter([request]) if method.client_streaming else request, **options)

    # What most tests start with

    def register(self, model: str, worker_id: str = "w0", **fields) -> int:
        fields = {"geometry": GEOMETRY, "url": f"http://{worker_id}", **fields}
        request = fleet_pb2.RegisterWorkerRequest(model=model, worker_id=worker_id, **fields)
        return self.fleet.RegisterWorker(request).incarnation

    def fit(self, model: str, kinds: int = 2, activate: bool = True, **fields):
        """Fit a partition with one slot for each kind of `counts_of`."""
        request = partition_pb2.FitPartitionRequest(
            model=model,
            counts=[counts(drawn(kind, seed)) for kind in range(kinds) for seed in range(4)],
            num_slots=kinds,
            activate=activate,
            **fields,
        )
        return self.partition.FitPartition(request).partition

    def route(self, model: str, request_id: str, **fields):
        request = router_pb2.RouteRequest(model=model, request_id=request_id, **fields)
        return self.router.Route(request).placement

    def release(self, model: str, request_id: str, **fields) -> str:
        request = router_pb2.ReleaseRequest(model=model, request_id=request_id, **fields)
        result = self.router.Release(request).result
        return router_pb2.ReleaseResult.Name(result).removeprefix("RELEASE_RESULT_")

    def workers(self, model: str = "") -> dict[str, fleet_pb2.Worker]:
        listed = self.fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=model)).workers
        return {worker.worker_id: worker for worker in listed}

    def booked(self, model: str) -> int:
        return sum(worker.booked_sequences for worker in self.workers(model).values())

    def watch(self, model: str = "", timeout: float = 20):
        return self.fleet.WatchWorkers(fleet_pb2.WatchWorkersRequest(model=model), timeout=timeout)


def drawn(kind: int, seed: int = 0, tokens: int = 30, layers=LAYERS, experts=EXPERTS, top_k=TOP_K):
    """Counts [L, E] of a request whose tokens prefer the experts of its kind."""
    rng = np.random.default_rng([kind, seed])
    liked = np.arange(experts) % 4 == kind
    share = np.where(liked, 8.0, 1.0)
    return rng.multinomial(tokens * top_k, share / share.sum(), size=layers).astype(np.uint32)


def counts(array, *, encoding="u16", offset=0, num_layers=LAYERS, top_k=TOP_K, **fields):
    """The counts as a message, of all layers or from `offset` on."""
    present, experts = array.shape
    message = activation_pb2.ActivationCounts(
        num_layers=num_layers,
        layer_offset=offset,
        layers_present=present,
        num_experts=experts,
        top_k=top_k,
        num_tokens=int(array[0].sum()) // top_k,
    )
    if encoding == "sparse":
        index = np.flatnonzero(array)
        message.sparse.index.extend(index.tolist())
        message.sparse.count.extend(array.ravel()[index].tolist())
    else:
        setattr(message, f"dense_{encoding}", array.astype(f"<u{int(encoding[1:]) // 8}").tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@dataclass(frozen=True)
class Refusal:
    """A status in words; the details are empty if there are none."""

    code: str
    message: str
    _: KW_ONLY
    reason: str = ""
    domain: str = ""
    field: str = ""
    expected: str = ""
    found: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_seconds: float | None = None


def refusal_of(error: grpc.RpcError) -> Refusal:
    trailer = dict(error.trailing_metadata() or ()).get(DETAILS)
    return (
        read_status(Status.FromString(trailer))
        if trailer
        else Refusal(error.code().name, error.details())
    )


def read_status(status: Status) -> Refusal:
    info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    there = {
        type(d): True
        for detail in status.details
        for d in (info, request, retry)
        if detail.Unpack(d)
    }
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    return Refusal(
        code.name,
        status.message,
        reason=info.reason,
        domain=info.domain,
        **{name: info.metadata.get(name, "") for name in ("field", "expected", "found")},
        violations=tuple((v.field, v.description) for v in request.field_violations),
        retry_seconds=retry.retry_delay.ToTimedelta().total_seconds()
        if RetryInfo in there
        else None,
    )


class Refused(AbstractContextManager):
    """Like pytest.raises, for a gRPC error; `as refused` has the Refusal afterwards."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._raises = pytest.raises(grpc.RpcError)

    def __enter__(self) -> "Refused":
        self._error = self._raises.__enter__()
        return self

    def __exit__(self, *error) -> bool:
        caught = self._raises.__exit__(*error)
        self.status = refusal_of(self._error.value)
        assert self.status.code == self._code, self.status
        return caught
