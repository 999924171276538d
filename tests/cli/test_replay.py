"""`eldr replay`: its document, its tables, and what it says of wrong use."""

import pytest
from daemon import running_daemon
from routed import separable
from wire import TOP_K, Client, counts


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """120 requests of three kinds to two models, under locality-band; ten in flight at a time."""
    folder = tmp_path_factory.mktemp("logged") / "log"
    prefills = separable(3, 40).prefill_counts()
    with (
        running_daemon("--decision-log", str(folder), "--refit", "manual") as daemon,
        Client(daemon.grpc) as client,
    ):
        for model in ("a", "b"):
            for number in range(3):
                client.register(model, f"w{number}", capacity={"sequences": 6})
            client.fit(model, kinds=3)
        for number, prefill in enumerate(prefills):
            for model in ("a", "b"):
                message = counts(prefill.astype("u4"), top_k=TOP_K)
                client.route(model, f"r{number}", counts=message)
                if number >= 10:
                    client.release(model, f"r{number - 10}")
    return folder


def test_the_logged_policy_comes_to_the_same(eldr, log):
    document = eldr.json("replay", log)
    assert document["notes"] == []
    assert set(document["models"]) == {"a", "b"}
    for model in document["models"].values():
        assert model["decisions"] == 120
        assert model["logged_policies"] == {"locality-band": 120}
        for way in ("as_logged", "followed_through"):
            assert (model[way]["same"], model[way]["changed"]) == (120, 0)
        assert model["before"] == model["after"]
        assert model["before"]["active_experts"] > TOP_K


def test_another_policy(eldr, log):
    document = eldr.json("replay", log, "--policy", "round-robin", "--model", "a")
    assert document["policy"] == "round-robin"
    (model,) = document["models"].values()
    through = model["followed_through"]
    assert through["changed"] > 20
    moved = sum(n for new in through["moves"].values() for n in new.values())
    assert moved == through["same"] + through["changed"] == 120
    taken = [worker["followed_through"] for worker in model["workers"].values()]
    assert taken == [40, 40, 40]
    assert model["after"]["load_spread"] < model["before"]["load_spread"]
    assert model["after"]["reasons"] == {"POLICY": 120}


def test_other_parameters(eldr, log):
    def share(*words):
        return eldr.json("replay", log, "--model", "a", *words)["models"]["a"]["followed_through"]

    same = share("--param", "tau=0.1")
    assert same["changed"] == 0
    loose = share("--param", "tau=2")
    assert loose["changed"] > 0
    assert share("--policy", "locality-band:tau=2") == loose
    assert share("--policy", "locality-band", "--param", "tau=2") == loose
    assert share("--param", "width=10") == loose  # in place of the logged tau


def test_another_partition(eldr, log, recording, tmp_path):
    path = tmp_path / "other.safetensors"
    eldr("fit", recording, "--slots", 2, "--out", path, "--model", "a")
    document = eldr.json("replay", log, "--partition", path)
    assert document["partition"] == "a"
    models = document["models"]
    assert models["a"]["as_logged"]["changed"] > 0
    assert models["b"]["as_logged"]["changed"] == 0


def test_tables(eldr, log):
    shown = eldr("replay", log, "--policy", "random", "--model", "b")
    assert "decides  random" in shown
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("decisions")]
    assert line[1:] == ["120"] * 3
    assert "REQUESTS OF" in shown
    assert "MEANS OF" in shown
    assert "FOLLOWED THROUGH, FROM" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "FOLLOWED THROUGH, FROM" not in eldr("replay", log)  # nothing moved


def test_a_torn_log_says_so(eldr, log, tmp_path):
    (path,) = log.iterdir()
    torn = tmp_path / path.name
    torn.write_bytes(path.read_bytes()[:-20])
    document = eldr.json("replay", torn)
    assert "is truncated or damaged" in document["notes"][0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere",), 2, "does not exist"),
        ((__file__,), 1, "no decision log"),
        (("LOG", "--policy", "fastest"), 2, "one of domain-oracle"),
        (("LOG", "--policy", "random:tau=1"), 2, "a parameter of random"),
        (("LOG", "--param", "tau"), 2, "expected key=value"),
        (("LOG", "--param", "tau=3"), 1, "expected a number, 0 to 2"),
        (("LOG", "--model", "c"), 1, "the log has no model c; it has a, b"),
        (("LOG", "--partition", __file__), 1, "a whole safetensors file"),
    ],
)
def test_wrong_use(eldr, log, words, code, said):
    words = [log if word == "LOG" else word for word in words]
    assert said in eldr("replay", *words, code=code)
