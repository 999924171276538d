"""Partitions and policies are kept and switched, over the real socket."""

import pytest
from eldr.v1 import partition_pb2, policy_pb2, router_pb2
from wire import GEOMETRY, Refused, counts, drawn

REASON = router_pb2.PlacementReason.Name


def test_partitions_travel_bit_for_bit(client, fleet):
    export = partition_pb2.ExportPartitionRequest(model=fleet)
    exported = client.partition.ExportPartition(export)
    assert exported.partition.active
    assert exported.partition.geometry == GEOMETRY
    elsewhere = f"{fleet}-copy"
    copy = client.partition.ImportPartition(
        partition_pb2.ImportPartitionRequest(model=elsewhere, data=exported.data)
    ).partition
    assert (copy.model, copy.version, copy.active) == (elsewhere, 1, False)
    with Refused("NOT_FOUND"):  # none is active yet
        client.partition.ExportPartition(partition_pb2.ExportPartitionRequest(model=elsewhere))
    back = client.partition.ExportPartition(
        partition_pb2.ExportPartitionRequest(model=elsewhere, version=1)
    )
    size = int.from_bytes(back.data[:8], "little")
    assert back.data[8 + size :] == exported.data[-len(back.data) + 8 + size :]  # the tensors
    unnamed = partition_pb2.ImportPartitionRequest(data=exported.data, activate=True)
    again = client.partition.ImportPartition(unnamed).partition
    assert (again.model, again.version, again.active) == (fleet, 2, True)
    assert again.metadata == exported.partition.metadata
    assert again.create_time == exported.partition.create_time


def test_partitions_are_listed_activated_and_rolled_back(client, fleet):
    client.fit(fleet, activate=False)
    client.fit(fleet)

    def listed():
        request = partition_pb2.ListPartitionsRequest(model=fleet)
        return client.partition.ListPartitions(request).partitions

    def active():
        return [info.version for info in listed() if info.active]

    assert [(info.version, info.num_slots) for info in listed()] == [(1, 4), (2, 2), (3, 2)]
    assert active() == [3]
    activate = partition_pb2.ActivatePartitionRequest(model=fleet, version=2)
    bindings = client.partition.ActivatePartition(activate).partition.bindings
    assert sorted(w for b in bindings for w in b.worker_ids) == ["w0", "w1", "w2", "w3"]
    rollback = partition_pb2.RollbackPartitionRequest(model=fleet)
    versions = [client.partition.RollbackPartition(rollback).partition.version for _ in range(2)]
    assert versions == [3, 1]
    with Refused("FAILED_PRECONDITION"):
        client.partition.RollbackPartition(rollback)
    assert active() == [1]
    with Refused("NOT_FOUND"):
        client.partition.ActivatePartition(
            partition_pb2.ActivatePartitionRequest(model=fleet, version=9)
        )


def test_a_fit_on_what_was_seen(client, model):
    client.register(model, "a")
    client.register(model, "b")
    fit = partition_pb2.FitPartitionRequest(model=model, transform="sqrt", layers=[0, 2])
    with Refused("FAILED_PRECONDITION"):
        client.partition.FitPartition(fit)
    for number in range(8):
        client.route(model, f"r{number}", counts=counts(drawn(number % 2, number)))
    info = client.partition.FitPartition(fit).partition
    assert (info.num_slots, info.transform, info.active) == (2, "sqrt", False)
    assert list(info.layers) == [0, 2]
    assert info.metadata["signatures"] == "8"


def test_policies_are_listed_and_set(client, fleet):
    listed = client.policy.ListPolicies(policy_pb2.ListPoliciesRequest())
    names = [policy.name for policy in listed.policies]
    assert {"locality-band", "round-robin", "random", "power-of-two-choices"} <= set(names)
    assert all(policy.description and policy.distribution for policy in listed.policies)
    (mine,) = [active for active in listed.active if active.model == fleet]
    assert (mine.name, mine.parameters["tau"]) == ("locality-band", "0.1")
    put = policy_pb2.SetPolicyRequest(model=fleet, name="round-robin")
    assert client.policy.SetPolicy(put).active.name == "round-robin"
    order = [client.route(fleet, f"r{number}").worker_id for number in range(4)]
    assert sorted(order) == ["w0", "w1", "w2", "w3"]
    assert client.route(fleet, "r9").policy == "round-robin"


@pytest.mark.parametrize(
    ("name", "parameters", "field", "expected"),
    [
        ("locality-bond", {}, "name", "one of"),
        ("", {}, "name", "one of"),
        ("locality-band", {"tau": "3"}, "parameters.tau", "a number, 0 to 2"),
        ("locality-band", {"tau": "nan"}, "parameters.tau", "a number, 0 to 2"),
        ("locality-band", {"tao": "0.1"}, "parameters.tao", "a parameter of locality-band"),
        ("random", {"seed": "-1"}, "parameters.seed", "an integer, at least 0"),
        ("round-robin", {"load": "x" * 10_000}, "parameters.load", "one of"),
    ],
)
def test_a_wrong_policy_changes_nothing(client, fleet, name, parameters, field, expected):
    with Refused("INVALID_ARGUMENT") as refused:
        client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(model=fleet, name=name, parameters=parameters)
        )
    assert refused.status.field == field
    assert refused.status.expected.startswith(expected)
    assert client.route(fleet, "r", dry_run=True).policy == "locality-band"
