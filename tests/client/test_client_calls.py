import dataclasses
import datetime
import threading

import numpy as np
import pytest
from eldr.v1 import fleet_pb2, router_pb2
from eldr_client import (
    Counts,
    Placement,
    PlacementReason,
    ReleaseResult,
    RouterClient,
    SignatureSource,
    WorkerTarget,
    aio,
)
from wire import eventually

COUNTS = np.array([[3, 1, 0, 0], [0, 2, 2, 0]])


def test_route_says_everything_and_reads_everything(router):
    with RouterClient(router.target, timeout=5, top_k=2, token="secret") as client:
        placement = client.route(
            "m",
            "r",
            COUNTS,
            attempt=2,
            wait_for_signature=0.5,
            num_sequences=3,
            prompt_tokens=4,
            expected_output_tokens=5,
            prefill_worker="p",
            candidate_workers=["w0", "w1"],
            exclude_workers=["w2"],
            worker_selector={"zone": "a"},
            pinned_worker="w0",
            explain=True,
            lease_ttl=datetime.timedelta(minutes=1),
            labels={"domain": "code"},
            max_wait=0.25,
            priority=-3,
            session="conversation",
            prefix_hashes=[2**64 - 1, 7],
            cached_tokens={"w0": 64},
            prefix_block_tokens=32,
            movable=True,
        )
    (request,) = router.requests("Route")
    assert request.counts == Counts(COUNTS, 2).to_proto()
    assert request.wait_for_signature.ToTimedelta() == datetime.timedelta(seconds=0.5)
    assert request.max_wait.ToTimedelta() == datetime.timedelta(seconds=0.25)
    assert request.priority == -3
    assert (request.session, [*request.prefix_hashes]) == ("conversation", [2**64 - 1, 7])
    assert (request.cached_tokens, request.prefix_block_tokens) == ({"w0": 64}, 32)
    assert request.lease_ttl.seconds == 60
    untouched = {field.name for field in request.DESCRIPTOR.fields} - {
        field.name for field, _ in request.ListFields()
    }
    assert untouched == {"dry_run"}
    assert router.metadata[0]["authorization"] == "Bearer secret"

    assert (placement.worker_id, placement.url, placement.dp_rank) == ("w0", "http://w0", 3)
    assert placement.alternates == (WorkerTarget("w1", "http://w1"),)
    assert placement.reason is PlacementReason.LOCALITY_BAND
    assert placement.reason == "LOCALITY_BAND"
    assert (placement.policy, placement.partition_version) == ("locality-band", 7)
    assert (placement.similarity, placement.coverage, placement.repeated) == (0.5, 1.0, False)
    left = placement.lease_expires_at - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=14) < left <= datetime.timedelta(minutes=15)
    with pytest.raises(AttributeError):
        placement.worker_id = "w1"


def test_a_misspelt_keyword_is_a_type_error(dead_target):
    with RouterClient(dead_target) as client, pytest.raises(TypeError, match="candidates"):
        client.route("m", "r", candidates=["w0"])


def test_a_placement_has_all_that_the_contract_has():
    message = router_pb2.Placement(
        worker_id="w0",
        unsaved=True,
        rule="least cost",
        scores=[{"worker_id": "w0", "cost": 0.5, "stale": True, "cached_tokens": 64}, {}],
    )
    message.scores[0].report_age.FromMilliseconds(1_500)
    placement = Placement.from_proto(message)
    assert (placement.unsaved, placement.rule) == (True, "least cost")
    first, second = placement.scores
    assert (first.cost, first.report_age, first.stale, first.cached_tokens) == (0.5, 1.5, True, 64)
    assert (second.cost, second.report_age, second.stale, second.cached_tokens) == (
        None, None, False, 0,
    )  # fmt: skip

    def names(of):
        return [each.name for each in dataclasses.fields(of)]

    differently = {"lease_expire_time", "lease_remaining"}  # as lease_expires_at, by this clock
    assert {f.name for f in message.DESCRIPTOR.fields} - differently <= set(names(placement))
    assert {f.name for f in message.scores[0].DESCRIPTOR.fields} == set(names(first))


def test_the_reasons_are_the_contracts():
    names = router_pb2.PlacementReason.DESCRIPTOR.values_by_name
    names = {name.removeprefix("PLACEMENT_REASON_") for name in names}
    assert set(PlacementReason) == names


def test_the_sources_of_signatures_are_the_contracts(router):
    names = router_pb2.SignatureSource.DESCRIPTOR.values_by_name
    names = {name.removeprefix("SIGNATURE_SOURCE_") for name in names}
    assert set(SignatureSource) == names
    router.script["Route"] = lambda request, context: router_pb2.RouteResponse(
        placement={"worker_id": "w0", "signature_source": int(request.request_id)}
    )
    with RouterClient(router.target, timeout=5) as client:
        sources = [client.route("m", str(number)).signature_source for number in (3, 5, 99)]
    assert sources == [
        SignatureSource.SESSION,
        SignatureSource.TENANT,
        SignatureSource.UNSPECIFIED,  # newer than this client
    ]


async def test_signature_release_and_renewal(router):
    with RouterClient(router.target, timeout=5) as client:
        held = client.register_signature("m", "r", COUNTS, top_k=2, last=False, sequence=1)
        assert (held.tokens_held, held.complete) == (2, False)
        client.route("m", "r")
        assert [lease.request_id for lease in client.renew("m", [("r", 0), ("x", 0)])] == ["x"]
        assert client.release("m", "r", output_tokens=4) is ReleaseResult.RELEASED
        assert client.release("m", "r", outcome="FAILED") is ReleaseResult.UNKNOWN
    async with aio.RouterClient(router.target, timeout=5) as client:
        held = await client.register_signature("m", "s", COUNTS, top_k=2, unknown_tokens=3)
        assert held.complete
        await client.route("m", "s")
        assert await client.renew("m", [("s", 0, "lease-s-0")]) == []
        assert await client.release("m", "s") is ReleaseResult.RELEASED
    assert [r.counts.unknown_tokens for r in router.requests("RegisterSignature")] == [0, 3]
    assert [r.outcome for r in router.requests("Release")] == [1, 2, 1]


def test_64_threads_share_a_client(router):
    each, failed = 5, []

    with RouterClient(router.target, timeout=20) as client:

        def work(thread: int) -> None:
            try:
                for turn in range(each):
                    name = f"{thread}-{turn}"
                    with client.place("m", name, COUNTS, top_k=2) as placement:
                        assert placement.lease_id == f"lease-{name}-0"
                        placement.output_tokens = thread + 1
            except Exception as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert not router.held
    releases = router.requests("Release")
    assert len(releases) == 64 * each
    assert all(r.lease_id == f"lease-{r.request_id}-0" for r in releases)
    assert all(r.output_tokens == int(r.request_id.split("-")[0]) + 1 for r in releases)


def worker(worker_id: str, **fields) -> fleet_pb2.WatchWorkersResponse:
    fields = {"state": "WORKER_STATE_READY", **fields}
    return fleet_pb2.WatchWorkersResponse(
        worker=fleet_pb2.Worker(model="m", worker_id=worker_id, url=f"http://{worker_id}", **fields)
    )


@pytest.fixture
def watched_fleet(router):
    router.updates = [
        worker("p", role="WORKER_ROLE_PREFILL", group="g"),
        worker("near", group="g", labels={"zone": "a"}),
        worker("far", group="h", labels={"zone": "b"}),
        worker("leaving", state="WORKER_STATE_DRAINING"),
        fleet_pb2.WatchWorkersResponse(synchronized=True),
    ]
    return router


def test_a_watch_knows_states_labels_and_groups(watched_fleet):
    given = [("leaving", "http://leaving"), ("given", "http://given")]
    with RouterClient(watched_fleet.target, watch=True, fallback_workers=given) as client:
        pool = client._conversation.pool

        def ids(**fields) -> set[str]:
            placement = pool.place(router_pb2.RouteRequest(model="m", **fields))
            return {target.worker_id for target in placement.targets} if placement else set()

        eventually(lambda: ids() == {"near", "far", "given"})
        assert ids(prefill_worker="p") == {"near", "given"}
        assert ids(worker_selector={"zone": "b"}) == {"far", "given"}
        assert ids(exclude_workers=["near", "given"]) == {"far"}
        assert ids(candidate_workers=["near", "unheard-of"]) == {"near"}
        assert ids(pinned_worker="far") == {"far"}
        assert ids(pinned_worker="leaving") == set()


async def test_a_watch_in_asyncio(watched_fleet):
    async with aio.RouterClient(watched_fleet.target, timeout=5, watch=True) as client:
        await client.route("n", "connects")
        pool = client._conversation.pool
        while pool.place(router_pb2.RouteRequest(model="m")) is None:
            await client.renew("m", [])
