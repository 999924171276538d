"""The release of an answer that moved here: all that was written, since its first token."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("moved", "tokens", "seconds"),
    [
        ({}, 40, 1.5),
        ({"output_tokens": 20, "decode_seconds": 3.0}, 60, 5.0),
        ({"output_tokens": -1, "decode_seconds": "long"}, 40, 1.5),
        ({"output_tokens": 0.5, "decode_seconds": float("nan")}, 40, 1.5),
    ],
)
def test_it_tells_what_the_engines_before_wrote(router, moved, tokens, seconds):
    from eldr_client import RouterClient
    from eldr_client.traces import Traces
    from eldr_vllm.scheduler.decode import DecodeSide
    from eldr_vllm.scheduler.outbox import Outbox
    from eldr_vllm.settings import Settings
    from vllm.v1.request import RequestStatus
    from wire import eventually

    eldr = {"request_id": "r", "attempt": 1, "lease_id": "x", **moved}
    request = SimpleNamespace(
        request_id="cmpl-r-0-0123abcd",
        kv_transfer_params={"eldr": eldr},
        num_prompt_tokens=50,
        num_output_tokens=40,
        status=RequestStatus.FINISHED_LENGTH_CAPPED,
    )
    told = len(router.requests("Release"))
    outbox = Outbox(RouterClient(router.target, timeout=5.0), 8, Traces())
    side = DecodeSide(Settings.read({}, "kv_consumer"), "tiny", 0, outbox)
    side.begin(request, now=100.0)
    side.plan([], now=100.25, scheduled=1)
    side.plan([request.request_id], now=100.5, scheduled=1)
    side.finish(request, now=102.0)
    eventually(lambda: len(router.requests("Release")) > told)
    outbox.close()
    release = router.requests("Release")[told]
    assert (release.output_tokens, release.attempt) == (tokens, 1)
    assert release.decode_duration.ToTimedelta().total_seconds() == seconds
