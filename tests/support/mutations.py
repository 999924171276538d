"""Valid messages of every method, and ways to mutate them."""

import random

from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from wire import GEOMETRY, counts, drawn

WAIT = "wait_for_signature"
TEXTS = ("", "\0", "é" * 300, "x" * 2_000, "𝄞", "a\nb", 'q"', "m", "w0", "r0", "random")
NUMBERS = {
    Field.CPPTYPE_INT32: (-(2**31), -1, 0, 1, 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), -1, 0, 1, 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 1, 2, 255, 65_536, 2**31, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 1, 2, 2**32, 2**63, 2**64 - 1),
    Field.CPPTYPE_ENUM: (-(2**31), -1, 0, 1, 2, 3, 4, 5, 2**31 - 1),
    Field.CPPTYPE_BOOL: (False, True),
    Field.CPPTYPE_DOUBLE: (0.0, -1.0, 1e308, float("inf"), float("nan"), 5e-324),
    Field.CPPTYPE_FLOAT: (0.0, -1.0, 3e38, float("inf"), float("nan")),
}


def valid(partition: bytes) -> list[Message]:
    """Requests as clients send them, on the model "m" with the workers "w0" and "w1"."""
    of = [counts(drawn(kind), encoding=code) for kind, code in enumerate(("u16", "u32", "sparse"))]
    route = {
        "model": "m",
        "request_id": "r0",
        "counts": of[0],
        "num_sequences": 2,
        "prompt_tokens": 30,
        "expected_output_tokens": 9,
        "exclude_workers": ["w7"],
        "worker_selector": {},
        "lease_ttl": Duration(seconds=1),
        "labels": {"domain": "code"},
    }
    chunk = {"model": "m", "request_id": "r1", "counts": of[2], "last": True, "prompt_tokens": 30}
    w0 = {"model": "m", "worker_id": "w0"}
    return [
        router_pb2.RouteRequest(**route),
        router_pb2.RouteRequest(model="m", request_id="r2", dry_run=True, explain=True),
        router_pb2.RouteStreamRequest(**route),
        router_pb2.RegisterSignatureRequest(**chunk),
        router_pb2.StreamSignaturesRequest(**chunk, route={"expected_output_tokens": 5}),
        router_pb2.ReleaseRequest(
            model="m", request_id="r0", output_tokens=9, decode_counts=of[1],
            decode_duration=Duration(seconds=1),
        ),
        router_pb2.RenewLeasesRequest(
            model="m", leases=[{"request_id": "r0"}, {"request_id": "r1", "attempt": 1}]
        ),
        router_pb2.ExplainRequest(model="m", request_id="r0"),
        fleet_pb2.RegisterWorkerRequest(
            **w0, url="http://w0", geometry=GEOMETRY, labels={"zone": "a"},
            capacity={"sequences": 8, "kv_tokens": 10_000}, time_to_live=Duration(seconds=60),
        ),
        fleet_pb2.ReportLoadRequest(
            **w0, incarnation=1, report_number=1, held=[{"request_id": "r0"}], active_experts=3.0,
            batch_size=2.0, step_time=Duration(nanos=9_000_000), capture={"state": 2},
        ),
        fleet_pb2.DrainWorkerRequest(model="m", worker_id="w1"),
        fleet_pb2.RemoveWorkerRequest(model="m", worker_id="w1"),
        fleet_pb2.ListWorkersRequest(model="m"),
        fleet_pb2.WatchWorkersRequest(model="m"),
        partition_pb2.FitPartitionRequest(model="m", counts=of, num_slots=2, max_iter=2, n_init=1),
        partition_pb2.ImportPartitionRequest(model="m", data=partition),
        policy_pb2.SetPolicyRequest(model="m", name="locality-band", parameters={"tau": "0.2"}),
    ]  # fmt: skip


def seeds_of(method, partition: bytes) -> list[Message]:
    """The method's messages; if none are above, one with every text and number set."""
    kind = GetMessageClass(method.input_type)
    found = [m for m in valid(partition) if isinstance(m, kind)]
    if not found:
        message = kind()
        for field in method.input_type.fields:
            if not field.is_repeated and not field.message_type:
                setattr(message, field.name, "m" if field.type == Field.TYPE_STRING else 1)
        found.append(message)
    return found


def changed(message: Message, chance: random.Random) -> bytes:
    """A well-formed message, some of whose fields are extreme, missing, or repeated."""
    message = type(message).FromString(message.SerializeToString())
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change_a_field(message, chance)
    _wait_briefly(message)
    return message.SerializeToString()


def _change_a_field(message: Message, chance: random.Random) -> None:
    field = chance.choice(message.DESCRIPTOR.fields or [None])
    if field is None:
        return
    held = getattr(message, field.name)
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        held[chance.choice(TEXTS[2:])] = _odd(value, chance)
    elif field.is_repeated and field.message_type:
        for _ in range(chance.choice((1, 1, 2, 300))):
            _change_a_field(held.add(), chance)
    elif field.is_repeated:
        held.extend([_odd(field, chance)] * chance.choice((1, 2, 300)))
    elif field.message_type:
        held.SetInParent()
        _change_a_field(held, chance)
    else:
        setattr(message, field.name, _odd(field, chance))


def _odd(field: Field, chance: random.Random):
    if field.type == Field.TYPE_BYTES:
        return chance.randbytes(chance.choice((0, 1, 96, 1_000)))
    return chance.choice(NUMBERS.get(field.cpp_type, TEXTS))


def _wait_briefly(message: Message) -> None:
    """Shorten waits, which would only make the test long."""
    for part in (message, getattr(message, "route", None)):
        waits = part is not None and WAIT in part.DESCRIPTOR.fields_by_name
        if waits and part.HasField(WAIT) and 0 < getattr(part, WAIT).seconds <= 10:
            part.ClearField(WAIT)


def damaged(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """The data with bytes flipped, cut, duplicated, or taken from another message."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice((0x00, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + chance.choice((1, 1, 4, 1_000))]
            case 3:
                data[at:at] = data[at : at + chance.choice((1, 8, 64))]
            case 4:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 10)))
            case _:
                data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)
