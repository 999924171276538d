"""Logs that are damaged, or made to do harm: a clear word, no traceback, bounded memory."""

import io
import random
import resource

import pytest
import zstandard
from eldr.v1.decision_log_pb2 import LogRecord
from google.protobuf.message import DecodeError
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed
from replayed import replayed

from eldr_service.core.errors import EldrError
from eldr_service.decision_log.reader import LogError, LogReader
from eldr_service.decision_log.to_records import FORMAT


@pytest.fixture(scope="module")
def first(logged):
    """The bytes of a whole file."""
    return min(logged.folder.iterdir()).read_bytes()


def read(path):
    """What is said of a log, if anything."""
    try:
        return replayed(path)[1].notes
    except (LogError, EldrError) as error:
        return [str(error)]


@pytest.mark.parametrize("seed", range(8))
def test_bytes_that_changed(seed, first, tmp_path):
    damaged, chance = bytearray(first), random.Random(seed)
    for _ in range(3):
        damaged[chance.randrange(len(damaged))] ^= chance.randrange(1, 256)
    path = tmp_path / "decisions-1-000001.zst"
    path.write_bytes(damaged)
    assert read(path)


@pytest.mark.parametrize("seed", range(16))
def test_records_that_changed_where_no_checksum_tells(seed, first, tmp_path):
    unpacked = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(first, True).read())
    records = []
    while record := parse_length_prefixed(LogRecord, unpacked):
        records.append(record)
    chance = random.Random(seed)
    for _ in range(3):
        number = chance.randrange(1, len(records))
        changed = bytearray(records[number].SerializeToString())
        for _ in range(3):
            changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
        try:
            records[number] = LogRecord.FromString(bytes(changed))
        except DecodeError:
            del records[number]
    file = io.BytesIO()
    for record in records:
        serialize_length_prefixed(record, file)
    path = tmp_path / "decisions-1-000001.zst"
    path.write_bytes(zstandard.compress(file.getvalue()))
    read(path)


def test_a_frame_that_unpacks_to_gigabytes(tmp_path):
    file = io.BytesIO()
    record = LogRecord()
    record.header.format = FORMAT
    serialize_length_prefixed(record, file)
    compressor = zstandard.ZstdCompressor().compressobj()
    packed = [compressor.compress(file.getvalue())]
    packed += [compressor.compress(bytes(64 << 20)) for _ in range(48)]  # 3 GiB
    path = tmp_path / "decisions-1-000001.zst"
    path.write_bytes(b"".join([*packed, compressor.flush()]))
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader = LogReader(path)
    assert list(reader) == []
    (note,) = reader.notes
    assert "is truncated or damaged" in note
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 1 << 20
