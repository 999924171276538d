"""The connector's release of an answer that moved: all that was written, since its first token."""

from types import SimpleNamespace

import pytest
from eldr.v1.decision_log_pb2 import LogEndKind
from real_engines import RealEngine
from restless import restless_daemon
from test_proxy_moves_vllm import PROMPTS, TOKENS, moved, moving_proxy

pytestmark = pytest.mark.vllm(engines=3)


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


async def test_engines_release_what_moved_to_them_as_a_whole(model, tmp_path):
    from rig import MODEL, running_apart

    from eldr_service.decision_log.counts import from_record
    from eldr_service.decision_log.reader import LogReader

    log = tmp_path / "log"
    with restless_daemon("--decision-log", str(log)) as daemon:
        shared = SimpleNamespace(target=daemon.grpc)
        with running_apart(model, tmp_path, daemon=shared) as rig:
            rig.await_workers()
            engines = [RealEngine(e.url, None, e.log) for e in (rig.prefill, *rig.decodes)]
            async with moving_proxy(engines, daemon) as proxy:
                await moved(proxy, daemon, [{"prompt": prompt} for prompt in PROMPTS], MODEL)
    ends = [record.end for record in LogReader(log) if record.HasField("end")]
    released = [end for end in ends if end.kind == LogEndKind.LOG_END_KIND_RELEASED]
    told = [end for end in released if end.output_tokens]
    # An engine may end an answer, and release it, while a move of it is being booked.
    assert len({end.request_id for end in told}) == len(PROMPTS)
    assert {end.output_tokens for end in told} == {TOKENS}
    assert all(end.decode_seconds > 0 for end in told)
    # Counts come with the connectors' own releases, and are those of the last engine's tokens.
    of_last = [from_record(end.decode_counts) for end in told if end.HasField("decode_counts")]
    assert min(counts[0].sum() / top_k for counts, top_k in of_last) < TOKENS - 1
