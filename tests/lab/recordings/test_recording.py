import io
import os
import zipfile

import numpy as np
import pytest
from routed import recorded, separable

from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab.recordings import Recording


def arrays_of(recording):
    return {
        "expert_ids": recording.expert_ids.astype(np.uint8),
        "offsets": recording.offsets,
        "prefill_len": recording.prefill_len.astype(np.int32),
        "domain": recording.domains,
        "num_experts": np.int32(recording.geometry.num_experts),
    }


DRAWN = separable(2, 3)


def saved(path, arrays):
    np.savez_compressed(path / "recording.npz", **arrays)
    return path / "recording.npz"


def test_round_trip(tmp_path):
    read = Recording.load(saved(tmp_path, arrays_of(DRAWN)))
    assert read.geometry == DRAWN.geometry
    assert read.num_requests == 6
    assert read.domains.tolist() == ["0", "1"] * 3
    np.testing.assert_array_equal(read.prefill_counts(), DRAWN.prefill_counts())
    assert (read.prefill(5), read.decode(5)) == (slice(300, 330), slice(330, 360))
    read.save(tmp_path / "again")
    again = Recording.load(tmp_path / "again")
    np.testing.assert_array_equal(again.expert_ids, DRAWN.expert_ids)
    assert (again.decode(3), again.domains.tolist()) == (read.decode(3), read.domains.tolist())


@pytest.mark.parametrize("name", ["gpt-oss-20b-topics", "deepseek-v2-lite-tasks"])
def test_counts_of_real_models(name):
    recording = recorded(name)
    geometry = recording.geometry
    counts = recording.prefill_counts()
    assert counts.shape == (recording.num_requests, geometry.num_layers, geometry.num_experts)
    rows = np.broadcast_to(recording.prefill_len[:, None] * geometry.top_k, counts.shape[:2])
    np.testing.assert_array_equal(counts.sum(axis=2), rows)
    tokens = recording.expert_ids[: recording.prefill_len[0], 0]
    assert counts[0, 0, 3] == (tokens == 3).sum()
    decodes = [recording.decode(r) for r in range(recording.num_requests)]
    decoded = sum(tokens.stop - tokens.start for tokens in decodes)
    assert decoded + recording.prefill_len.sum() == len(recording.expert_ids)


def test_aggregate_counts(tmp_path):
    path = saved(tmp_path, {"counts": np.arange(24).reshape(2, 3, 4)})
    recording = Recording.load(path, top_k=2)
    assert recording.geometry == ModelGeometry(3, 4, 2)
    assert recording.prefill_counts().dtype == np.uint32
    assert recording.domains.tolist() == ["", ""]
    with pytest.raises(ValueError, match="only counts"):
        recording.decode(0)
    with pytest.raises(ValueError, match="give the model's top_k"):
        Recording.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_ids": None}, "no array 'expert_ids'"),
        ({"num_experts": None}, "no array 'num_experts'"),
        ({"num_experts": np.int32(3)}, "expert_ids must be from 0 to 2"),
        ({"num_experts": np.array([16])}, "num_experts must be integers of 0 dim"),
        ({"expert_ids": DRAWN.expert_ids.astype(float)}, "expert_ids must be integers"),
        ({"expert_ids": DRAWN.expert_ids[0]}, "expert_ids must be integers of 3 dim"),
        ({"expert_ids": DRAWN.expert_ids[:9]}, "offsets must ascend from 0 to 9"),
        ({"offsets": DRAWN.offsets[::-1]}, "offsets must ascend"),
        ({"prefill_len": DRAWN.prefill_len[1:]}, "prefill_len must have 6 entries"),
        ({"prefill_len": DRAWN.prefill_len + 31}, "prefill_len must be from 0"),
        ({"domain": np.arange(6)}, "domain must be 6 strings"),
        ({"counts": -np.ones((2, 3, 4), dtype=int)}, "counts must be from 0"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path, changes, message):
    arrays = {k: v for k, v in (arrays_of(DRAWN) | changes).items() if v is not None}
    with pytest.raises(ValueError, match=message) as error:
        Recording.load(saved(tmp_path, arrays))
    assert "recording.npz" in str(error.value)


def test_another_top_k_than_the_tokens_have(tmp_path):
    with pytest.raises(ValueError, match="top_k 2, not 4"):
        Recording.load(saved(tmp_path, arrays_of(DRAWN)), top_k=4)


def test_no_npz_file(tmp_path):
    whole = saved(tmp_path, arrays_of(DRAWN)).read_bytes()
    lone = tmp_path / "lone.npy"
    np.save(lone, np.zeros(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, domain=np.array([object()]))
    half, text, empty = (tmp_path / name for name in ("half.npz", "text.npz", "empty.npz"))
    half.write_bytes(whole[: len(whole) // 2])
    text.write_text("expert,count\n")
    empty.touch()
    for path in (lone, pickled, half, text, empty):
        with pytest.raises(ValueError, match=r"not a complete \.npz file"):
            Recording.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "absent.npz")


def npz(path, header, body=b"", name="counts"):
    """An archive of one array, as its header tells it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", file.getvalue() + body)
    return path


def test_an_array_larger_than_its_file_is_refused_before_it_is_read(tmp_path):
    header = {"shape": (2**44, 1, 1), "fortran_order": False, "descr": "<i8"}
    with pytest.raises(
        ValueError, match=r"array counts says it is \[17592186044416, 1, 1\] of int64"
    ):
        Recording.load(npz(tmp_path / "large.npz", header, b"0" * 80), top_k=1)
    header["descr"] = "|O"
    with pytest.raises(ValueError, match="counts holds Python objects; expected plain numbers"):
        Recording.load(npz(tmp_path / "objects.npz", header), top_k=1)


def test_an_archive_packed_in_a_way_that_cannot_be_read(tmp_path):
    path = saved(tmp_path, {"counts": np.ones((1, 2, 4), np.int64)})
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")  # of the directory: flags at 8, method at 10
    for at, value, said in ((8, 1, "encrypted"), (10, 99, "compression method")):
        changed = bytearray(whole)
        changed[entry + at] = value
        if at == 8:
            changed[6] = value  # and of the file itself
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"not a complete .npz file.*{said}"):
            Recording.load(path, top_k=1)


def test_a_file_that_unpacks_to_more_than_the_machine_holds_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, {"counts": np.zeros((100, 100, 100), np.int64)})
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 4_000, "SC_PAGE_SIZE": 4_096}.get)
    with pytest.raises(
        ValueError, match=r"unpacks to 0\.0 GB, more than a quarter of this machine"
    ):
        Recording.load(path, top_k=1)
    monkeypatch.undo()
    assert Recording.load(path, top_k=1).num_requests == 100
