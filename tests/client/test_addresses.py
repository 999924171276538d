"""How the router's address may be written, and what gRPC is told for it."""

import json
import logging

import pytest
from eldr_client import RouterClient
from eldr_client.addresses import Addresses


@pytest.mark.parametrize(
    ("text", "target", "several"),
    [
        ("10.0.0.1:50051", "10.0.0.1:50051", False),
        ("eldr:50051", "eldr:50051", False),
        (" eldr:50051\n", "eldr:50051", False),
        ("dns:50051", "dns:50051", False),
        ("[::1]:50051", "[::1]:50051", False),
        ("unix:/run/eldr,1.sock", "unix:/run/eldr,1.sock", False),
        ("dns:///eldr:50051", "dns:///eldr:50051", True),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", True),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", True),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", True),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2", True),
        ("[::1]:1,10.0.0.2:2", "ipv6:[::1]:1,[::ffff:10.0.0.2]:2", True),
    ],
)
def test_what_grpc_resolves(text, target, several):
    addresses = Addresses(text)
    assert (addresses.target(), addresses.are_several) == (target, several)
    assert bool(addresses.options()) == several


def test_names_in_a_list_are_resolved(caplog):
    with caplog.at_level(logging.WARNING, "eldr_client"):
        target = Addresses("localhost:1,nowhere.invalid:2,127.0.0.9:3").target()
    assert "127.0.0.1" in target
    assert target.endswith(":3")
    assert "nowhere.invalid:2 is left out" in caplog.text


def test_names_that_do_not_resolve_are_left_to_grpc():
    assert Addresses("a.invalid:1,b.invalid:2").target() == "dns:///a.invalid:1"


@pytest.mark.parametrize(
    "text", ["", "eldr", "eldr:", "eldr:0", "eldr:65536", "a:1,", "a:1,b", "a:1;b:2", "::1:50051"]
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="expected HOST:PORT with a port from 1 to 65535, several"):
        RouterClient(text)


def test_one_replica_hears_a_worker_and_all_share_the_calls():
    addresses = Addresses("dns:///eldr:50051")
    chosen = [
        json.loads(dict(addresses.options(sticky))["grpc.service_config"])["loadBalancingConfig"]
        for sticky in (False, True)
    ]
    assert chosen == [
        [{"round_robin": {}}],
        [{"pick_first": {"shuffleAddressList": True}}],
    ]
