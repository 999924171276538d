"""A router that answers as a case says, and records what it receives."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from eldr.v1 import router_pb2 as pb
from eldr.v1.router_pb2_grpc import RouterServiceServicer, add_RouterServiceServicer_to_server
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (details are of its types)

DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class Received:
    """One message received."""

    replica: int
    method: str
    request: dict[str, Any]
    token: str
    stream: int  # number of its StreamSignatures call, from 1; 0 for a unary call

    def as_dict(self) -> dict[str, Any]:
        """The parts of it that a case may check."""
        return {
            "replica": self.replica,
            "method": self.method,
            "request": self.request,
            "token": self.token,
            "stream": self.stream,
        }


class Script:
    """The answers to give, per method, and what has arrived; shared by a case's replicas.

    An answer is `{"response": {...}}`, `{"status": {...}}` (a google.rpc.Status), `"silent"` for a
    status that no router gave (as when a connection breaks), `"hang"`, or `"hang always"` for all
    later messages too; `{"after": SECONDS}` beside a response or status, or alone, delays the
    answer. Without a scripted answer the method's usual one is given.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._answers: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._streams = 0

    def add(self, method: str, answers: list[Any]) -> None:
        """Add answers for the next messages; a probe uses one too."""
        self._answers[method].extend(answers)

    def clear(self) -> None:
        """Return to the usual answers."""
        self._answers.clear()

    def next(self, method: str) -> Any:
        """The scripted answer to this message; None for the usual one."""
        answers = self._answers[method]
        if not answers:
            return None
        return answers[0] if answers[0] == "hang always" else answers.popleft()

    def new_stream(self) -> int:
        """Count a new stream; returns its number."""
        self._streams += 1
        return self._streams


class Replica(RouterServiceServicer):
    """One address of the router. It can be stopped and started again on the same port."""

    def __init__(self, script: Script, number: int) -> None:
        self._script, self._number = script, number
        self._server: grpc.aio.Server | None = None
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        """Serve."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_RouterServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Close open connections and refuse new ones."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def Route(self, request, context):  # noqa: D102, N802
        usual = pb.RouteResponse(placement=_placement(request))
        return await self._unary("Route", request, context, usual)

    async def Release(self, request, context):  # noqa: D102, N802
        usual = pb.ReleaseResponse(result=pb.RELEASE_RESULT_RELEASED)
        return await self._unary("Release", request, context, usual)

    async def RegisterSignature(self, request, context):  # noqa: D102, N802
        usual = _acknowledgement(request)
        return await self._unary("RegisterSignature", request, context, usual)

    async def RenewLeases(self, request, context):  # noqa: D102, N802
        return await self._unary("RenewLeases", request, context, pb.RenewLeasesResponse())

    async def StreamSignatures(  # noqa: D102, N802
        self, requests: AsyncIterator[pb.StreamSignaturesRequest], context: Any
    ) -> AsyncIterator[pb.StreamSignaturesResponse]:
        stream = self._script.new_stream()
        async for request in requests:
            answer = self._take("StreamSignatures", request, context, stream)
            key = dict(model=request.model, request_id=request.request_id)
            key |= dict(epoch=request.epoch, sequence=request.sequence)
            if answer is None:
                usual = pb.StreamSignaturesResponse(**key)
                if request.HasField("route"):
                    usual.placement.CopyFrom(_placement(request.route, request.request_id))
                else:
                    usual.acknowledgement.CopyFrom(_acknowledgement(request))
                yield usual
                continue
            if answer in ("hang", "hang always"):
                continue
            if answer == "silent":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            await asyncio.sleep(answer.get("after", 0))
            if "status" in answer:
                status = ParseDict(answer["status"], status_pb2.Status())
                yield pb.StreamSignaturesResponse(**key, status=status)
            else:
                yield ParseDict(answer["response"], pb.StreamSignaturesResponse(**key))

    async def _unary(self, method: str, request: Any, context: Any, usual: Any) -> Any:
        answer = self._take(method, request, context, 0)
        if answer is None:
            return usual
        if answer in ("hang", "hang always"):
            await asyncio.Event().wait()
        if answer == "silent":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        await asyncio.sleep(answer.get("after", 0))
        if "status" in answer:
            status = ParseDict(answer["status"], status_pb2.Status())
            context.set_trailing_metadata([(DETAILS, status.SerializeToString())])
            code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
            await context.abort(code, status.message)
        return ParseDict(answer["response"], type(usual)()) if "response" in answer else usual

    def _take(self, method: str, request: Any, context: Any, stream: int) -> Any:
        values = MessageToDict(request, preserving_proto_field_name=True)
        metadata = dict(context.invocation_metadata() or ())
        token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
        self._script.received.append(Received(self._number, method, values, token, stream))
        return self._script.next(method)


def _placement(request: pb.RouteRequest, request_id: str = "") -> pb.Placement:
    placement = pb.Placement(
        worker_id="w0",
        url="http://w0:8000",
        dp_rank=1,
        alternates=[pb.WorkerTarget(worker_id="w1", url="http://w1:8000", dp_rank=2)],
        reason=pb.PLACEMENT_REASON_LOCALITY_BAND,
        policy="locality-band",
        partition_version=3,
        similarity=0.5,
        coverage=1.0,
    )
    if not request.dry_run:
        placement.lease_id = f"lease-{request.request_id or request_id}-{request.attempt}"
        seconds = request.lease_ttl.seconds or 900
        placement.lease_remaining.seconds = seconds
        placement.lease_expire_time.GetCurrentTime()
        placement.lease_expire_time.seconds += seconds
    return placement


def _acknowledgement(request: Any) -> pb.RegisterSignatureResponse:
    return pb.RegisterSignatureResponse(
        tokens_held=request.counts.num_tokens, complete=request.last
    )
