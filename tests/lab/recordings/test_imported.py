"""Answers with returned experts become the recording that they are of; what is wrong is named."""

import base64
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returned_answers import answers, in_hidden_layers, npy, raw, sglang, vllm
from routed import separable

from eldr_service.lab.recordings.imported import import_answers

DRAWN = separable(2, 3)  # 3 layers x 16 experts, top-2; 60 tokens, 30 of them prompt
NAMES = st.sampled_from(
    (
        *("id", "object", "choices", "usage", "meta_info", "sglext", "response", "body", "index"),
        *("finish_reason", "routed_experts", "text", "prompt_token_ids", "token_ids"),
        *("prompt_tokens", "completion_tokens"),
    )
)
SHAPE = (4, 2)  # of what is returned: one dense layer more


def kept(tmp_path, *values, name="answers.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def one(tmp_path, answer, **options):
    """What comes of a good answer and this one."""
    good = next(answers(DRAWN, vllm))
    return import_answers([kept(tmp_path, good, answer)], 16, **options)


def assert_is_drawn(found, requests=DRAWN.num_requests):
    recording = found.recording
    assert recording.geometry == DRAWN.geometry
    assert recording.num_requests == requests
    assert (found.layers, found.hidden_layers) == ((1, 2, 3), 4)
    for request in range(requests):
        prompt = DRAWN.expert_ids[DRAWN.prefill(request)]
        np.testing.assert_array_equal(recording.expert_ids[recording.prefill(request)], prompt)
        decoded = DRAWN.expert_ids[DRAWN.decode(request)][:-1]  # the last passed no layer
        np.testing.assert_array_equal(recording.expert_ids[recording.decode(request)], decoded)


@pytest.mark.parametrize(("form", "shape"), [(vllm, None), (vllm, SHAPE), (sglang, SHAPE)])
def test_lines_of_answers(tmp_path, form, shape):
    found = import_answers([kept(tmp_path, *answers(DRAWN, form))], 16, shape)
    assert_is_drawn(found)
    assert found.malformed == ()


def test_both_engines_and_several_files(tmp_path):
    by_vllm, by_sglang = (list(answers(DRAWN, form)) for form in (vllm, sglang))
    first = kept(tmp_path, *by_vllm[:2], name="first")
    second = kept(tmp_path, by_sglang[2:], name="second")  # a list, as of a batch
    assert_is_drawn(import_answers([first, second], 16, SHAPE))


def test_a_json_document_of_several_lines(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(list(answers(DRAWN, vllm)), indent=2))
    assert_is_drawn(import_answers([path], 16))


def test_openai_answers_of_sglang(tmp_path):
    def chat(name, experts, prompt_tokens):
        answer = vllm(name, experts, prompt_tokens)
        answer["choices"][0].pop("routed_experts")
        return {**answer, "sglext": {"routed_experts": raw(in_hidden_layers(experts))}}

    assert_is_drawn(import_answers([kept(tmp_path, *answers(DRAWN, chat))], 16, SHAPE))


def test_streams_of_chunks_are_joined_also_where_they_mix(tmp_path):
    streams = []
    for answer in answers(DRAWN, vllm):
        (choice,) = answer["choices"]
        ids = list(range(answer["usage"]["completion_tokens"]))
        first = {"token_ids": ids[:10], "prompt_token_ids": [0] * 30, "finish_reason": None}
        last = {"token_ids": ids[10:], "routed_experts": choice["routed_experts"]}
        chunks = [{"index": 0, **first}, {"index": 0, "finish_reason": "stop", **last}]
        streams.append([{"id": answer["id"], "choices": [chunk]} for chunk in chunks])
    lines = [
        f"data: {json.dumps(chunk)}\n\n" for part in zip(*streams, strict=True) for chunk in part
    ]
    path = tmp_path / "events"
    path.write_text(": begun\n" + "".join(lines) + "data: [DONE]\n")
    assert_is_drawn(import_answers([path], 16))
    bare = tmp_path / "bare.jsonl"  # as clients log them, without "data: "
    bare.write_text("".join(line.removeprefix("data: ") for line in lines))
    assert_is_drawn(import_answers([bare], 16))


def test_streams_of_sglang_say_all_of_it_in_each_chunk(tmp_path):
    chunks = []
    for answer in answers(DRAWN, sglang):
        early = {"id": answer["meta_info"]["id"], "finish_reason": None}
        early |= {"prompt_tokens": 30, "completion_tokens": 7, "routed_experts": None}
        chunks += [{"text": "", "meta_info": early}, answer]
    assert_is_drawn(import_answers([kept(tmp_path, *chunks)], 16, SHAPE))


def test_a_gateways_lines_have_domains_and_times(tmp_path):
    lines = [
        {"tags": {"tenant": f"t{n % 2}"}, "at": f"2026-01-01T00:00:0{n}Z", "response": answer}
        for n, answer in enumerate(answers(DRAWN, vllm))
    ]
    lines[0]["response"] = {"status_code": 200, "body": lines[0]["response"]}
    del lines[5]["tags"], lines[4]["at"]
    found = import_answers(
        [kept(tmp_path, *lines)], 16, domain_field="tags.tenant", time_field="at"
    )
    assert_is_drawn(found)
    assert found.recording.domains.tolist() == ["t0", "t1", "t0", "t1", "t0", ""]
    assert (found.without_domain, found.without_time) == (1, 1)
    assert found.arrivals == [(1767225600.0 + n, 30, 30) for n in (0, 1, 2, 3, 5)]


def test_a_prompt_that_begins_later(tmp_path):
    """As its request asked, which is logged with it; of more than half of it there is none."""

    def later(start, asked):
        answer = next(answers(DRAWN, vllm))
        rows = in_hidden_layers(DRAWN.expert_ids[:60])[start:]
        answer["choices"][0]["routed_experts"] = npy(rows)
        return {"request": asked, "response": answer}

    found = one(tmp_path, later(10, {"routed_experts_prompt_start": 10}))
    assert found.recording.prefill_len.tolist() == [30, 20]
    np.testing.assert_array_equal(found.recording.expert_ids[59:79], DRAWN.expert_ids[10:30])
    found = one(tmp_path, later(16, {"routed_experts_start_len": 16}))
    assert (found.recording.num_requests, found.cut_short) == (1, 1)
    (wrong,) = one(tmp_path, later(10, {})).malformed
    assert "has 49 tokens, expected 59" in wrong.why


def test_answers_without_experts_or_decode_are_counted(tmp_path):
    answer = next(answers(DRAWN, vllm))
    del answer["choices"][0]["routed_experts"]
    short = vllm("short", DRAWN.expert_ids[:31], 30)
    path = kept(tmp_path, answer, short, next(answers(DRAWN, vllm)))
    found = import_answers([path], 16)
    assert (found.without_experts, found.one_token, found.recording.num_requests) == (1, 1, 1)


def test_several_choices_need_token_ids(tmp_path):
    answer = next(answers(DRAWN, vllm))
    (choice,) = answer["choices"]
    answer["choices"] = [choice, {**choice, "index": 1}]
    answer["usage"]["completion_tokens"] = 60
    assert "return_token_ids" in one(tmp_path, answer).malformed[0].why
    ids = {"token_ids": [0] * 30, "prompt_token_ids": [0] * 30}
    answer["choices"] = [{**each, **ids} for each in answer["choices"]]
    assert one(tmp_path, answer).recording.num_requests == 3


def altered(**choice):
    answer = next(answers(DRAWN, vllm))
    answer["choices"][0].update(choice)
    return answer


def header(shape, data, dtype="|u1"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    npy = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    return base64.b64encode(npy).decode()


EXPERTS = in_hidden_layers(DRAWN.expert_ids[:60])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (altered(routed_experts=7), "must be base64, found int"),
        (altered(routed_experts="no!"), "must be base64"),
        (altered(routed_experts=npy(EXPERTS)[:-40]), "but has"),
        (altered(routed_experts=header((10**9, 4, 2), b"")), "8000000000 bytes, but has 0"),
        (altered(routed_experts=header((-59, -4, 2), b"\0" * 472)), "[tokens, layers, top_k]"),
        (altered(routed_experts=header((1, 1, 1), b"x" * 8, "|O")), "found object"),
        (altered(routed_experts=header("open('x')", b"")), "must be a .npy array"),
        (altered(routed_experts=npy(EXPERTS[0])), "[tokens, layers, top_k], found int64 [4, 2]"),
        (altered(routed_experts=npy(EXPERTS * 1.0)), "found float64"),
        (altered(routed_experts=npy(EXPERTS[1:])), "has 58 tokens, expected 59"),
        (altered(routed_experts=npy(EXPERTS[:, 1:])), "3 layers and top-2, expected 4 and top-2"),
        (altered(routed_experts=npy(EXPERTS + 1)), "from 1 to 16, expected experts from 0 to 15"),
        (altered(routed_experts=npy(EXPERTS - 1)), "from -1 to 14, expected experts from 0 to 15"),
        (altered(routed_experts=npy(EXPERTS * 0 + 5)), "twice in hidden layer 0, expected 2"),
        (altered(routed_experts=npy(EXPERTS * 0)), "the engine captured nothing"),
        (
            altered(routed_experts=npy(EXPERTS * [[0], [0], [1], [1]])),
            "layers [1] are all 0, but not",
        ),
        (altered(routed_experts=raw(EXPERTS)[4:]), "a multiple of 32"),
        (
            {**altered(), "usage": None},
            "usage.prompt_tokens must be a number of tokens, found None",
        ),
        ({**altered(), "choices": {}}, "choices must be a list of objects"),
        ({"error": {"message": "overloaded"}}, "found error"),
        ([3], "expected an object, found 3"),
        ({"meta_info": []}, "meta_info must be an object"),
        (altered(token_ids="none"), "token_ids must be a list"),
        ({**altered(), "kind": {}}, "kind must be a name of up to 200 characters"),
        ({**altered(), "kind": "x" * 201}, "kind must be a name of up to 200 characters"),
        ({**altered(), "created": 1e12}, "created: expected Unix seconds or ISO 8601"),
        ({**altered(), "created": "today"}, "created: Invalid isoformat"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, answer, said):
    found = one(tmp_path, answer, domain_field="kind", time_field="created")
    (wrong,) = found.malformed
    assert wrong.place == f"{tmp_path}/answers.jsonl line 2"
    assert said in wrong.why
    assert_is_drawn(found, requests=1)


def test_lines_that_are_no_json(tmp_path):
    path = tmp_path / "answers.jsonl"
    good = json.dumps(next(answers(DRAWN, vllm))).encode()
    path.write_bytes(b"\n".join([b"INFO begun", good, good[:900], b"\xff\xfe", b"[" * 5000, b""]))
    found = import_answers([path], 16)
    assert [str(wrong).split(": ")[0][-6:] for wrong in found.malformed] == [
        f"line {n}" for n in (1, 3, 4, 5)
    ]
    assert_is_drawn(found, requests=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([vllm, sglang]), st.lists(st.tuples(NAMES, JSON), max_size=3), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_field_may_be_anything(tmp_path, form, changes, event):
    answer = next(answers(DRAWN, form))
    good = next(answers(DRAWN, vllm))
    for name, value in changes:
        inside = [answer, answer.get("meta_info"), answer.get("usage")]
        inside += answer["choices"] if isinstance(answer.get("choices"), list) else []
        for fields in inside:
            if isinstance(fields, dict):
                fields[name] = value
    path = tmp_path / "answers.jsonl"
    line = json.dumps(answer)
    path.write_text(
        "\n".join([json.dumps({**good, "id": "good"}), *[f"data: {line}"] * (1 + event)])
    )
    found = import_answers([path], 16, SHAPE, domain_field="text")
    assert found.recording.num_requests >= 1


def test_long_lines_are_left_out_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr("eldr_service.lab.recordings.answer_files.LONGEST_LINE", 1 << 20)
    good = next(answers(DRAWN, vllm))
    found = import_answers([kept(tmp_path, {**good, "id": "x" * (5 << 20)}, good)], 16)
    (wrong,) = found.malformed
    assert str(wrong).endswith("line 1: longer than 1 MiB")
    assert_is_drawn(found, requests=1)


def test_nothing_to_use_is_said(tmp_path):
    with pytest.raises(ValueError, match="the files have none"):
        import_answers([kept(tmp_path)], 16)
    with pytest.raises(ValueError, match=r"1 malformed; .*line 1: SGLang's .* carries no shape"):
        import_answers([kept(tmp_path, next(answers(DRAWN, sglang)))], 16)


def test_which_layers_are_moe(tmp_path):
    path = kept(tmp_path, *answers(DRAWN, vllm))
    found = import_answers([path], 16, layers=[2, 3])
    np.testing.assert_array_equal(found.recording.expert_ids[:30], DRAWN.expert_ids[:30, 1:])
    with pytest.raises(ValueError, match="from 0 to 3"):
        import_answers([path], 16, layers=[4])
    top_1 = kept(tmp_path, altered(routed_experts=npy(EXPERTS[:, :, :1])), name="top_1")
    with pytest.raises(ValueError, match="the MoE layers must be given"):
        import_answers([top_1], 16)
    assert import_answers([top_1], 16, layers=[1, 2, 3]).recording.geometry.top_k == 1
    top_1_of_few = EXPERTS[:, 1:, :1] * [[0], [1], [1]]  # a short answer may pick expert 0 alone
    both = [altered(routed_experts=npy(one)) for one in (EXPERTS[:, 1:, :1], top_1_of_few)]
    found = import_answers([kept(tmp_path, *both, name="both")], 16)
    assert (found.recording.num_requests, found.layers) == (2, (0, 1, 2))
    nothing = kept(tmp_path, altered(routed_experts=npy(EXPERTS * 0)), name="nothing")
    with pytest.raises(ValueError, match="captured nothing"):
        import_answers([nothing], 16)


def test_prompts_are_taken_from_prefill_servers(tmp_path):
    """SGLang's decode servers return other tokens' experts for prompts that they were sent."""
    decoded, prefilled = [], []
    for request in range(DRAWN.num_requests):
        first, end = DRAWN.offsets[request : request + 2]
        experts, length = DRAWN.expert_ids[first:end], int(DRAWN.prefill_len[request])
        stale = np.concatenate([experts[:length][::-1], experts[length:]])
        decoded.append(sglang(f"r-{request}", stale, length))
        prefilled.append(sglang(f"r-{request}", experts[: length + 1], length))
    found = import_answers([kept(tmp_path, *decoded, *prefilled)], 16, SHAPE)
    assert_is_drawn(found)
    assert found.one_token == 0

    lacking = import_answers([kept(tmp_path, *decoded, *prefilled[:-1])], 16, SHAPE)
    assert (lacking.recording.num_requests, lacking.cut_short) == (DRAWN.num_requests - 1, 1)
