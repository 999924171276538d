"""Ray Serve's real replicas and controller, the real daemon, the request router between them."""

import base64
import itertools
import time
from concurrent import futures

import numpy as np
import pytest
from eldr_client import Counts, RouterClient
from eldr_client.counts import as_message

MODEL, APP = "tiny", "light"
LIKE_A, LIKE_B = np.array([[4, 4, 0, 0], [8, 0, 0, 0]]), np.array([[0, 0, 4, 4], [0, 0, 0, 8]])
TIMEOUT = 0.5  # seconds that placing may take, on a busy machine
numbers = itertools.count()


class Light:
    """An application of light decode replicas, and the daemon beside it."""

    def __init__(self, fleet):
        self.fleet, self.handle = fleet, None

    def deploy(self, replicas, capacity=16, **options):
        from ray import serve
        from ray.serve.config import RequestRouterConfig
        from ray_replicas import Decode

        target = self.fleet.target
        router = RequestRouterConfig(
            request_router_class="eldr_ray.router:EldrRequestRouter",
            request_router_kwargs={"router": target, "timeout": TIMEOUT, "release_after": 0.1},
        )
        decode = Decode.options(
            num_replicas=replicas,
            request_router_config=router,
            ray_actor_options={"num_cpus": 0.1},
            graceful_shutdown_timeout_s=2,
            health_check_period_s=1,
            **options,
        )
        self.handle = serve.run(decode.bind(target, capacity), name=APP, route_prefix=None)
        self.fleet.await_workers(replicas)

    def ask(self, kind=None, seconds=0.0, **said):
        """What the replica answers; a `kind` makes it a request that comes out of a prefill."""
        return self.send(kind, seconds, **said).result(timeout_s=30)

    def send(self, kind=None, seconds=0.0, **said):
        params = {"remote_host": "prefill-0"}
        if kind is not None:
            encoded = base64.b64encode(message(kind).SerializeToString()).decode()
            name = f"request-{next(numbers)}"
            params["eldr"] = {"model": MODEL, "request_id": name, "counts": encoded, **said}
        return self.handle.remote({"kv_transfer_params": params, "seconds": seconds})

    def fit(self):
        """A slot for each kind of request; and similarity decides, also between two workers."""
        self.fleet.fit([message(LIKE_A), message(LIKE_B)])
        self.fleet.set_policy("locality-band", min_band="1")


def message(kind):
    return as_message(Counts(kind, 1), 1)


@pytest.fixture(scope="module")
def light(cluster, tmp_path_factory):
    from ray import serve
    from ray_fleet import Fleet

    light = Light(Fleet(tmp_path_factory.mktemp("light")))
    try:
        light.deploy(2)
        yield light
    finally:
        serve.delete(APP)
        light.fleet.daemon.kill()


def test_the_replica_that_the_daemon_names_gets_the_request(light):
    light.fit()
    a, b = ([light.ask(kind) for _ in range(12)] for kind in (LIKE_A, LIKE_B))
    assert len({each["worker"] for each in a}) == len({each["worker"] for each in b}) == 1
    assert a[0]["worker"] != b[0]["worker"]
    assert {a[0]["worker"], b[0]["worker"]} == light.fleet.workers().keys()
    light.fleet.await_no_bookings()


def test_the_decode_engine_is_told_its_booking(light):
    answer = light.send(LIKE_A, seconds=1.0)
    from rig import wait

    wait(lambda: light.fleet.total("booked_sequences") == 1, 30)
    answer = answer.result(timeout_s=10)
    assert answer["eldr"].keys() == {"request_id", "attempt", "lease_id"}
    light.fleet.await_no_bookings()
    with RouterClient(light.fleet.target, timeout=5.0) as client:
        request_id = answer["eldr"]["request_id"]
        assert client.release(MODEL, request_id).value == "ALREADY_RELEASED"


def test_requests_without_a_prefill_go_by_load(light):
    answers = [light.ask() for _ in range(20)]
    assert {each["worker"] for each in answers} == light.fleet.workers().keys()
    assert not any(each["eldr"] for each in answers)


WRONG = (
    {"model": ""},
    {"request_id": 7},
    {"request_id": "\ud800"},
    {"counts": "no base64"},
    {"placement": "none"},
    {"placement": {"worker_id": [], "lease_id": 1}},
)


@pytest.mark.parametrize("said", WRONG)
def test_what_a_prefill_says_wrongly_fails_no_request(light, said):
    assert light.ask(LIKE_A, **said)["worker"] in light.fleet.workers()
    light.fleet.await_no_bookings()


def test_counts_of_another_model_fail_no_request(light):
    assert light.ask(np.ones((3, 4), int))["eldr"] is None
    light.fleet.await_no_bookings()


def test_calls_for_a_multiplexed_model_go_where_ray_has_it(light):
    handle, light.handle = light.handle, light.handle.options(multiplexed_model_id="adapter")
    try:
        assert light.ask(LIKE_A)["eldr"] is None
    finally:
        light.handle = handle


def placed(worker, lease_id):
    """As a prefill engine that placed the request itself says it."""
    where = {"worker_id": worker, "url": f"http://{worker}", "dp_rank": 0}
    return {**where, "lease_id": lease_id, "reason": "LOCALITY_BAND"}


def test_the_prefills_own_placement_is_kept(light):
    with RouterClient(light.fleet.target, timeout=5.0) as client:
        for worker in light.fleet.workers():
            name = f"placed-{worker}"
            placement = client.route(MODEL, name, pinned_worker=worker)
            said = placed(worker, placement.lease_id)
            answer = light.ask(LIKE_A, request_id=name, placement=said)
            assert answer["worker"] == worker
            assert answer["eldr"]["lease_id"] == placement.lease_id
    light.fleet.await_no_bookings()


def test_a_placement_on_a_replica_that_is_gone_is_made_again(light):
    with RouterClient(light.fleet.target, timeout=5.0) as client:
        client.route(MODEL, "moved", pinned_worker=next(iter(light.fleet.workers())))
    said = placed("light#Decode#gone", "x")
    answer = light.ask(LIKE_A, request_id="moved", placement=said)
    assert answer["eldr"]["attempt"] == 1
    light.fleet.await_no_bookings()


@pytest.mark.parametrize("until", ["booked_sequences", "batch_size"])
def test_a_caller_that_goes_ends_its_booking(light, until):
    from rig import wait

    answer = light.send(LIKE_A, seconds=30.0)
    wait(lambda: light.fleet.total(until) == 1, 30)
    answer.cancel()
    light.fleet.await_no_bookings()


def test_full_replicas_are_passed_over(light):
    """Ray's limit is below what the daemon knows as capacity, so that its choice can be full."""
    light.deploy(2, max_ongoing_requests=2)
    light.fit()
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: light.ask(LIKE_A, seconds=0.3), range(12)))
    assert {each["worker"] for each in answers} == light.fleet.workers().keys()
    assert all(each["eldr"] for each in answers)
    light.fleet.await_no_bookings()


def test_requests_for_which_the_daemon_has_no_room_go_by_load(light):
    light.deploy(2, capacity=1)
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: light.ask(LIKE_A, seconds=0.5), range(8)))
    placed = [bool(each["eldr"]) for each in answers]
    assert any(placed)
    assert not all(placed)
    light.fleet.await_no_bookings()


def test_replicas_come_and_go(light):
    import ray

    light.deploy(3)
    assert {light.ask(kind)["worker"] for kind in (LIKE_A, LIKE_B)} <= light.fleet.workers().keys()
    before = light.fleet.workers().keys()
    victim = light.ask(LIKE_A)["worker"]
    ray.kill(ray.get_actor(f"SERVE_REPLICA::{victim}", namespace="serve"))
    answers = [light.ask(LIKE_A) for _ in range(20)]
    assert victim not in {each["worker"] for each in answers}
    from rig import wait

    wait(lambda: len(light.fleet.workers().keys() - {victim}) == 3, 30)
    light.fleet.await_workers(3)
    assert light.fleet.workers().keys() - before  # another id: another worker
    light.deploy(1)
    (left,) = light.fleet.workers()
    assert {light.ask(kind)["worker"] for kind in (LIKE_A, LIKE_B)} == {left}
    light.fleet.await_no_bookings()


def test_a_daemon_that_is_silent_holds_no_request_up(light):
    from rig import wait

    light.fleet.freeze()
    try:
        begun = time.monotonic()
        answers = [light.ask(LIKE_A) for _ in range(20)]
        assert time.monotonic() - begun < 10 * TIMEOUT  # not one for each
        assert not any(each["eldr"] for each in answers)
    finally:
        light.fleet.thaw()
    wait(lambda: light.ask(LIKE_A)["eldr"], 15)  # it is asked again now and then
    light.fleet.await_no_bookings()  # nor is there one whose answer came too late


def test_requests_go_on_without_the_daemon(light):
    from rig import wait

    light.deploy(2)
    light.fleet.daemon.kill()
    begun = time.monotonic()
    answers = [light.ask(LIKE_A) for _ in range(30)]
    assert time.monotonic() - begun < 15 * TIMEOUT  # not one for each
    assert len({each["worker"] for each in answers}) == 2
    assert not any(each["eldr"] for each in answers)
    light.fleet.restart()
    light.fleet.await_workers(2)
    wait(lambda: light.ask(LIKE_A)["eldr"], 15)
    light.fit()
    a, b = ({light.ask(kind)["worker"] for _ in range(6)} for kind in (LIKE_A, LIKE_B))
    assert len(a) == len(b) == 1
    assert a != b
    light.fleet.await_no_bookings()
