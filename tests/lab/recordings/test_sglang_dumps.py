"""Dumps of SGLang's recorder: one that SGLang 0.5.23 wrote, and what can become of it.

`sglang/` has the dump and, of the same requests, the answers (tests/sglang makes such ones anew).
"""

import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from eldr_service.lab.recordings.imported import import_answers

HERE = Path(__file__).parent / "sglang"
DUMP, ANSWERS = HERE / "dump.pt", HERE / "answers.jsonl"
EXPERTS, SHAPE = 32, (4, 4)


def rewritten(tmp_path, change):
    """The dump with its pickle as `change` makes it."""
    path = tmp_path / "changed.pt"
    with zipfile.ZipFile(DUMP) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member, change(data) if member.filename.endswith("data.pkl") else data)
    return path


def test_the_dump_has_what_the_answers_have():
    dumped = import_answers([DUMP], EXPERTS)
    returned = import_answers([ANSWERS], EXPERTS, SHAPE)
    assert dumped.layers == (0, 1, 2, 3)
    assert requests(dumped.recording) < requests(returned.recording)
    assert returned.recording.num_requests == 4
    # Two were at one position when one of them ended.
    assert [one.place.rpartition(" ")[2] for one in dumped.malformed] == ["1", "2"]


def requests(recording):
    """The length of each prompt, with the experts of all tokens."""
    ids = np.split(recording.expert_ids.astype(np.uint8), recording.offsets[1:-1])
    lengths = map(int, recording.prefill_len)
    return {(length, one.tobytes()) for length, one in zip(lengths, ids, strict=True)}


def test_another_models_dump_is_named():
    with pytest.raises(ValueError, match="of a model of 32 experts per layer, expected 64"):
        import_answers([DUMP], 64)


def test_nothing_of_a_file_is_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = rewritten(tmp_path, lambda _: pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"mkdir does not belong in a recorder's dump"):
        import_answers([path], EXPERTS)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kept", [{}, [1], {"records": [{}]}, {"logical_count": 1}])
def test_what_is_no_dump_of_tokens_is_named(tmp_path, kept):
    path = rewritten(tmp_path, lambda _: pickle.dumps(kept, 2))
    with pytest.raises(ValueError, match="per_token"):
        import_answers([path], EXPERTS)


def test_a_damaged_file_is_read_or_named(tmp_path):
    whole, drawn = DUMP.read_bytes(), random.Random(0)
    path = tmp_path / "damaged.pt"
    named = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(drawn.choice([1, 3])):
            damaged[drawn.randrange(4, len(whole))] = drawn.randrange(256)
        path.write_bytes(damaged[: drawn.choice([len(whole), drawn.randrange(4, len(whole))])])
        try:
            import_answers([path], EXPERTS)
        except ValueError as error:
            named.add(str(error).replace(str(path), "PATH")[:30])
    assert named
    assert all(each.startswith(("PATH: ", "no answer can be used")) for each in named)
