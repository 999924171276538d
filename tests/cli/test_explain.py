"""`eldr explain REQUEST`: what a decision saw, after the fleet has changed, by the real daemon."""

import re
import time

import numpy as np
import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from wire import Client, counts

from eldr_service.policies.registry import installed


@pytest.fixture
def fitted(fleet, recording):
    fleet("fit", recording, "--slots", 3, "--import", "--activate")
    yield fleet
    fleet("policy", "set", "locality-band")


def told(shown):
    """The facts by their names, each on one line, and the table's lines."""
    facts, _, table = shown.partition("\n\n")
    return dict(line.split(None, 1) for line in facts.splitlines()), table


WORDS = {
    "locality-band": r"within tau 0\.1 of the best similarity 0\.9\d\d \(tau is 0\.\d+ of the"
    r" partition's spread\): (w\d); min_band 2 adds the next best: w\d \(0\.\d{3}\);"
    r" least loaded of them: (?P<worker>w\d) at 0\.00",
    "locality": r"with the best similarity 0\.9\d\d: (?P<worker>w\d) alone, at load 0\.\d\d",
    "marginal-cost": r"predicted decode step within 1 \+ tail 0\.05 times the mean of 10\.\d expert"
    r" reads: w0, w1, w2; least cost of them: (?P<worker>w\d) at 10\.\d expert reads \(its step.*",
    "round-robin": r"next of 3 eligible workers after w0, which was booked last: (?P<worker>w1)",
    "random": r"drawn from 3 eligible workers, all equally likely: (?P<worker>w\d) \(seed 0, .*1\)",
    "join-shortest-queue": r"least loaded of 3 eligible workers, all equal: w1, w2; drawn of them:"
    r" (?P<worker>w[12]) at 0\.00 \(seed 0, decision 1\)",
    "power-of-two-choices": r"drawn of 3 eligible workers: w\d at 0\.\d\d, then w\d at 0\.\d\d"
    r" \(seed 0, decision 1\); (the less loaded of them|equally loaded, so the first drawn):"
    r" (?P<worker>w\d)",
    "domain-oracle": r"the request has no label domain, so all eligible workers: w0, w1, w2; least"
    r" loaded of them: (?P<worker>w1) at 0\.00",
}


def test_every_policy_is_tried_here():
    assert WORDS.keys() == {name for name, one in installed().items() if "first-fit" not in name}


@pytest.mark.parametrize("policy", WORDS)
def test_the_rule_with_its_numbers_as_they_were(fitted, recording, policy):
    fitted("policy", "set", policy)
    fitted("route", "--request-id", f"{policy}-0", "--pin", "w0")
    placed = fitted.json("route", "--request-id", f"{policy}-1", "--counts", recording)["placement"]
    fitted("policy", "set", "random:seed=7")
    fitted("workers", "remove", placed["worker_id"])  # its name stays in what was
    facts, table = told(fitted("explain", f"{policy}-1"))
    found = re.fullmatch(WORDS[policy], facts["why"].strip())
    assert found, facts["why"]
    assert found["worker"] == placed["worker_id"]
    assert facts["policy"].startswith(f"{policy}: ")
    assert facts["booking"].strip() == "ended: its worker is gone"
    assert facts["known"].startswith("experts of 30 of 30 prompt tokens (100%)")
    (chosen,) = [line for line in table.splitlines() if line.startswith("→")]
    assert chosen.split()[1] == placed["worker_id"]
    document = fitted.json("explain", f"{policy}-1")
    scores = document["placement"]["scores"]
    assert [score["worker_id"] for score in scores] == ["w0", "w1", "w2"]
    assert [score["load"] for score in scores] == [0.25, 0, 0]
    if policy == "marginal-cost":
        costs = {score["worker_id"]: score["cost"] for score in scores}
        assert min(costs, key=costs.get) == placed["worker_id"]
        assert all(score["predicted_active_experts"] > 0 for score in scores)
    if policy in ("locality", "locality-band", "marginal-cost"):  # of all, not only the chosen
        similar = [score["similarity"] for score in scores]
        now = fitted.json("explain", "--counts", recording)["placement"]["scores"]
        assert max(similar) > 0.9 > sorted(similar)[1]
        assert len(now) == 2


def test_live_running_released_and_expired(fleet):
    fleet("route", "--request-id", "one", "--lease", 60)
    facts, _ = told(fleet("explain", "one"))
    assert facts["booking"].strip() == "live; its lease ends in 60.0 s unless it is renewed" or (
        "59." in facts["booking"]
    )
    assert facts["request"].strip() == "one of m, attempt 0"
    assert facts["known"].startswith("no signature")
    document = fleet.json("explain", "one")
    worker = document["placement"]["worker_id"]
    lives = {w["worker_id"]: w for w in fleet.json("workers", "list")["workers"]}
    with Client(fleet.server) as client:
        client.fleet.ReportLoad(
            fleet_pb2.ReportLoadRequest(
                model="m", worker_id=worker, report_number=1,
                incarnation=int(lives[worker]["incarnation"]),
                held=[fleet_pb2.HeldRequest(request_id="one")],
            )
        )  # fmt: skip
        assert "and its worker reports it" in fleet("explain", "one")
        time.sleep(0.25)  # longer than the limit of reports
        fleet("route", "--request-id", "two")
        facts, table = told(fleet("explain", "two"))
        assert "are from the daemon's own bookings" in facts["stale"]
        (reported,) = [line for line in table.splitlines() if f" {worker} " in line]
        assert re.search(r"0\.\d s, stale", reported)
        assert "never" in table
    fleet("release", "one")
    assert told(fleet("explain", "one"))[0]["booking"].strip() == "ended: released"


@pytest.mark.parametrize(
    ("option", "source"),
    [
        (("--conversation", "s"), "predicted by the conversation's earlier turns"),
        (("--label", "tenant=t"), "predicted by the tenant's requests"),
    ],
)
def test_where_a_signature_came_from(fitted, recording, option, source):
    shown = fitted("route", *option, "--request-id", f"{option[1]}-1", "--counts", recording)
    assert "the call's own counts" in shown
    assert source in fitted("explain", *option)
    assert source in fitted("route", *option, "--request-id", f"{option[1]}-2")
    facts, _ = told(fitted("explain", f"{option[1]}-2"))
    assert facts["known"].startswith(f"none of its own experts; {source}; partition ")
    assert "no signature" in fitted("explain", "--conversation", "another")


def test_attempts_and_exclusions(fleet):
    fleet("route", "--request-id", "r", "--exclude", "w1")
    first = fleet.json("explain", "r")["placement"]["worker_id"]
    fleet("workers", "drain", "w1")
    fleet("route", "--request-id", "r", "--attempt", 1)
    facts, table = told(fleet("explain", "r"))
    assert facts["request"].strip() == "r of m, attempt 1"
    assert re.search(rf"{first} .*no: failed an earlier attempt", table)
    assert re.search(r"w1 .*no: it is not READY", table)
    facts, table = told(fleet("explain", "r", "--attempt", 0))
    assert facts["booking"].strip() == "ended: superseded by a higher attempt"
    assert re.search(r"w1 .*no: it is excluded", table)
    assert "there is attempt 0, 1" in fleet("explain", "r", "--attempt", 2, code=1)


def test_why_it_fell_back(fleet, recording):
    lesser = "so the least loaded of 3 eligible workers: "
    fleet("route", "--request-id", "unsigned")
    assert f"the request has no signature, {lesser}w0 at 0.00" in fleet("explain", "unsigned")
    fleet("fit", recording, "--slots", 3, "--import", "--activate")
    with Client(fleet.server) as client:
        request = router_pb2.RouteRequest(model="m", request_id="covered", pinned_worker="")
        request.counts.CopyFrom(_counts(known=10, unknown=40))
        client.router.Route(request)
    facts, _ = told(fleet("explain", "covered"))
    assert facts["why"].startswith(
        "the experts of 20% of the prompt are known, below min_coverage 0.5, " + lesser
    )
    assert facts["known"].startswith("experts of 10 of 50 prompt tokens (20%)")


def test_no_partition_is_why(eldr, recording):
    with running_daemon() as daemon:
        alone = type(eldr)(daemon.grpc)
        alone("workers", "add", "w0", "--model", "m", "--url", "http://w", "--capacity", 9)
        alone("route", "--request-id", "unfitted", "--counts", recording)
        facts, _ = told(alone("explain", "unfitted"))
        expected = (
            "the model has no partition, so the least loaded of 1 eligible worker: w0 at 0.00"
        )
        assert facts["why"].strip() == expected
        assert "no partition used" in facts["known"]


def test_early_placements_say_what_was_known_then(fleet, recording):
    fleet("fit", recording, "--slots", 3, "--import", "--activate")
    with Client(fleet.server) as client:
        first = router_pb2.RegisterSignatureRequest(model="m", request_id="early")
        first.counts.CopyFrom(_counts(known=10))
        client.router.RegisterSignature(first)
        told_of = fleet("explain", "early", code=1)
        assert "has not been placed; its signature is held, of 10 tokens" in told_of
        fleet("route", "--request-id", "early")
        first.sequence, first.last = 1, True
        client.router.RegisterSignature(first)
    facts, _ = told(fleet("explain", "early"))
    assert "the rest had not arrived" in facts["early"]
    assert facts["known"].startswith("experts of 10 of 10 prompt tokens")


def _counts(known, unknown=0):
    array = np.zeros((3, 16), np.uint16)
    array[:, :2] = known
    message = counts(array)
    message.unknown_tokens = unknown
    return message


def test_unknown_and_dropped_requests_say_which(eldr):
    at = type(eldr)
    with running_daemon("--explanations", "2") as daemon:
        eldr = at(daemon.grpc)
        eldr("workers", "add", "w0", "--model", "m", "--url", "http://w", "--capacity", 9)
        for name in ("a", "b", "c", "d"):
            eldr("route", "--request-id", name)
        eldr("release", "b")
        kept = "explanations of the last 2 decisions are kept"
        dropped = eldr("explain", "a", code=1)
        assert "request a is booked on w0, but its explanation was dropped" in dropped
        assert kept in dropped
        ended = eldr("explain", "b", code=1)
        assert "request b has ended, and its explanation was dropped" in ended
        assert kept in ended
        assert "request x is unknown: not placed here" in eldr("explain", "x", code=1)
        assert eldr.json("explain", "c")["decisions_kept"] == 2
        assert "booking" in eldr("explain", "d")
    with running_daemon("--explanations", "0") as daemon:
        eldr = at(daemon.grpc)
        eldr("workers", "add", "w0", "--model", "m", "--url", "http://w")
        eldr("route", "--request-id", "a")
        assert "no explanations are kept here (--explanations 0)" in eldr("explain", "a", code=1)


def test_options_of_what_is_to_be_placed_do_not_go_with_a_request(fleet, recording):
    told_of = fleet("explain", "r", "--counts", recording, code=2)
    assert "--counts" in told_of
    assert "r has been" in told_of


def test_what_workers_hold_of_the_prompt(fleet):
    with Client(fleet.server) as client:
        client.route("m", "told", cached_tokens={"w1": 1_280})
    _, table = told(fleet("explain", "told"))
    assert "CACHED" in table.splitlines()[0]
    (holder,) = [line for line in table.splitlines() if "1,280" in line]
    assert " w1 " in holder
    assert "CACHED" not in fleet("explain")
