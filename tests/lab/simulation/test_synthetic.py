import sys

import numpy as np
import pytest

from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation import synthetic
from eldr_service.lab.simulation.locality import locality_statistics
from eldr_service.lab.simulation.synthetic import GPT_OSS_20B_TOPICS, SyntheticRouting

SMALL = SyntheticRouting(layers=3, experts=16, top_k=2, domains=3, requests=24, seed=5)
FIELDS = ("geometry", "domains", "expert_ids", "offsets", "prefill_len")


def assert_same(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.expert_ids.dtype == b.expert_ids.dtype


def test_it_runs_as_a_program(tmp_path, monkeypatch, capsys):
    out = tmp_path / "again"
    monkeypatch.setattr(sys, "argv", ["synthetic", "--out", str(out), "--requests", "64"])
    synthetic.main()
    assert_same(Recording.load(out), SyntheticRouting(requests=64).generate())
    assert "own" in capsys.readouterr().out


def test_by_default_it_is_about_as_local_as_real_routing():
    found = locality_statistics(SyntheticRouting().generate())
    real = GPT_OSS_20B_TOPICS
    for name in ("own", "same_domain", "other_domain"):
        assert getattr(found, name) == pytest.approx(getattr(real, name), abs=0.01), name
    for name in ("active_experts_6", "active_experts_12", "alike_6", "alike_12"):
        assert getattr(found, name) == pytest.approx(getattr(real, name), abs=0.3), name
    # The share that is left when requests are grouped: what a router can gain.
    assert found.alike_6 / found.active_experts_6 == pytest.approx(14.2 / 15.5, abs=0.03)
    assert found.alike_12 / found.active_experts_12 == pytest.approx(19.1 / 21.2, abs=0.03)


def test_generated_routing_has_the_shape_it_was_asked_for():
    recording = SMALL.generate()
    assert_same(recording, SMALL.generate())
    assert recording.expert_ids.shape[1:] == (3, 2)
    assert recording.expert_ids.dtype == np.uint8
    assert recording.num_requests == 24
    assert len(set(recording.domains)) == 3
    first, second = np.moveaxis(recording.expert_ids, -1, 0)
    assert (first != second).all()
    with pytest.raises(ValueError, match="48 requests"):
        locality_statistics(recording)
    assert SyntheticRouting(experts=300, requests=2).generate().expert_ids.dtype == np.uint16


def test_without_spreads_there_is_no_locality():
    flat = SyntheticRouting(popularity=0, domain=0, request=0, requests=64, decode_tokens=400)
    found = locality_statistics(flat.generate())
    assert found.alike_12 == pytest.approx(found.active_experts_12, abs=0.1)
    assert found.own == pytest.approx(found.other_domain, abs=0.003)
    assert found.same_domain == pytest.approx(found.other_domain, abs=0.003)
    # Each expert is missed by all of B independent tokens with chance (1 - 4/32)^B.
    assert found.active_experts_6 == pytest.approx(32 * (1 - 0.875**6), abs=0.1)
    assert found.active_experts_12 == pytest.approx(32 * (1 - 0.875**12), abs=0.1)


def test_unlike_requests_without_directions_in_common_fall_into_no_groups():
    found = locality_statistics(SyntheticRouting(directions=300, decay=0.0).generate())
    assert found.own - found.other_domain > 0.1
    assert found.alike_12 > 0.98 * found.active_experts_12
