import re

import pytest


@pytest.fixture
def fitted(fleet, recording):
    fleet("fit", recording, "--slots", 3, "--import", "--activate")
    return fleet


def booked(eldr):
    return sum(w["booked_sequences"] for w in eldr.json("workers", "list")["workers"])


def test_route_books_until_released(fleet):
    said = fleet("route", "--lease", 60)
    assert "LEAST_LOADED_NO_SIGNATURE" in said
    assert "booked for 60.0 s, or until" in said
    assert booked(fleet) == 1
    release = said.splitlines()[-1].split()
    assert release[:2] == ["eldr", "release"]
    assert fleet(*release[1:]) == f"released {release[2]}\n"
    assert booked(fleet) == 0
    assert "had been released already" in fleet(*release[1:])
    assert "no booking never" in fleet("release", "never")
    assert "lost" in fleet("release", "never", "--outcome", "lost", code=2)


def test_a_dry_run_books_nothing(fleet):
    assert "dry run: nothing is booked" in fleet("route", "--dry-run")
    assert fleet.json("route", "--dry-run")["placement"]["scores"]
    fleet("explain")
    assert booked(fleet) == 0


def test_a_wait_for_a_place(fleet):
    fleet("workers", "add", "small", "--url", "http://small:1", "--model", "m", "--capacity", 1)
    to_small = ("route", "--pin", "small", "--max-wait", 12)  # longer than calls may take else
    fleet(*to_small, "--request-id", "held", "--lease", 11)
    assert "small" in fleet(*to_small, "--request-id", "late", "--priority", 10)
    told = fleet(*to_small[:-1], 0.1, "--request-id", "later", code=1)
    assert "within 0.1 s" in told
    assert "--priority" in fleet(*to_small, "--priority", 11, code=2)


def test_attempts_and_repeats(fleet):
    first = fleet.json("route", "--request-id", "a b")["placement"]
    assert "(it was booked already)" in fleet("route", "--request-id", "a b")
    said = fleet("route", "--request-id", "a b", "--attempt", 1)
    assert "eldr release 'a b' --model m --attempt 1" in said
    second = fleet.json("route", "--request-id", "a b", "--attempt", 1)["placement"]
    assert second["worker_id"] != first["worker_id"]
    assert fleet.json("release", "a b", "--attempt", 1) == {"result": "RELEASE_RESULT_RELEASED"}
    told = fleet("route", "--request-id", "a b", "--attempt", 1, code=1)
    assert told.startswith("error: ")
    assert booked(fleet) == 0


def test_requests_of_a_kind_go_together(fitted, recording):
    route = "route", "--dry-run", "--counts", recording
    placed = [fitted.json(*route, "--request", n)["placement"] for n in range(6)]
    assert {p["reason"] for p in placed} == {"PLACEMENT_REASON_LOCALITY_BAND"}
    assert placed[0]["similarity"] > 0
    assert "similarity" in fitted(*route)
    most_similar = [max(p["scores"], key=lambda s: s["similarity"])["worker_id"] for p in placed]
    assert most_similar[:3] == most_similar[3:]
    assert len(set(most_similar)) == 3


def test_explain_says_why(fitted, recording):
    shown = fitted("explain", "--counts", recording, "--exclude", "w1")
    (chosen,) = [line for line in shown.splitlines() if line.startswith("→")]
    assert "within tau 0.1 of the best similarity" in shown
    assert f"least loaded of them: {chosen.split()[1]} at 0.00" in shown
    assert "no: it is excluded" in shown
    assert "experts of 100% of the prompt; partition" in shown
    document = fitted.json("explain", "--counts", recording)
    assert [score["worker_id"] for score in document["placement"]["scores"]] == ["w0", "w1", "w2"]


def test_explain_in_other_cases(fleet):
    unsigned = fleet("explain")
    assert "the request has no signature, so the least loaded of 3 eligible workers" in unsigned
    assert "--counts gives a signature" in unsigned
    assert "pinned by the caller: w1 at 0.00" in fleet("explain", "--pin", "w1")
    fleet("policy", "set", "round-robin")
    assert "none was booked before, so the first of 3 eligible workers: w0" in fleet("explain")
    fleet("policy", "set", "locality-band")


def test_limits_of_the_choice(fleet):
    def chosen(*words):
        return fleet.json("explain", *words)["placement"]["worker_id"]

    assert chosen("--candidate", "w1", "--candidate", "w2", "--exclude", "w1") == "w2"
    assert chosen("--selector", "zone=b") == "w1"
    assert chosen("--pin", "w2") == "w2"


def test_wrong_requests_are_refused(fleet, recording, aggregate):
    explain = ("explain",)
    told = fleet(*explain, "--pin", "nobody", code=1)
    assert told.endswith("eldr workers list shows the workers")
    assert "--request: " in fleet(*explain, "--counts", recording, "--request", 24, code=2)
    assert "give the model's top_k" in fleet(*explain, "--counts", aggregate, code=1)
    assert "num_tokens x top_k" in fleet(*explain, "--counts", aggregate, "--top-k", 7, code=1)
    assert "expected key=value" in fleet(*explain, "--selector", "zone", code=2)
    assert "--lease" in fleet("route", "--lease", "nan", code=2)


def test_full_workers_say_when_to_try_again(fleet):
    for number in range(12):
        fleet("route", "--request-id", f"full-{number}")
    assert re.search(r"; try again in 0\.[12]\d* s$", fleet("route", code=1))
    error = fleet.json("route", code=1)["error"]
    assert error["code"] == "RESOURCE_EXHAUSTED"
    assert 0.1 <= error["retry_after_seconds"] <= 0.2
