"""The proxy before replicas that prefill what they decode."""

import asyncio

import grpc
import pytest
from daemon import Daemon, running_daemon
from eldr.v1.policy_pb2 import SetPolicyRequest
from eldr.v1.policy_pb2_grpc import PolicyServiceStub
from eldr_client.aio import RouterClient
from eldr_vllm.proxy.cli import read_settings
from eldr_vllm.proxy.kin import Kin, kin_of
from scripted_engine import MODEL, Engine, Rig, eventually, running_rig
from test_proxy_daemon import booked, counts_of, fit, health, routed_rig


@pytest.fixture(scope="module")
def daemon():
    with running_daemon() as daemon:
        yield daemon


def route_by_signature_alone(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.grpc) as channel:
        PolicyServiceStub(channel).SetPolicy(SetPolicyRequest(model=MODEL, name="locality"))


async def turn(daemon: Daemon, rig: Rig, half: int, **body) -> Engine:
    """A request whose engine tells, once it has begun, that it is of this half of the experts."""
    before = {engine.url: len(engine.bodies) for engine in rig.decode}
    for engine in rig.decode:
        engine.gate = asyncio.Event()
    asking = asyncio.create_task(rig.post(**body))

    def asked() -> list[Engine]:
        return [e for e in rig.decode if len(e.bodies) > before[e.url]]

    await eventually(asked)
    (engine,) = asked()
    request_id = engine.bodies[-1]["kv_transfer_params"]["eldr"]["request_id"]
    async with RouterClient(daemon.grpc, timeout=5) as client:
        await client.register_signature(MODEL, request_id, counts_of(half))
    for each in rig.decode:
        each.gate.set()
    answer, _ = await asking
    assert answer.status == 200
    await eventually(lambda: booked(daemon) == 0)
    return engine


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            {"headers": {"X-Session-Id": "a", "X-Tenant-Id": "t"}},
            {"headers": {"X-Session-Id": "b", "X-Tenant-Id": "t"}},
        ),
        ({"prompt_cache_key": "a"}, {"prompt_cache_key": "b"}),
        ({"user": "a"}, {"user": "b"}),
    ],
)
async def test_a_conversation_stays_where_its_experts_are(daemon, first, second):
    async with routed_rig(daemon, without_prefill_workers=True, prefills=0) as rig:
        fit(daemon)
        route_by_signature_alone(daemon)
        name = str(first)  # of this case alone
        first, second = ({**turn_of, "prompt": name} for turn_of in (first, second))
        await turn(daemon, rig, 0, **first)
        await turn(daemon, rig, 1, **second)
        homes = {str(each): set() for each in (first, second)}
        for _ in range(3):
            for half, each in enumerate((first, second)):
                homes[str(each)].add((await turn(daemon, rig, half, **each)).url)
        assert [len(urls) for urls in homes.values()] == [1, 1]
        assert len(set.union(*homes.values())) == 2


async def test_a_request_goes_to_one_engine_once(daemon):
    async with routed_rig(daemon, without_prefill_workers=True, prefills=0) as rig:
        assert (await health(rig))["status"] == "ok"
        answer, said = await rig.post(stream=True)
        assert answer.status == 200
        assert "[DONE]" in said
        (body,) = (body for engine in rig.decode for body in engine.bodies)
        assert set(body["kv_transfer_params"]) == {"eldr"}
        assert body["max_tokens"] == 5
        await eventually(lambda: booked(daemon) == 0)


async def test_several_sequences_are_placed_each(daemon):
    async with routed_rig(daemon, without_prefill_workers=True, prefills=0) as rig:
        answer, said = await rig.post(prompt=["a", "b"], n=2)
        assert answer.status == 200
        assert len(said["choices"]) == 4
        ids = [b["kv_transfer_params"]["eldr"]["request_id"] for e in rig.decode for b in e.bodies]
        assert len(set(ids)) == 4


async def test_another_replica_serves_what_one_fails(daemon):
    async with routed_rig(daemon, without_prefill_workers=True, prefills=0) as rig:
        rig.decode[0].fault = rig.decode[1].fault = 500
        rig.decode[1].faults_left = rig.decode[0].faults_left = 1
        answer, _ = await rig.post(headers={"X-Session-Id": "fails"})
        assert answer.status == 200
        await eventually(lambda: booked(daemon) == 0)


async def test_without_a_daemon_the_replicas_take_turns():
    async with running_rig(prefill=(), without_prefill_workers=True) as rig:
        for _ in range(4):
            answer, _ = await rig.post()
            assert answer.status == 200
        assert [len(engine.bodies) for engine in rig.decode] == [2, 2]
        bodies = [body for engine in rig.decode for body in engine.bodies]
        assert not [body for body in bodies if body.get("kv_transfer_params")]


@pytest.mark.parametrize(
    ("headers", "body", "session"),
    [
        ({"X-Session-Id": "s"}, {"prompt_cache_key": "k", "user": "u"}, "s"),
        ({}, {"prompt_cache_key": "k", "user": "u"}, "k"),
        ({}, {"prompt_cache_key": 7, "user": "u"}, "u"),
        ({}, {"user": {"not": "a name"}}, ""),
    ],
)
def test_what_names_a_conversation(headers, body, session):
    assert kin_of(headers, body, "X-Tenant-Id") == Kin(session, "")


@pytest.mark.parametrize("name", ["x" * 257, "ä" * 200, "a\x1bb", "\ud800"])
def test_a_name_that_the_daemon_would_refuse_is_told_from_others_all_the_same(name):
    kin = kin_of({"Org": name}, {"user": name}, "Org")
    other = kin_of({}, {"user": name + "y"}, "Org")
    assert len(kin.tenant) == len(kin.session) == 64
    assert kin.session == kin.tenant != other.session
    assert kin.labels == {"tenant": kin.tenant}


def test_replicas_take_no_prefills_of_others(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--without-prefill-workers", "--accept-prefilled"], {})
    assert "excludes --prefill and --accept-prefilled" in capsys.readouterr().err
    settings = read_settings(["--without-prefill-workers", "--tenant-header", "X-Org"], {})
    assert (settings.without_prefill_workers, settings.tenant_header) == (True, "X-Org")
