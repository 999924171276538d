"""What all unary methods share: domain errors become statuses, and durations are measured."""

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from eldr_service.core.errors import EldrError, UnavailableError
from eldr_service.server.rpc.decoding import NOT_A_MESSAGE, NotAMessageError
from eldr_service.server.rpc.errors import abort, status_code
from eldr_service.stores.records import StoreError

Method = Callable[[Any, Any, grpc.aio.ServicerContext], Awaitable[Any]]


def unary(method: Method) -> Method:
    """Answer with a status if `method` raises a domain error; the servicer has `telemetry`."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        began = time.perf_counter()
        try:
            if request is NOT_A_MESSAGE:
                raise NotAMessageError
            return await method(self, request, context)
        except EldrError as error:
            self.telemetry.refused(self, method.__name__, status_code(error), error)
            await abort(context, error)
        except StoreError as error:
            failed = UnavailableError(f"the change could not be stored: {error}")
            self.telemetry.refused(self, method.__name__, status_code(failed), failed)
            await abort(context, failed)
        finally:
            self.telemetry.answered(self, method.__name__, time.perf_counter() - began)

    return answer
