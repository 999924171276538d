"""How the driver calls the engines: JSON over gRPC, instead of an inference server's API.

`Advance` {starts, until_s}: the decodes to start, each {now_s, request_id, recording, dp_rank}, and
the time to advance to; it returns the requests that `finished`, each {request_id, first_token_s,
end_s, tokens}. `Figures` returns `run.Figures` since `Reset`. Times are virtual seconds; `Reset`
{report_interval_s} empties the engines and sets how often they report.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

SERVICE = "eldr.demo.DecodeEngines"
Json = dict[str, Any]
Method = Callable[[Json], Awaitable[Json]]


def handler(methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """Serve coroutine functions that take and return JSON."""

    def served(method: Method) -> grpc.RpcMethodHandler:
        async def answer(request: Json, context: grpc.aio.ServicerContext) -> Json:
            return await method(request)

        return grpc.unary_unary_rpc_method_handler(answer, json.loads, _dumps)

    return grpc.method_handlers_generic_handler(
        SERVICE, {name: served(method) for name, method in methods.items()}
    )


class DecodeClient:
    """Calls the engines at an address."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._calls = {
            name: self._channel.unary_unary(f"/{SERVICE}/{name}", _dumps, json.loads)
            for name in ("Advance", "Figures", "Reset")
        }

    def __call__(self, method: str, **request: Any) -> Json:
        """Call a method and wait for its answer."""
        answer: Json = self._calls[method](request)
        return answer

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def _dumps(message: Json) -> bytes:
    return json.dumps(message).encode()
