"""Wrong input: a status that says what to mend, and nothing else comes of it."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from children import linux
from daemon import running_daemon
from eldr.v1 import activation_pb2, fleet_pb2, partition_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import EXPERTS, GEOMETRY, LAYERS, MESSAGES, Client, Refused, counts, drawn

LONG = "x" * 10_000_000


def wrong(**fields):
    message = counts(drawn(0))
    for name, value in fields.items():
        if name == "sparse":
            message.sparse.CopyFrom(activation_pb2.SparseCounts(**value))
        else:
            setattr(message, name, value)
    return message


def one_more(encoding):
    array = drawn(0)
    array[1, 3] += 1
    return counts(array, encoding=encoding)


BYTES = LAYERS * EXPERTS * 2
COUNTS = {  # what is wrong: counts, field, expected, found
    "row sum": (one_more("u16"), "counts", "num_tokens x top_k = 60", "61 in the row of layer 1"),
    "row sum, sparse": (one_more("sparse"), "counts", "num_tokens x top_k = 60", "61"),
    "row sum, u32": (one_more("u32"), "counts", "num_tokens x top_k = 60", "61"),
    "truncated": (wrong(dense_u16=bytes(7)), "counts.dense_u16", f"{BYTES} bytes", "7 bytes"),
    "truncated u32": (wrong(dense_u32=bytes(BYTES)), "counts.dense_u32", f"{2 * BYTES}", "96"),
    "too many bytes": (wrong(dense_u16=bytes(10_000_000)), "counts.dense_u16", "96", "10000000"),
    "no encoding": (
        activation_pb2.ActivationCounts.FromString(
            wrong(dense_u16=b"").SerializeToString().removesuffix(b"\x42\x00") + b"\x7a\x01\x00"
        ),
        "counts.encoding",
        "dense_u16, dense_u32 or sparse",
        "none that is known",
    ),
    "negative count": (  # as -1 travels in a field of 32 bits
        wrong(sparse={"index": [0, 17, 34], "count": [60, 2**32 - 1, 60]}),
        "counts",
        "60",
        "4294967295",
    ),
    "index twice": (wrong(sparse={"index": [1, 1], "count": [1, 1]}), "counts.sparse.index",
                    "strictly increasing", ""),
    "index beyond": (wrong(sparse={"index": [48], "count": [1]}), "counts.sparse.index",
                     "below 48", "48"),
    "index without count": (wrong(sparse={"index": [0, 1], "count": [1]}), "counts.sparse.count",
                            "2 entries", "1"),
    "too many indices": (wrong(sparse={"index": [0] * 10**6, "count": [1] * 10**6}),
                         "counts.sparse.index", "at most 48", "1000000"),
    "overflowing tokens": (wrong(num_tokens=2**32 - 1), "counts.num_tokens", "67108864",
                           "4294967295"),
    "overflowing unknown": (wrong(unknown_tokens=2**32 - 1), "counts.unknown_tokens", "67108864",
                            "4294967295"),
    "10^6 layers": (wrong(num_layers=10**6), "counts.num_layers", "1 to 1024", "1000000"),
    "no layers": (wrong(num_layers=0), "counts.num_layers", "1 to 1024", "0"),
    "10^6 experts": (wrong(num_experts=10**6), "counts.num_experts", "1 to 4096", "1000000"),
    "top_k": (wrong(top_k=17), "counts.top_k", "1 to 16", "17"),
    "offset": (wrong(layer_offset=3), "counts.layer_offset", "below 3", "3"),
    "offset 2^32-1": (wrong(layer_offset=2**32 - 1), "counts.layer_offset", "below 3",
                      "4294967295"),
    "layers present": (wrong(layers_present=4), "counts.layers_present", "at most 3", "4"),
}  # fmt: skip


@pytest.fixture
def sends(client):
    """Each way to send counts: what calls the daemon with them, by name."""

    def in_stream(model, message):
        request = router_pb2.StreamSignaturesRequest(model=model, request_id="r", counts=message)
        (answer,) = client.router.StreamSignatures(iter([request]), timeout=20)
        raise StatusInStream(answer.status)

    def fit(model, message):
        good = counts(drawn(0))
        client.partition.FitPartition(
            partition_pb2.FitPartitionRequest(model=model, counts=[good, message, good])
        )

    return {
        "Route": lambda model, message: client.route(model, "r", counts=message),
        "RegisterSignature": lambda model, message: client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(model=model, request_id="r", counts=message)
        ),
        "StreamSignatures": in_stream,
        "Release": lambda model, message: client.release(model, "r", decode_counts=message),
        "FitPartition": fit,
    }


class StatusInStream(grpc.RpcError):
    """A status that came in a stream's message, to be read like that of a call."""

    def __init__(self, status) -> None:
        self._status = status

    def trailing_metadata(self):
        return (("grpc-status-details-bin", self._status.SerializeToString()),)


@pytest.mark.parametrize(
    "method", ["Route", "RegisterSignature", "StreamSignatures", "Release", "FitPartition"]
)
@pytest.mark.parametrize("what", COUNTS)
def test_wrong_counts(client, model, sends, method, what):
    message, field, expected, found = COUNTS[what]
    client.register(model)
    with Refused("INVALID_ARGUMENT") as refused:
        sends[method](model, message)
    status = refused.status
    prefix = {"Release": "decode_counts", "FitPartition": "counts[1]"}.get(method, "counts")
    assert status.field == field.replace("counts", prefix, 1)
    assert expected in status.expected
    assert found in status.found
    assert (status.reason, status.domain) == ("INVALID_ARGUMENT", "eldr")
    description = f"expected {status.expected}, found {status.found}"
    assert status.violations == ((status.field, description),)
    assert status.message == f"{status.field}: {description}"
    assert client.booked(model) == 0
    assert client.route(model, "r", dry_run=True).coverage == 0  # no signature is held


@pytest.mark.parametrize(
    "method", ["Route", "RegisterSignature", "StreamSignatures", "Release", "FitPartition"]
)
def test_another_geometry_than_the_models(client, model, sends, method):
    client.register(model)
    other = counts(drawn(0, layers=4), num_layers=4)
    with Refused("INVALID_ARGUMENT" if method == "FitPartition" else "FAILED_PRECONDITION") as no:
        sends[method](model, other)
    assert "4 layers x 16 experts" in no.status.message
    if method == "FitPartition":
        alone = partition_pb2.FitPartitionRequest(model=model, counts=[other])
        with Refused("FAILED_PRECONDITION"):
            client.partition.FitPartition(alone)
    with Refused("FAILED_PRECONDITION"):
        client.register(
            model,
            "w1",
            geometry=activation_pb2.ModelGeometry(num_layers=4, num_experts=16, top_k=2),
        )
    assert list(client.workers(model)) == ["w0"]
    assert client.route(model, "r", dry_run=True).coverage == 0


FIELDS = {  # service, method, fields beside model and the ids, the field that is named
    "Route without request": ("router", "Route", {"request_id": ""}, "request_id"),
    "Route, 10 MB": ("router", "Route", {"request_id": LONG}, "request_id"),
    "Route without model": ("router", "Route", {"model": ""}, "model"),
    "Route, model of 10 MB": ("router", "Route", {"model": LONG}, "model"),
    "Route, bytes": ("router", "Route", {"request_id": "ä" * 257}, "request_id"),
    "sequences": ("router", "Route", {"num_sequences": 4_097}, "num_sequences"),
    "candidates": ("router", "Route", {"candidate_workers": [""]}, "candidate_workers"),
    "many candidates": ("router", "Route", {"candidate_workers": map(str, range(32_769))},
                        "candidate_workers"),
    "session": ("router", "Route", {"session": "ä" * 257}, "session"),
    "session's characters": ("router", "Route", {"session": "a\nb"}, "session"),
    "pin": ("router", "Route", {"pinned_worker": LONG}, "pinned_worker"),
    "selector": ("router", "Route", {"worker_selector": {str(i): "" for i in range(65)}},
                 "worker_selector"),
    "selector's key": ("router", "Route", {"worker_selector": {"": "x"}}, "worker_selector"),
    "wait": ("router", "Route", {"wait_for_signature": Duration(seconds=11)},
             "wait_for_signature"),
    "negative wait": ("router", "Route", {"wait_for_signature": Duration(nanos=-1)},
                      "wait_for_signature"),
    "short lease": ("router", "Route", {"lease_ttl": Duration(nanos=999_999_999)}, "lease_ttl"),
    "long lease": ("router", "Route", {"lease_ttl": Duration(seconds=2**62)}, "lease_ttl"),
    "no counts": ("router", "RegisterSignature", {}, "counts"),
    "sequence": ("router", "RegisterSignature", {"counts": wrong(), "sequence": 2**32 - 1},
                 "sequence"),
    "sequence beyond": ("router", "RegisterSignature",
                        {"counts": wrong(), "sequence": 3, "last": True, "total_chunks": 3},
                        "sequence"),
    "cached by many": ("router", "Route", {"cached_tokens": {str(n): 1 for n in range(4_097)}},
                       "cached_tokens"),
    "cached by none": ("router", "Route", {"cached_tokens": {"": 1}}, "cached_tokens"),
    "block": ("router", "Route", {"prefix_block_tokens": 65_537}, "prefix_block_tokens"),
    "outcome": ("router", "Release", {"outcome": 99}, "outcome"),
    "duration": ("router", "Release", {"decode_duration": Duration(seconds=-1)},
                 "decode_duration"),
    "many leases": ("router", "RenewLeases",
                    {"leases": [router_pb2.LeaseReference()] * 32_769}, "leases"),
    "worker": ("fleet", "RegisterWorker", {"worker_id": ""}, "worker_id"),
    "worker of 10 MB": ("fleet", "RegisterWorker", {"worker_id": LONG}, "worker_id"),
    "url": ("fleet", "RegisterWorker", {"url": LONG}, "url"),
    "role": ("fleet", "RegisterWorker", {"role": 3}, "role"),
    "negative role": ("fleet", "RegisterWorker", {"role": -1}, "role"),
    "state": ("fleet", "RegisterWorker", {"state": 77}, "state"),
    "state GONE": ("fleet", "RegisterWorker", {"state": 4}, "state"),
    "label": ("fleet", "RegisterWorker", {"labels": {"k": LONG}}, "labels.k"),
    "geometry": ("fleet", "RegisterWorker",
                 {"geometry": activation_pb2.ModelGeometry(num_layers=10**6)},
                 "geometry.num_layers"),
    "ttl": ("fleet", "RegisterWorker", {"time_to_live": Duration(seconds=-1)}, "time_to_live"),
    "KV": ("fleet", "RegisterWorker",
           {"capacity": fleet_pb2.WorkerCapacity(kv_tokens=2**64 - 1)}, "capacity.kv_tokens"),
    "NaN": ("fleet", "ReportLoad", {"active_experts": float("nan")}, "active_experts"),
    "negative": ("fleet", "ReportLoad", {"step_active_experts": -1.0}, "step_active_experts"),
    "infinite": ("fleet", "ReportLoad", {"batch_size": float("inf")}, "batch_size"),
    "negative batch": ("fleet", "ReportLoad", {"batch_size": -1.0}, "batch_size"),
    "KV used": ("fleet", "ReportLoad", {"kv_tokens_used": 2**64 - 1}, "kv_tokens_used"),
    "incarnation": ("fleet", "ReportLoad", {"incarnation": 2**64 - 1}, "incarnation"),
    "step": ("fleet", "ReportLoad", {"step_time": Duration(seconds=3_601)}, "step_time"),
    "capture": ("fleet", "ReportLoad", {"capture": fleet_pb2.CaptureStatus(state=4)},
                "capture.state"),
    "negative capture": ("fleet", "RegisterWorker",
                         {"capture": fleet_pb2.CaptureStatus(state=-1)}, "capture.state"),
    "capture's reason": ("fleet", "ReportLoad",
                         {"capture": fleet_pb2.CaptureStatus(state=3, reason="ä" * 513)},
                         "capture.reason"),
    "capture's reason, 10 MB": ("fleet", "RegisterWorker",
                                {"capture": fleet_pb2.CaptureStatus(reason=LONG)},
                                "capture.reason"),
    "many held": ("fleet", "ReportLoad", {"held": [fleet_pb2.HeldRequest()] * 32_769}, "held"),
    "listing": ("fleet", "ListWorkers", {"model": LONG}, "model"),
    "slots": ("partition", "FitPartition", {"num_slots": 4_097}, "num_slots"),
    "transform": ("partition", "FitPartition", {"transform": "idf"}, "transform"),
    "layers": ("partition", "FitPartition", {"layers": [0, 3]}, "layers"),
    "layers' order": ("partition", "FitPartition", {"layers": [1, 0]}, "layers"),
    "iterations": ("partition", "FitPartition", {"max_iter": 2**32 - 1}, "max_iter"),
    "starts": ("partition", "FitPartition", {"n_init": 2**32 - 1}, "n_init"),
    "unpacked": ("partition", "FitPartition",
                 {"counts": [activation_pb2.ActivationCounts(
                     num_layers=1_024, num_experts=4_096, top_k=1)] * 100_000}, "counts"),
    "version 0": ("partition", "ActivatePartition", {}, "version"),
    "partitions of": ("partition", "ListPartitions", {"model": LONG}, "model"),
    "no file": ("partition", "ImportPartition", {"data": b"no file"}, "data"),
    "empty file": ("partition", "ImportPartition", {}, "data"),
    "policy": ("policy", "SetPolicy", {"name": LONG}, "name"),
    "policy's model": ("policy", "SetPolicy", {"model": LONG}, "model"),
}  # fmt: skip


@pytest.mark.parametrize("what", FIELDS)
def test_wrong_fields(client, model, what):
    service, method, fields, field = FIELDS[what]
    client.register(model)
    if method == "FitPartition":
        fields = {"counts": [counts(drawn(0))] * 4, **fields}
    request = MESSAGES[f"eldr.v1.{method}Request"](model=model)
    ids = {"request_id": "r", "worker_id": "w0"}
    for name, value in (ids | fields).items():
        if name not in request.DESCRIPTOR.fields_by_name:
            continue
        if isinstance(value, dict):
            getattr(request, name).update(value)
        elif hasattr(value, "SerializeToString"):
            getattr(request, name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(request, name, value)
        else:
            getattr(request, name).extend(value)
    before = client.workers(model)["w0"].incarnation
    with Refused("INVALID_ARGUMENT") as refused:
        getattr(getattr(client, service), method)(request, timeout=20)
    status = refused.status
    assert status.field == field
    assert status.violations == ((field, f"expected {status.expected}, found {status.found}"),)
    assert len(status.message) < 1_100
    worker = client.workers(model)["w0"]
    assert (worker.booked_sequences, worker.incarnation) == (0, before)
    assert not worker.HasField("report_time")


def test_a_signature_is_one_thing(client, model):
    """Other bytes under a sequence, another end, an earlier epoch: the first word stands."""
    client.register(model)

    def send(sequence, seed, epoch=1, **fields):
        return client.router.RegisterSignature(
            router_pb2.RegisterSignatureRequest(
                model=model,
                request_id="r",
                epoch=epoch,
                sequence=sequence,
                counts=counts(drawn(0, seed)),
                **fields,
            )
        )

    send(0, 0)
    assert send(0, 0).tokens_held == 30
    with Refused("INVALID_ARGUMENT") as refused:
        send(0, 1)
    assert refused.status.field == "counts"
    with Refused("FAILED_PRECONDITION"):
        send(1, 1, epoch=0)
    send(2, 2, last=True)
    with Refused("INVALID_ARGUMENT"):
        send(3, 3)
    assert not send(2, 2).complete
    assert send(1, 1).complete
    assert send(0, 7, epoch=2).tokens_held == 30


def memory(process) -> int:
    """Resident bytes of the daemon alone."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


@linux
def test_what_is_refused_takes_no_memory():
    def refuse(client, kind):
        large = {
            "id": router_pb2.RouteRequest(model="m", request_id="x" * 1_000_000),
            "model": router_pb2.RouteRequest(model="x" * 1_000_000, request_id="r"),
            "counts": router_pb2.RouteRequest(
                model="m", request_id="r", counts=wrong(dense_u16=bytes(1_000_000))
            ),
            "small": router_pb2.RouteRequest(
                model="m",
                request_id=f"r{np.random.default_rng().integers(2**62)}",
                counts=one_more("u16"),
            ),
        }[kind]
        with pytest.raises(grpc.RpcError):
            client.router.Route(large)

    # One allocator arena: how far several have grown says nothing of what is kept.
    with running_daemon(env={"MALLOC_ARENA_MAX": "1"}) as daemon, Client(daemon.grpc) as client:
        client.register("m", geometry=GEOMETRY)
        for kind in ("id", "model", "counts") * 10 + ("small",) * 500:
            refuse(client, kind)
        before = memory(daemon.process)
        for kind in ("id", "model", "counts") * 100 + ("small",) * 3_000:
            refuse(client, kind)
        assert memory(daemon.process) - before < 8 << 20
        assert client.booked("m") == 0
        assert daemon.stderr_path.stat().st_size < 2 << 20  # nor does the log quote it whole
