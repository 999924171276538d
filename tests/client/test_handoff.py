"""What a prefill engine's connector says, read by whoever drives the decode."""

import base64

import numpy as np
import pytest
from eldr_client import Counts, Handoff

COUNTS = Counts(np.full((2, 4), 3), top_k=4).to_proto()
PLACEMENT = {"worker_id": "w", "url": "http://w", "dp_rank": 1, "lease_id": "l"}
SAID = {
    "model": "m",
    "request_id": "cmpl-1-0",
    "epoch": 0,
    "counts": base64.b64encode(COUNTS.SerializeToString()).decode(),
    "placement": {**PLACEMENT, "reason": "LOCALITY_BAND", "alternates": []},
}


def test_all_of_it():
    handoff = Handoff.of(SAID)
    assert (handoff.model, handoff.request_id, handoff.counts) == ("m", "cmpl-1-0", COUNTS)
    assert (handoff.placement.worker_id, handoff.placement.dp_rank) == ("w", 1)
    assert handoff.placement.lease_id == "l"
    assert handoff.is_placed


@pytest.mark.parametrize("said", [None, {}, [], "eldr", 7])
def test_nothing_to_read(said):
    assert Handoff.of(said) is None


@pytest.mark.parametrize("counts", [7, "no base64!", base64.b64encode(b"\xff\xff").decode(), []])
def test_counts_that_are_none_leave_the_rest(counts, caplog):
    handoff = Handoff.of({**SAID, "counts": counts})
    assert handoff.counts is None
    assert handoff.request_id == "cmpl-1-0"
    assert "counts are not readable" in caplog.text


RIGHT = {**PLACEMENT, "reason": "POLICY"}
WRONG = [7, [1], {"worker_id": "w"}, {**RIGHT, "reason": "no reason"}, {**RIGHT, "dp_rank": True}]


@pytest.mark.parametrize("placement", [*WRONG, {**RIGHT, "url": ""}, {**RIGHT, "url": "\ud800"}])
def test_a_placement_that_is_none_is_still_a_booking(placement, caplog):
    handoff = Handoff.of({**SAID, "placement": placement})
    assert handoff.placement is None
    assert handoff.is_placed
    assert "placement is not readable" in caplog.text


@pytest.mark.parametrize("name", [None, 7, "", "x" * 5000, "\ud800"])
def test_names_that_are_none_are_empty(name):
    assert Handoff.of({**SAID, "request_id": name, "model": name}).request_id == ""
