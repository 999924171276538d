"""What goes into a log comes out as it was."""

from dataclasses import asdict, fields

import numpy as np
import pytest
from eldr.v1 import decision_log_pb2 as pb

from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState
from eldr_service.decision_log import counts, from_records, to_records
from eldr_service.decision_log.counts import Kept


@pytest.mark.parametrize(
    ("largest", "planes"), [(0, 0), (1, 1), (255, 1), (256, 2), (65_535, 2), (1 << 16, 3),
                            (1 << 24, 4), (2**32 - 1, 4)]
)  # fmt: skip
def test_round_trip(largest, planes):
    sent = np.random.default_rng(0).integers(0, largest + 1, (3, 16), dtype=np.uint32)
    sent[1, 2] = largest
    if largest < 1 << 16:
        sent = sent.astype(np.uint16)
    message = pb.LogCounts()
    counts.to_record(Kept(sent, 8), message)
    assert len(message.planes) == planes
    found, top_k = counts.from_record(message)
    assert (found == sent).all()
    assert (found.shape, top_k) == (sent.shape, 8)


def test_none_stays_none():
    placement = pb.LogPlacement()
    counts.to_record(None, placement.counts)
    assert not placement.HasField("counts")


def test_all_numbers_of_a_report_are_there():
    # What follows from the first two is logged by itself, and no decision rests on the last.
    left_out = {"held", "state", "capture"}
    numbers = [field.name for field in fields(LoadReport) if field.name not in left_out]
    sent = LoadReport(**{name: place for place, name in enumerate(numbers, start=1)})
    assert asdict(from_records.report(to_records.report(1, 0.0, 3, sent).report)) == asdict(sent)


def test_a_worker_is_there_but_for_its_address():
    sent = WorkerSpec(
        "w",
        WorkerRole.PREFILL,
        url="http://somewhere",
        dp_rank=3,
        group="group",
        labels={"zone": "a"},
        capacity_sequences=17,
        capacity_kv_tokens=40_000,
        time_to_live=2.5,
    )
    record = to_records.worker(1, 0.0, 3, sent, WorkerState.DRAINING, 5)
    found = asdict(from_records.worker_spec(record.worker))
    assert found == asdict(sent) | {"url": "", "dp_rank": 0, "time_to_live": 0.0}
    assert b"somewhere" not in record.SerializeToString()
