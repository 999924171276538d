"""Many clients at once: nothing is lost, nothing is counted twice, loads end at zero."""

import asyncio
import itertools

import pytest
from daemon import running_daemon
from eldr.v1 import partition_pb2, policy_pb2, router_pb2
from wire import Client, counts, drawn

SIGNATURES = [counts(drawn(kind, seed)) for kind in range(4) for seed in range(5)]
POLICIES = ("locality-band", "round-robin", "random", "join-shortest-queue", "locality",
            "power-of-two-choices")  # fmt: skip


@pytest.fixture
async def clients(daemon):
    """64 asynchronous clients, each with a connection of its own."""
    opened = [Client(daemon.grpc, asynchronous=True) for _ in range(64)]
    yield opened
    await asyncio.gather(*(client.channel.close() for client in opened))


async def place_and_release(client, model, request_id, **fields) -> router_pb2.Placement:
    request = router_pb2.RouteRequest(model=model, request_id=request_id, **fields)
    placement = (await client.router.Route(request)).placement
    release = router_pb2.ReleaseRequest(
        model=model, request_id=request_id, lease_id=placement.lease_id
    )
    answer = await client.router.Release(release)
    assert answer.result == router_pb2.RELEASE_RESULT_RELEASED
    return placement


async def share(clients, jobs, work):
    """Each client does one job after another until none is left; returns the results."""
    jobs, results = iter(jobs), []

    async def run(client):
        results.extend([await work(client, job) for job in jobs])

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(run(client))
    return results


async def test_a_thousand_routes_from_64_clients(clients, client, fleet):
    def work(one, number):
        signature = SIGNATURES[number % len(SIGNATURES)]
        return place_and_release(one, fleet, f"r{number}", counts=signature)

    placements = await share(clients, range(1_000), work)
    assert len({placement.lease_id for placement in placements}) == 1_000
    workers = client.workers(fleet).values()
    assert [(w.booked_sequences, w.load) for w in workers] == [(0, 0.0)] * 4


async def test_several_models_at_once(clients, client, model):
    models = [f"{model}-{number}" for number in range(8)]
    for number, name in enumerate(models):
        for worker in range(number + 1):
            client.register(name, f"w{worker}")
        client.fit(name, kinds=min(4, number + 1))

    def work(one, number):
        return place_and_release(one, models[number % 8], "the-same-id" + str(number // 8),
                                 counts=SIGNATURES[number % 20])  # fmt: skip

    placements = await share(clients, range(400), work)
    assert len(placements) == 400
    assert [client.booked(name) for name in models] == [0] * 8


async def test_held_at_once_every_sequence_is_counted_once(clients, client, fleet):
    async def place(one, number):
        request = router_pb2.RouteRequest(
            model=fleet, request_id=f"r{number // 2}", num_sequences=3,
            counts=SIGNATURES[number // 2 % 20],
        )  # fmt: skip
        return (await one.router.Route(request)).placement  # each id is sent twice

    placements = await share(clients, range(400), place)
    assert len({placement.lease_id for placement in placements}) == 200
    assert sum(placement.repeated for placement in placements) == 200
    assert client.booked(fleet) == 600
    await share(
        clients,
        range(200),
        lambda one, number: one.router.Release(
            router_pb2.ReleaseRequest(model=fleet, request_id=f"r{number}")
        ),
    )
    assert client.booked(fleet) == 0


async def while_routing(clients, fleet, change):
    """Route from 16 clients until `change` is through; returns the placements."""
    changed = asyncio.Event()

    async def work(one, number):
        signature = SIGNATURES[number % len(SIGNATURES)]
        return await place_and_release(one, fleet, f"r{number}", counts=signature)

    routing = asyncio.create_task(
        share(clients[:16], itertools.takewhile(lambda _: not changed.is_set(),
                                                itertools.count()), work)
    )  # fmt: skip
    try:
        await change(clients[-1])
    finally:
        changed.set()
    return await routing


async def test_the_policy_is_switched_while_requests_flow(clients, client, fleet):
    async def switch(one):
        for name in POLICIES * 10:
            await one.policy.SetPolicy(policy_pb2.SetPolicyRequest(model=fleet, name=name))

    placements = await while_routing(clients, fleet, switch)
    assert {placement.policy for placement in placements} >= set(POLICIES) - {"locality-band"}
    assert len({placement.lease_id for placement in placements}) == len(placements)
    workers = client.workers(fleet).values()
    assert [(w.booked_sequences, w.load) for w in workers] == [(0, 0.0)] * 4


async def test_partitions_change_while_requests_flow(clients, client, fleet):
    client.fit(fleet, kinds=2, activate=False)
    activate = partition_pb2.ActivatePartitionRequest(model=fleet, version=2)
    rollback = partition_pb2.RollbackPartitionRequest(model=fleet)

    async def switch(one):
        for _ in range(30):
            await one.partition.ActivatePartition(activate)
            await one.partition.RollbackPartition(rollback)

    placements = await while_routing(clients, fleet, switch)
    assert {placement.partition_version for placement in placements} == {1, 2}
    assert {router_pb2.PlacementReason.Name(p.reason) for p in placements} == {
        "PLACEMENT_REASON_LOCALITY_BAND"
    }
    assert client.booked(fleet) == 0


async def test_a_fit_does_not_hold_up_requests(clients, client, fleet):
    async def fit(one):
        await one.partition.FitPartition(
            partition_pb2.FitPartitionRequest(
                model=fleet, counts=SIGNATURES * 40, num_slots=4, n_init=20, activate=True
            )
        )

    placements = await while_routing(clients, fleet, fit)
    assert len(placements) > 20
    assert client.booked(fleet) == 0


def test_the_same_seed_gives_the_same_placements():
    policies = {"locality-band": {}, "random": {"seed": "7"}, "power-of-two-choices": {}}

    def run(client, policy, parameters):
        for number in range(5):
            client.register(policy, f"w{number}")
        client.fit(policy, kinds=4)
        client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(model=policy, name=policy, parameters=parameters)
        )
        chosen = []
        for number in range(60):
            placement = client.route(policy, f"r{number}", counts=SIGNATURES[number % 20])
            chosen.append((placement.worker_id, placement.similarity))
            if number % 3 == 2:
                client.release(policy, f"r{number - 2}")
        assert len({worker for worker, _ in chosen}) > 1
        return chosen

    runs = []
    for _ in range(2):
        with running_daemon() as daemon, Client(daemon.grpc) as client:
            runs.append([run(client, *policy) for policy in policies.items()])
    assert runs[0] == runs[1]
