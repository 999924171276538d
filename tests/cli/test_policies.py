import pytest

from eldr_service.policies.registry import installed


def test_what_is_installed_and_in_force(fleet):
    shown = fleet("policy", "list")
    for name in installed():
        assert name in shown
    assert "load=sequences, min_coverage=0.5, tau=0.1, width, min_band=2" in shown
    assert "m      locality-band:load=sequences,min_band=2,min_coverage=0.5,tau=0.1" in shown
    document = fleet.json("policy", "list")
    assert [policy["name"] for policy in document["policies"]] == list(installed())
    assert document["active"][0]["model"] == "m"


def test_offline_needs_no_daemon(eldr):
    eldr.server = "127.0.0.1:1"
    assert "locality-band" in eldr("policy", "list", "--offline")
    document = eldr.json("policy", "list", "--offline")
    assert [policy["name"] for policy in document["policies"]] == list(installed())
    assert document["active"] == []


def test_set_and_what_is_said_can_be_set_again(fleet):
    said = fleet("policy", "set", "locality-band:tau=0.2,load=tokens")
    written = "locality-band:load=tokens,min_band=2,min_coverage=0.5,tau=0.2"
    assert said == f"m is routed by {written}\n"
    assert fleet("policy", "set", written, "--model", "m") == said
    active = fleet.json("policy", "set", "round-robin")["active"]
    assert (active["model"], active["name"]) == ("m", "round-robin")
    fleet("policy", "set", "locality-band")


@pytest.mark.parametrize(
    ("policy", "code", "told"),
    [
        ("localty", 1, "error: policy: expected one of domain-oracle,"),
        ("locality-band:tau=7", 1, "error: tau: expected a number, 0 to 2, found 7"),
        ("locality-band:tua=1", 1, "error: tua: expected a parameter of locality-band"),
        ("locality-band:tau", 2, "expected key=value"),
    ],
)
def test_wrong_policies_are_refused(fleet, policy, code, told):
    assert told in fleet("policy", "set", policy, code=code)
    assert fleet.json("policy", "list")["active"][0]["name"] == "locality-band"


def test_for_programs_the_field_is_named(fleet):
    error = fleet.json("policy", "set", "locality-band:tau=7", code=1)["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["field"] == "parameters.tau"
    assert (error["expected"], error["found"]) == ("a number, 0 to 2", "7")
