"""What engines wrote is what is read: halves, torn ends, versions, models."""

import numpy as np
import pytest
from eldr_vllm.recording import tables
from engine_recording import recorder, write, write_decodes, write_prefills
from routed import separable

from eldr_service.lab.recordings import Recording, join, read_engine_files
from eldr_service.lab.simulation.traces import Trace

DRAWN = separable(3, 8)


def same_as_drawn(recording, requests):
    """By request, though counts stand for the prefill's tokens."""
    assert recording.geometry == DRAWN.geometry
    np.testing.assert_array_equal(recording.prefill_counts(), DRAWN.prefill_counts()[requests])
    for number, request in enumerate(requests):
        ours, drawn = recording.decode(number), DRAWN.decode(request)
        np.testing.assert_array_equal(recording.expert_ids[ours], DRAWN.expert_ids[drawn])
        assert recording.prefill_tokens(number) == DRAWN.prefill_len[request]


def test_round_trip(tmp_path):
    write(tmp_path, DRAWN)
    same_as_drawn(Recording.load(tmp_path), range(24))
    requests = join(read_engine_files(tmp_path))
    assert (requests.lost, read_engine_files(tmp_path).cautions) == (0, ())
    trace = Trace.load(tmp_path)
    assert trace.decode_engines == 2
    assert trace.rate_per_s == pytest.approx(50.0)
    assert set(trace.prompt_tokens) == {30}
    assert set(trace.output_tokens) == {31}  # the last passed no layer


def test_halves_in_folders_of_their_own(tmp_path):
    write_prefills(tmp_path / "host-1", DRAWN)
    write_decodes(tmp_path / "host-2", DRAWN)
    same_as_drawn(Recording.load(tmp_path), range(24))


@pytest.mark.parametrize("torn", [1, 9, 700])
def test_a_torn_end_costs_what_was_in_it(tmp_path, torn):
    write(tmp_path, DRAWN)
    write_decodes(tmp_path, DRAWN, engines=1)  # the same requests once more
    path = sorted(tmp_path.glob("decode-0*"))[-1]
    path.write_bytes(path.read_bytes()[:-torn])
    (caution,) = read_engine_files(tmp_path).cautions
    assert path.name in caution
    assert "truncated" in caution
    same_as_drawn(Recording.load(tmp_path), range(24))


def test_a_file_that_was_deleted_after_it_was_found(tmp_path):
    write(tmp_path, DRAWN)
    (tmp_path / "gone.eldr").symlink_to(tmp_path / "deleted")
    (caution,) = read_engine_files(tmp_path).cautions
    assert caution.endswith("gone.eldr: was deleted meanwhile and is left out")
    same_as_drawn(Recording.load(tmp_path), range(24))


def test_nothing_but_a_torn_end(tmp_path):
    (tmp_path / "empty.eldr").touch()
    (tmp_path / "torn.eldr").write_bytes(b"\x10\0\0")
    with pytest.raises(ValueError, match="no recording"):
        read_engine_files(tmp_path)


def test_a_request_without_its_other_half_or_with_tokens_missing_is_left_out(tmp_path):
    write(tmp_path, DRAWN)
    lone = recorder(tmp_path, "prefill", "other")
    lone.put("prefills", [tables.request_key("alone")], [(1e9, 1e9, 1e9)], [7])
    lone.close()
    short = recorder(tmp_path, "decode", "other")
    key = tables.request_key("3")
    short.put("decodes", [key], [0], [(1e9, 1e9, 1e9)], [(30, 90, 80)])  # and no token of them
    short.close()
    same_as_drawn(Recording.load(tmp_path), [r for r in range(24) if r != 3])
    requests = join(read_engine_files(tmp_path))
    assert requests.lost == 2
    assert len(requests.arrival_s) == 24
    assert requests.output_tokens[3] == 90  # the longest of several


def test_a_missing_half(tmp_path):
    write_prefills(tmp_path / "prefills", DRAWN)
    write_decodes(tmp_path / "decodes", DRAWN)
    with pytest.raises(ValueError, match="no decode half"):
        Recording.load(tmp_path / "prefills")
    with pytest.raises(ValueError, match="no prefill half"):
        Trace.load(tmp_path / "decodes")


def test_ids_that_do_not_meet(tmp_path):
    write_prefills(tmp_path, DRAWN)
    decodes = recorder(tmp_path, "decode")
    decodes.put("decodes", [5], [0], [(1e9, 1e9, 1e9)], [(30, 9, 8)])
    decodes.close()
    with pytest.raises(ValueError, match="use the same request ids"):
        Recording.load(tmp_path)


def test_timings_without_experts(tmp_path):
    prefills, decodes = recorder(tmp_path, "prefill"), recorder(tmp_path, "decode")
    for key in (3, 4):
        prefills.put("prefills", [key], [(1e9 + key, 1e9 + key, 1e9 + key)], [7])
        decodes.put("decodes", [key], [key], [(1e9, 1e9, 1e9)], [(7, 9, 0)])
    prefills.close()
    decodes.close()
    assert Trace.load(tmp_path).output_tokens.tolist() == [9, 9]
    with pytest.raises(ValueError, match="no request has its experts"):
        Recording.load(tmp_path)


def test_a_prompt_that_mostly_came_from_outside_has_no_signature(tmp_path):
    write(tmp_path, DRAWN)
    again = recorder(tmp_path, "prefill")
    counts = DRAWN.prefill_counts()[5][None]
    again.put("signatures", [tables.request_key("5")], [31], counts)  # 30 tokens are known
    again.close()
    same_as_drawn(Recording.load(tmp_path), [r for r in range(24) if r != 5])


def test_another_version(tmp_path, monkeypatch):
    write_prefills(tmp_path, DRAWN)
    monkeypatch.setattr(tables, "FORMAT", "eldr-recording/2")
    write_decodes(tmp_path, DRAWN)
    with pytest.raises(ValueError, match="expected eldr-recording/1, found eldr-recording/2"):
        Recording.load(tmp_path)


def test_several_models(tmp_path):
    write_prefills(tmp_path, DRAWN)
    write_decodes(tmp_path, DRAWN, model="other")
    with pytest.raises(ValueError, match="m: 16 experts, top-2; other: 16 experts, top-2"):
        Recording.load(tmp_path)


def test_other_geometry_under_the_same_name(tmp_path):
    between, within = tmp_path / "between", tmp_path / "within"
    write_prefills(between, DRAWN)
    write_decodes(between, separable(3, 8, layers=4))
    with pytest.raises(ValueError, match="differ in the model's geometry"):
        Recording.load(between)
    write(within, DRAWN)
    write_prefills(within, separable(3, 8, layers=4))
    with pytest.raises(ValueError, match="differ in shape"):
        Recording.load(within)


def test_experts_beyond_the_model(tmp_path):
    write(tmp_path, DRAWN, num_experts="4")
    with pytest.raises(ValueError, match="geometry"):
        Recording.load(tmp_path)
