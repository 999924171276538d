"""A request's name at the daemon is the id that its caller knows."""

import pytest

pytestmark = pytest.mark.vllm

IDS = ["cmpl-1-0", "chatcmpl-mine-0123abcd", "mine-0123abcd-0123abcd", "0123abcd", "-deadbeef", "x"]


@pytest.mark.parametrize("randomised", [True, False])
@pytest.mark.parametrize("said", IDS)
def test_what_vllm_appends_is_taken_off_and_no_more(monkeypatch, said, randomised):
    from eldr_vllm.scheduler.transfer_params import external_id
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.input_processor import InputProcessor

    monkeypatch.setenv("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", str(int(not randomised)))
    request = EngineCoreRequest(said, [1], None, SamplingParams(), None, 0.0, None, None, None)
    InputProcessor.assign_request_id(request)
    assert (request.request_id != said) is randomised
    assert external_id(request.request_id) == said
