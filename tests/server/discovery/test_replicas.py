"""Replicas that follow the same source are one router on what it names."""

from contextlib import ExitStack

import pytest
from fleet_states import become, discovering, fleet_file, said
from redis_server import needs_redis, running_redis
from wire import eventually

pytestmark = needs_redis


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(fleet_file("a", "b"))
    return path


@pytest.fixture
def two(path, tmp_path):
    with running_redis(tmp_path / "redis") as redis, ExitStack() as stack:
        flags = "--fleet", str(path), "--state", redis.url
        yield [stack.enter_context(discovering(*flags)) for _ in range(2)]


def test_bookings_on_found_workers_are_those_of_all(path, two):
    (_, one), (_, other) = two
    one.route("m", "r", pinned_worker="a")
    eventually(lambda: other.booked("m") == 1)
    path.write_text(fleet_file("b"))
    for client in (one, other):
        become(client, {"a": "DRAINING", "b": "READY"})
    assert other.release("m", "r") == "RELEASED"
    for client in (one, other):
        become(client, {"b": "READY"})


def test_one_that_registers_at_another_replica_is_its_own_master_here_too(path, two):
    (_, one), (daemon, other) = two
    one.register("m", "a", url="http://own")
    eventually(lambda: other.workers("m")["a"].url == "http://own")
    path.write_text(fleet_file("a", "b", labels='{ zone = "z" }'))
    for client in (one, other):
        eventually(lambda client=client: client.workers("m")["b"].labels)
        assert client.workers("m")["a"].url == "http://own"
    path.write_text(fleet_file("b", labels='{ zone = "z" }'))
    for client in (one, other):
        become(client, {"a": "DRAINING", "b": "READY"})
    assert not [line for line in said(daemon, "worker removed") if line["worker"] == "a"]
