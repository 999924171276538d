import numpy as np
import pytest
from eldr_client import Counts, RouterClient
from wire import TOP_K, drawn

from eldr_service.stores.partition_file import load_partition


@pytest.fixture
def kept(fleet, recording):
    """The fleet, with two more versions of a partition, the second in force; their numbers."""
    fit = "fit", recording, "--slots", 3, "--import", "--activate"
    first, second = (int(fleet.json(*fit)["partition"]["version"]) for _ in range(2))
    return fleet, first, second


def test_without_a_place_to_keep_it_a_fit_only_shows(fleet, recording):
    before = fleet.json("partition", "list")["partitions"]
    shown = fleet("fit", recording, "--slots", 3)
    assert "3 layers x 16 experts, top-2" in shown
    assert "experts per layer that a step on held-out requests would touch" in shown
    assert "nothing was kept: --out FILE writes it" in shown
    sizes = [line.split() for line in shown.splitlines() if line[:4].strip().isdigit()]
    assert sizes == [["0", "8"], ["1", "8"], ["2", "8"]]
    assert fleet.json("partition", "list")["partitions"] == before


def test_a_fit_to_a_file(eldr, recording, tmp_path):
    file = tmp_path / "partition.safetensors"
    document = eldr.json(
        *("fit", recording, "--slots", 3, "--model", "q", "--out", file, "--transform", "sqrt"),
        *("--layers", "0,2", "--n-init", 2, "--seed", 7, "--max-iter", 9),
    )
    assert document["file"] == str(file)
    assert document["slot_sizes"] == [8, 8, 8]
    assert not document["imported"]
    partition = load_partition(file.read_bytes())
    assert (partition.model, partition.transform.name) == ("q", "sqrt")
    assert partition.transform.layers.tolist() == document["partition"]["layers"] == [0, 2]
    assert partition.metadata["seed"] == "7"


def test_a_fit_on_the_daemons_window(fresh_fleet):
    eldr = fresh_fleet
    assert "placed no signature yet" in eldr("fit", code=1)
    for number in range(6):
        counts = Counts(drawn(number % 3, number), TOP_K)
        with (
            RouterClient(eldr.server, timeout=5.0) as client,
            client.place("m", f"w{number}", counts),
        ):
            pass
    fitted = eldr.json("fit", "--activate")["partition"]
    assert (fitted["num_slots"], fitted["metadata"]["signatures"]) == (3, "6")
    assert fitted["active"]
    assert eldr("partition", "refit", "off") == "refit of m: off\n"
    assert eldr.json("partition", "list")["refits"][0]["mode"] == "REFIT_MODE_OFF"
    assert eldr("partition", "refit", "default") == "refit of m: auto\n"


def test_counts_alone_need_top_k(eldr, aggregate):
    assert "give the model's top_k" in eldr("fit", aggregate, "--slots", 3, code=1)
    assert "top-2" in eldr("fit", aggregate, "--slots", 3, "--top-k", 2)


def test_wrong_fits_are_refused(eldr, recording, tmp_path):
    fit = "fit", recording, "--slots", 3
    assert "--slots" in eldr("fit", recording, code=2)
    assert "--top-k need a file" in eldr("fit", "--out", tmp_path / "p", code=2)
    assert "--activate needs --import" in eldr(*fit, "--activate", code=2)
    assert "--model: required" in eldr(*fit, "--out", tmp_path / "p", code=2)
    assert "--out: no directory" in eldr(*fit, "--model", "q", "--out", tmp_path / "a/p", code=2)
    assert "found '5-2'" in eldr(*fit, "--layers", "5-2", code=2)
    assert "below 3" in eldr(*fit, "--layers", "3", code=1)
    assert "25 clusters need as many requests" in eldr("fit", recording, "--slots", 25, code=1)
    assert "not a complete .npz file" in eldr("fit", __file__, "--slots", 3, code=1)
    assert eldr.json("fit", __file__, "--slots", 3, code=1)["error"]["code"] == "FAILED"


def test_warnings_are_told_beside_the_answer(eldr, tmp_path):
    file = tmp_path / "long.npz"
    counts = np.full((8, 2, 4), 6)
    counts[::2, :, 0] = 0  # all other experts are used by every request
    np.savez(file, counts=counts)
    fit = "fit", file, "--slots", 2, "--top-k", 1, "--transform", "counts-idf"
    (warning,) = eldr.json(*fit)["warnings"]
    assert warning.startswith("idf is zero for 75% of the entries")
    assert "warning" not in eldr(*fit)  # stdout


def test_versions_are_listed_and_shown(kept):
    eldr, first, second = kept
    versions, refits = eldr("partition", "list").split("\n\n")
    assert refits.splitlines()[1].split()[:2] == ["m", "auto"]
    rows = [line.split() for line in versions.splitlines()[1:]]
    assert [row[1] for row in rows[-2:]] == [str(first), str(second)]
    assert rows[-1][2:6] == ["active", "3", rows[-1][4], "24"]
    shown = eldr("partition", "show")
    assert f"{second}, active" in shown
    assert "balanced-kmeans" in shown
    assert "SLOT  WORKERS  PLACEMENTS  SHARE" in shown
    assert eldr.json("partition", "show", first)["active"] is False
    bound = eldr.json("partition", "show")["bindings"]
    assert sorted(slot["worker_ids"][0] for slot in bound) == ["w0", "w1", "w2"]


def test_activate_and_roll_back(kept):
    eldr, first, second = kept
    assert eldr("partition", "activate", first) == f"m uses version {first}\n"
    assert eldr("partition", "rollback") == f"m uses version {second} again\n"
    assert eldr.json("partition", "show")["version"] == str(second)


def test_export_and_import(kept, tmp_path):
    eldr, first, _ = kept
    file = tmp_path / "out.safetensors"
    document = eldr.json("partition", "export", first, file)
    assert (document["file"], document["partition"]["version"]) == (str(file), str(first))
    said = eldr("partition", "import", file)
    assert "of m; eldr partition activate" in said
    assert "and active" in eldr("partition", "import", file, "--model", "m", "--activate")


def test_wrong_partitions_are_refused(kept, tmp_path):
    eldr, first, _ = kept
    assert "no partition 99 of m" in eldr("partition", "show", 99, code=1)
    assert "99" in eldr("partition", "activate", 99, code=1)
    assert "'VERSION'" in eldr("partition", "activate", "latest", code=2)
    assert "a whole safetensors file" in eldr("partition", "import", __file__, code=1)
    assert "does not exist" in eldr("partition", "import", tmp_path / "none", code=2)
    missing = tmp_path / "none" / "file"
    told = eldr("partition", "export", first, missing, code=1)
    assert told == f"error: {missing}: No such file or directory"
