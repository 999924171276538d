import grpc
import pytest
from eldr_client import RouterClient, aio, errors
from google.rpc import error_details_pb2
from scripted_router import refuse

BAD = error_details_pb2.BadRequest()
BAD.field_violations.add(field="counts.top_k", description="expected 1 to 8, found 9")
BAD.field_violations.add(field="model", description="expected 1 to 256 bytes, found ''")
RETRY = error_details_pb2.RetryInfo()
RETRY.retry_delay.FromMilliseconds(1500)

CASES = [
    (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError, (BAD,)),
    (grpc.StatusCode.NOT_FOUND, errors.NotFoundError, ()),
    (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPreconditionError, ()),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError, (RETRY,)),
    (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError, ()),
    (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError, ()),
    (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError, ()),
]


@pytest.mark.parametrize(("code", "kind", "details"), CASES)
async def test_the_routers_errors_are_raised_and_neither_retried_nor_fallen_back_from(
    router, code, kind, details
):
    router.script["Route"] = lambda _, context: refuse(context, code, "so it is", *details)
    known = [("w9", "http://w9")]
    with RouterClient(router.target, timeout=5, fallback_workers=known) as client:
        with pytest.raises(kind, match="so it is") as caught:
            client.route("m", "sync")
        with pytest.raises(kind), client.place("m", "block"):
            pytest.fail("entered")
    async with aio.RouterClient(router.target, timeout=5, fallback_workers=known) as client:
        with pytest.raises(kind):
            await client.route("m", "aio")
    assert (caught.value.code, caught.value.reason) == (code, code.name)
    assert [r.request_id for r in router.requests("Route")] == ["sync", "block", "aio"]
    # FAILED_PRECONDITION may mean that the booking is another's: it is not ours to end.
    assert not router.requests("Release")


def test_invalid_argument_names_the_field(router):
    router.script["Route"] = lambda _, context: refuse(
        context, grpc.StatusCode.INVALID_ARGUMENT, "wrong", BAD
    )
    with RouterClient(router.target, timeout=5) as client:
        with pytest.raises(errors.InvalidArgumentError) as caught:
            client.route("m", "r")
        error = caught.value
        assert (error.field, error.expected, error.found) == ("counts.top_k", "1 to 8", "9")
        assert [field for field, _ in error.violations] == ["counts.top_k", "model"]

        # A sentence may be ambiguous; the metadata is not.
        router.script["Route"] = lambda _, context: refuse(
            context, grpc.StatusCode.INVALID_ARGUMENT, "w", BAD, expected="a, found b", found="c"
        )
        with pytest.raises(errors.InvalidArgumentError) as caught:
            client.route("m", "r")
        assert (caught.value.expected, caught.value.found) == ("a, found b", "c")


def test_resource_exhausted_says_when_to_come_back(router):
    router.script["Route"] = lambda _, context: refuse(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", RETRY
    )
    with (
        RouterClient(router.target, timeout=5) as client,
        pytest.raises(errors.ResourceExhaustedError) as caught,
    ):
        client.route("m", "r")
    assert caught.value.retry_after == 1.5


def test_details_that_are_garbage_leave_the_code(router):
    def garbage(_, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    router.script["RenewLeases"] = garbage
    with (
        RouterClient(router.target, timeout=5) as client,
        pytest.raises(errors.NotFoundError, match="gone"),
    ):
        client.renew("m", [("r", 0)])


def test_a_fault_of_the_router_fails_open_for_that_request_alone(router):
    router.script["Route"] = lambda _, context: context.abort(grpc.StatusCode.INTERNAL, "bug")
    known = [("w9", "http://w9")]
    with RouterClient(router.target, timeout=5, fallback_workers=known) as client:
        assert client.route("m", "poison").is_fallback
        del router.script["Route"]
        assert client.route("m", "healthy").worker_id == "w0"
