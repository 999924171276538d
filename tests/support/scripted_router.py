"""A router over a real socket that does what a test says, and records its calls."""

import threading
from collections.abc import Callable
from concurrent import futures

import grpc
from eldr.v1 import fleet_pb2, fleet_pb2_grpc, router_pb2, router_pb2_grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

PROBE = "eldr-client-probe"


class ScriptedRouter(router_pb2_grpc.RouterServiceServicer, fleet_pb2_grpc.FleetServiceServicer):
    """Books on its two workers by default; `script[method]` replaces a default answer.

    `calls` are the (method, request) that came, `probes` the client's own, `held` the bookings.
    """

    def __init__(self) -> None:
        self.script: dict[str, Callable] = {}
        self.calls: list[tuple[str, object]] = []
        self.probes: list[router_pb2.RouteRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.held: dict[tuple[str, int], str] = {}
        self.updates: list[fleet_pb2.WatchWorkersResponse] = []
        self.hold = threading.Event()  # what a hung answer waits for
        self.port = 0
        self._incarnations = 0
        self._server: grpc.Server | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, credentials: grpc.ServerCredentials | None = None) -> "ScriptedRouter":
        self._server = grpc.server(futures.ThreadPoolExecutor(80))
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, self._server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )
        self._server.start()
        return self

    def stop(self) -> None:
        self.hold.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()

    def requests(self, method: str) -> list:
        return [request for name, request in self.calls if name == method]

    def hang(self, request, context):
        self.hold.wait(20)
        context.abort(grpc.StatusCode.ABORTED, "the test is over")

    def Route(self, request, context):
        if request.request_id == PROBE:
            self.probes.append(request)
            return self.script.get("Route", self._Route)(request, context)
        return self._answer("Route", request, context)

    def Release(self, request, context):
        return self._answer("Release", request, context)

    def RegisterSignature(self, request, context):
        return self._answer("RegisterSignature", request, context)

    def StreamSignatures(self, requests, context):
        for request in requests:
            yield self._answer("StreamSignatures", request, context)

    def RenewLeases(self, request, context):
        return self._answer("RenewLeases", request, context)

    def RegisterWorker(self, request, context):
        return self._answer("RegisterWorker", request, context)

    def ReportLoad(self, request, context):
        return self._answer("ReportLoad", request, context)

    def RemoveWorker(self, request, context):
        return self._answer("RemoveWorker", request, context)

    def WatchWorkers(self, request, context):
        self.calls.append(("WatchWorkers", request))
        yield from self.updates
        while context.is_active() and not self.hold.wait(0.02):
            pass

    def _answer(self, method, request, context):
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        return self.script.get(method, getattr(self, f"_{method}"))(request, context)

    def _Route(self, request, context):
        lease = f"lease-{request.request_id}-{request.attempt}"
        if not request.dry_run:
            self.held[request.request_id, request.attempt] = lease
        placement = router_pb2.Placement(
            worker_id="w0",
            url="http://w0",
            dp_rank=3,
            alternates=[router_pb2.WorkerTarget(worker_id="w1", url="http://w1")],
            reason="PLACEMENT_REASON_LOCALITY_BAND",
            policy="locality-band",
            partition_version=7,
            lease_id=lease,
            similarity=0.5,
            coverage=1.0,
        )
        placement.lease_remaining.FromSeconds(900)
        return router_pb2.RouteResponse(placement=placement)

    def _Release(self, request, context):
        known = self.held.pop((request.request_id, request.attempt), None)
        result = "RELEASE_RESULT_RELEASED" if known else "RELEASE_RESULT_UNKNOWN"
        return router_pb2.ReleaseResponse(result=result)

    def _RegisterSignature(self, request, context):
        return router_pb2.RegisterSignatureResponse(
            tokens_held=request.counts.num_tokens, complete=request.last
        )

    def _StreamSignatures(self, request, context):
        answer = router_pb2.StreamSignaturesResponse(
            model=request.model, request_id=request.request_id, epoch=request.epoch
        )
        if request.HasField("route"):
            answer.placement.CopyFrom(self._Route(request.route, context).placement)
        else:
            answer.acknowledgement.CopyFrom(self._RegisterSignature(request, context))
        return answer

    def _RenewLeases(self, request, context):
        return router_pb2.RenewLeasesResponse(
            unknown=[
                lease
                for lease in request.leases
                if (lease.request_id, lease.attempt) not in self.held
            ]
        )

    def _RegisterWorker(self, request, context):
        self._incarnations += 1
        answer = fleet_pb2.RegisterWorkerResponse(incarnation=self._incarnations)
        answer.report_interval.FromMilliseconds(20)
        return answer

    def _ReportLoad(self, request, context):
        return fleet_pb2.ReportLoadResponse(accepted=request.incarnation == self._incarnations)

    def _RemoveWorker(self, request, context):
        return fleet_pb2.RemoveWorkerResponse()


def refuse(context, code: grpc.StatusCode, message: str, *details, **metadata: str) -> None:
    """Abort as the daemon does: always with an ErrorInfo, and the status's own details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=code.name, domain="eldr", metadata=metadata)
    for detail in (info, *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
