import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from eldr_service.core.errors import (
    EldrError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from eldr_service.server.rpc.errors import (
    PermissionDeniedError,
    UnauthenticatedError,
    abort,
    status_code,
    to_status,
)


def details(status: Status, kind):
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidArgumentError("f", "x", "y"), "INVALID_ARGUMENT"),
        (NotFoundError("no"), "NOT_FOUND"),
        (FailedPreconditionError("no"), "FAILED_PRECONDITION"),
        (ResourceExhaustedError("no", 1), "RESOURCE_EXHAUSTED"),
        (UnavailableError("no"), "UNAVAILABLE"),
        (UnauthenticatedError("no"), "UNAUTHENTICATED"),
        (PermissionDeniedError("no"), "PERMISSION_DENIED"),
    ],
)
def test_each_error_has_its_code_and_reason(error, reason):
    status = to_status(error)
    assert status.code == code_pb2.Code.Value(reason) == status_code(error).value[0]
    assert status.message == str(error)
    (info,) = details(status, ErrorInfo)
    assert (info.reason, info.domain) == (reason, "eldr")


def test_an_error_of_a_new_kind_is_still_no_internal_one():
    class TooFondError(EldrError):
        pass

    status = to_status(TooFondError("of one worker"))
    assert status.code == code_pb2.FAILED_PRECONDITION
    assert details(status, ErrorInfo)[0].reason == "TOO_FOND"


def test_an_invalid_argument_names_its_field():
    status = to_status(InvalidArgumentError("counts", "rows of 8", 7))
    (bad,) = details(status, BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("counts", "expected rows of 8, found 7")
    ]
    (info,) = details(status, ErrorInfo)
    assert dict(info.metadata) == {"field": "counts", "expected": "rows of 8", "found": "7"}


def test_an_exhausted_resource_says_when_to_retry():
    (retry,) = details(to_status(ResourceExhaustedError("full", 1.25)), RetryInfo)
    assert 1.25 <= retry.retry_delay.ToTimedelta().total_seconds() <= 2.5  # by chance


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("Modell „Ölpfütze“ ist unbekannt"),
        NotFoundError("line\nbreak and \0"),
        NotFoundError("\ud800 alone"),
        NotFoundError("ü" * 100_000),
        InvalidArgumentError("labels[" + "ü" * 5_000 + "]", "x" * 5_000, "ü" * 5_000),
    ],
)
async def test_arrives_over_a_real_socket(error):
    async def fail(request, context):
        await abort(context, error)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(fail)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/s/m")(b"")
    finally:
        await server.stop(None)
    sent = to_status(error)
    assert refused.value.code() is status_code(error)
    assert refused.value.details() == sent.message
    assert len(sent.message.encode()) <= 1_024
    trailer = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    assert Status.FromString(trailer) == sent
