"""Whatever a client sends, the answer is a documented one, and the daemon goes on serving."""

import random
import re
import socket
import uuid
from pathlib import Path

import grpc
import pytest
from daemon import running_daemon
from eldr.v1 import partition_pb2, router_pb2
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from wire import GEOMETRY, METHODS, Client, counts, drawn, path_of, read_status

PROTOS = Path(__file__).parents[2] / "protos/eldr/v1"
OF_TOKENS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
CODES = {code.name for code in grpc.StatusCode}
SILENCE = 0.2


def documented() -> dict[str, set[str]]:
    """The codes that the comments in protos/ promise, by method."""
    found = {}
    comment = r"((?:^ *//.*\n)+) *"
    for path in PROTOS.glob("*.proto"):
        text = path.read_text()
        for about, service in re.findall(comment + r"service \w+ \{((?:.|\n)*?)^\}", text, re.M):
            common = CODES & set(re.findall(r"\w+", about)) - OF_TOKENS | {"OK"}
            for words, name in re.findall(comment + r"rpc (\w+)", service, re.M):
                found[name] = common | CODES & set(re.findall(r"\w+", words))
    # "the error that the unary calls would have given", in a message; the stream itself goes on.
    found["StreamSignatures"] = found["RegisterSignature"] | found["Route"]
    found["RouteStream"] = found["Route"]
    return found


DOCUMENTED = documented()
IMPORT = next(method for method in METHODS if method.name == "ImportPartition")
KNOWN = {
    "model": ["m", "m2", "unknown"],
    "request_id": ["r0", "r1", "r2", "r3"],
    "worker_id": ["w0", "w1", "w2"],
    "name": ["locality-band", "random"],
    "transform": ["sqrt", "counts"],
}
ODD_TEXTS = ["", "\0", "é" * 300, "x" * 2_000, "𝄞", "a\nb", 'q"']
BITS = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
    Field.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
USUAL = {
    "ActivationCounts": [
        counts(drawn(kind), encoding=encoding)
        for kind in range(2)
        for encoding in ("u16", "u32", "sparse")
    ],
    "ModelGeometry": [GEOMETRY],
    "Duration": [Duration(seconds=1), Duration(seconds=60), Duration()],
}
# A wait that would be granted only makes the test long.
WAITS = [Duration(seconds=s, nanos=n) for s, n in
         ((0, 0), (0, 2_000_000), (-1, 0), (11, 0), (2**63 - 1, 2**31 - 1), (0, -1))]  # fmt: skip


def odd(field):
    """All that the type of a scalar allows."""
    if field.type == Field.TYPE_BYTES:
        return st.binary(max_size=120)
    if field.cpp_type == Field.CPPTYPE_STRING:
        return st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
    if field.cpp_type == Field.CPPTYPE_DOUBLE:
        return st.floats()
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return st.booleans()
    low, high = BITS[field.cpp_type]
    return st.integers(low, high) | st.sampled_from([low, low + 1, high - 1, high])


def plausible(field):
    """What a scalar mostly is."""
    if field.cpp_type == Field.CPPTYPE_STRING and field.type != Field.TYPE_BYTES:
        return st.sampled_from(KNOWN.get(field.name, ["w0", "w1"]))
    if field.cpp_type == Field.CPPTYPE_DOUBLE:
        return st.floats(0, 100)
    return st.integers(0, 2) if field.cpp_type in BITS else odd(field)


def value_of(draw, field):
    usual = draw(st.integers(0, 15)) > 0
    if not field.message_type:
        return draw(plausible(field) if usual else odd(field))
    if field.name == "wait_for_signature":
        return draw(st.sampled_from(WAITS if not usual else WAITS[:2]))
    if usual and field.message_type.name in USUAL:
        return draw(st.sampled_from(USUAL[field.message_type.name]))
    return draw(filled(field.message_type))


@st.composite
def filled(draw, descriptor):
    """A message with some of its fields set; most plausibly, some to all that may be."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.name not in KNOWN and draw(st.booleans()):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            getattr(message, field.name)[value_of(draw, key)] = value_of(draw, value)
        elif field.is_repeated:
            times = draw(st.sampled_from([0, 1, 1, 1, 300]))
            getattr(message, field.name).extend([value_of(draw, field) for _ in "ab"] * times)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(value_of(draw, field))
        else:
            setattr(message, field.name, value_of(draw, field))
    return message


@pytest.fixture(scope="module")
def anything():
    limits = ("--max-models", "5", "--max-workers", "20")
    with running_daemon(*limits) as daemon, Client(daemon.grpc) as client:
        for worker_id in ("w0", "w1"):
            client.register("m", worker_id)
        client.fit("m")
        yield client


def assert_sound(client) -> None:
    assert client.health.Check(health_pb2.HealthCheckRequest()).status == 1
    for worker in client.workers().values():
        assert worker.load >= 0
    name = uuid.uuid4().hex
    client.register("m", "w0")
    assert client.route("m", name, candidate_workers=["w0"]).worker_id == "w0"
    assert client.release("m", name) == "RELEASED"
    assert client.workers("m")["w0"].booked_sequences == 0


def answer(client, method, request: bytes) -> str:
    """Code of the call, or of the status in a stream's first answer."""
    silent = method.name == "WatchMoves"  # for as long as nothing is to move
    try:
        answers = client.call(method, request, **({"timeout": SILENCE} if silent else {}))
        if not method.server_streaming:
            return "OK"
        first = next(answers)
        answers.cancel()
    except grpc.RpcError as error:
        code = error.code().name
        return "OK" if silent and code == "DEADLINE_EXCEEDED" else code
    if method.client_streaming and first.HasField("status"):
        return read_status(first.status).code
    return "OK"


@pytest.mark.parametrize("method", METHODS, ids=path_of)
def test_any_well_formed_message_gets_a_documented_answer(anything, method):
    @settings(max_examples=60, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
    @given(filled(method.input_type).map(lambda message: message.SerializeToString()))
    def send(request):
        assert answer(anything, method, request) in DOCUMENTED[method.name]

    send()
    assert_sound(anything)


@pytest.mark.parametrize("method", METHODS, ids=path_of)
def test_bytes_that_are_no_message_do_no_harm(anything, method):
    chance = random.Random(path_of(method))
    for size in (1, 2, 7, 50, 1_000, 100_000) * 3:
        answer(anything, method, chance.randbytes(size))
    assert_sound(anything)


def test_bytes_that_are_no_message_are_not_kept():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        stat = Path(f"/proc/{daemon.process.pid}/statm")
        held = []
        for _ in range(2):
            for _ in range(3_000):
                answer(client, IMPORT, b"\xff")
            held.append(int(stat.read_text().split()[1]))
        assert (held[1] - held[0]) * 4_096 < 3_000_000  # a traceback kept is 2 kB


def test_partition_files_with_any_byte_changed(anything):
    export = partition_pb2.ExportPartitionRequest(model="m", version=1)
    data = anything.partition.ExportPartition(export).data
    chance = random.Random(1)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(300):
        place = chance.randrange(header)
        broken = data[:place] + chance.randbytes(1) + data[place + 1 :]
        if chance.random() < 0.2:
            broken = broken[: chance.randrange(len(data))]
        request = partition_pb2.ImportPartitionRequest(model="m2", data=broken)
        code = answer(anything, IMPORT, request.SerializeToString())
        assert code in DOCUMENTED["ImportPartition"]


def test_other_protocols_at_the_port(daemon, client):
    host, port = daemon.grpc.rsplit(":", 1)
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), b"PRI * HTTP/2.0"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(greeting)
    assert client.health.Check(health_pb2.HealthCheckRequest()).status == 1


def test_an_unknown_method_is_unimplemented(client):
    for path in ("/eldr.v1.RouterService/Place", "/eldr.v2.RouterService/Route"):
        with pytest.raises(grpc.RpcError) as refused:
            client.channel.unary_unary(path)(router_pb2.RouteRequest().SerializeToString())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
