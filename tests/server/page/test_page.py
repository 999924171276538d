"""The page's paths on a real daemon: who may see it, what it tells, what it can do."""

import base64
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request

import pytest
from busy_and_quiet import BUSY, LAST, ONLY, QUIET, busy_and_quiet
from certificates import issue
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from live_fleet import LiveFleet
from wire import Client, counts, drawn, eventually

from eldr_service.core.decision import Reason
from eldr_service.server.page.view import WHY

ADMIN, ROUTE, OF_M = "admin-0123456789", "route-0123456789", "admin-of-m-0123456789"
TOKENS = f"""
[[tokens]]
name = "admin"
token = "{ADMIN}"
roles = ["admin"]
[[tokens]]
name = "route"
token = "{ROUTE}"
roles = ["route"]
[[tokens]]
name = "of-m"
token = "{OF_M}"
roles = ["admin"]
models = ["m"]
"""
PATHS = "/", "/page/page.js", "/page/state", "/page/events", "/page/policies"


def asked(http, path, *, body=None, host=None, authorization=None, kind="application/json"):
    """The status and the text; of a stream, its first event."""
    headers = {"Content-Type": kind} if body is not None else {}
    if host:
        headers["Host"] = host
    if authorization:
        headers["Authorization"] = authorization
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{http}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            if path.startswith("/page/events"):
                return answer.status, answer.readline().decode().removeprefix("data: ")
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def basic(token):
    return "Basic " + base64.b64encode(f"operator:{token}".encode()).decode()


@pytest.fixture(scope="module")
def live():
    """A daemon with a model whose requests come and go."""
    flags = "--refit-interval", "0.5", "--refit-signatures", "16", "--policy", "marginal-cost"
    with (
        running_daemon(*flags) as daemon,
        LiveFleet(daemon.grpc, [f"w{i}" for i in range(4)], rate=60, decode_s=0.6) as fleet,
    ):
        eventually(lambda: fleet.placed > 40)
        yield daemon


def state(daemon):
    status, text = asked(daemon.http, "/page/state")
    assert status == 200
    return json.loads(text)


def test_the_fleet_and_its_placements(live):
    eventually(lambda: state(live)["models"][0]["partition"] is not None)
    shown = state(live)
    (model,) = shown["models"]
    assert shown["serving"]
    assert (model["name"], model["policy"]["name"]) == ("m", "marginal-cost")
    assert [w["id"] for w in model["workers"]] == ["w0", "w1", "w2", "w3"]
    reporting = [w for w in model["workers"] if w["batch"]]
    assert reporting
    for worker in reporting:
        assert worker["state"] == "READY"
        assert worker["load"] == pytest.approx(worker["booked"] / worker["capacity"])
        assert 4 <= worker["active_experts"] <= 32
        assert worker["tpot_ms"] == pytest.approx(0.6e3 / 29)
    partition = model["partition"]
    assert len(partition["similarity"]) == partition["slots"]
    newest = shown["placements"][0]
    assert newest["worker"] in {"w0", "w1", "w2", "w3"}
    assert newest["request"].startswith("request-")
    assert (newest["why"], newest["signature"]) == ("by the policy", "CALLER")


@pytest.mark.parametrize("path", ["/page/state", "/page/events"])
def test_each_model_has_its_own_newest_placements(path):
    with busy_and_quiet() as (daemon, _):

        def placed(*of):
            query = "?" + urllib.parse.urlencode({"model": of[0]}) if of else ""
            _, text = asked(daemon.http, path + query)
            return [placement["request"] for placement in json.loads(text)["placements"]]

        newest = [f"r{number}" for number in range(299, 239, -1)]
        assert newest[0] == LAST
        assert placed() == placed(BUSY) == newest
        assert placed(QUIET) == [ONLY]
        assert placed("unknown") == []


def test_a_quiet_model_has_its_own_picture_beside_a_busy_one():
    """Although the busy model's placement came a moment before."""
    with busy_and_quiet() as (daemon, client):
        client.fit(QUIET)
        for model in BUSY, QUIET:
            client.route(model, "with-a-signature", counts=counts(drawn(0)))
        _, quiet = state(daemon)["models"]
        assert sum(quiet["partition"]["traffic"]["w0"]) == 1


def test_every_reason_has_words():
    assert WHY.keys() == set(Reason)


def test_events_go_on_and_the_load_alone_is_compared(live):
    request = urllib.request.Request(f"http://{live.http}/page/events")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for _ in range(30):
            event = json.loads(answer.readline().decode().removeprefix("data: "))
            answer.readline()
            by_load = event["models"][0]["by_load"]
            if by_load and by_load["requests"] > 300:
                break
    assert by_load["requests"] > 300
    # Requests of four kinds that are kept apart use fewer experts than mixed ones.
    assert by_load["active_experts"] < by_load["active_experts_by_load"]


def test_traffic_by_cluster(live):
    def shares():
        partition = state(live)["models"][0]["partition"]
        return partition and partition["traffic"]

    eventually(lambda: shares())
    assert sum(map(sum, shares().values())) == pytest.approx(1, abs=0.01)


def test_a_policy_is_switched_and_a_worker_drained():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "w0")
        client.register("m", "w1")
        wanted = {"model": "m", "policy": "locality-band:tau=0.2"}
        assert asked(daemon.http, "/page/policy", body=wanted) == (204, "")
        policy = state(daemon)["models"][0]["policy"]
        assert (policy["name"], policy["parameters"]["tau"]) == ("locality-band", "0.2")
        wanted = {"model": "m", "worker": "w1"}
        assert asked(daemon.http, "/page/drain", body=wanted) == (204, "")
        assert client.workers("m")["w1"].state == fleet_pb2.WORKER_STATE_DRAINING
        assert [w["state"] for w in state(daemon)["models"][0]["workers"]] == ["READY", "DRAINING"]


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/page/policy", {"model": "m", "policy": "locality-bend"}, 400, "locality-band"),
        ("/page/policy", {"model": "m", "policy": "locality-band:tau=x"}, 400, "tau"),
        ("/page/policy", {"model": "n", "policy": "random"}, 404, "n"),
        ("/page/policy", {"model": "m"}, 400, "policy"),
        ("/page/policy", {"model": "m", "policy": 3}, 400, "texts"),
        ("/page/policy", b"{", 400, "JSON"),
        ("/page/policy", b"\xff", 400, "JSON"),
        ("/page/policy", b" " * 5_000, 413, ""),
        ("/page/drain", {"model": "m", "worker": "w9"}, 404, "w9"),
        ("/page/drain", ["m", "w0"], 400, "worker"),
    ],
)
def test_what_is_wrong_is_said(live, path, body, status, word):
    answered, text = asked(live.http, path, body=body)
    assert answered == status
    assert word in text
    assert state(live)["models"][0]["policy"]["name"] == "marginal-cost"


def test_a_form_of_another_site_does_nothing(live):
    body = json.dumps({"model": "m", "policy": "random"}).encode()
    status, _ = asked(live.http, "/page/policy", body=body, kind="text/plain")
    assert status == 415
    assert state(live)["models"][0]["policy"]["name"] == "marginal-cost"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example"])
def test_another_sites_name_for_this_machine_is_refused(live, host):
    assert {asked(live.http, path, host=host)[0] for path in PATHS} == {403}
    assert asked(live.http, "/metrics", host=host)[0] == 200


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80"])
def test_names_of_this_machine(live, host):
    assert asked(live.http, "/page/policies", host=host)[0] == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A daemon with tokens that knows the models m and n."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(TOKENS)
    file.chmod(0o600)
    with running_daemon("--tokens", str(file)) as daemon, Client(daemon.grpc) as client:
        for model in "m", "n":
            client.fleet.RegisterWorker(
                fleet_pb2.RegisterWorkerRequest(model=model, worker_id="w", url="http://w"),
                metadata=[("authorization", f"Bearer {ADMIN}")],
            )
        yield daemon


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (None, 401),
        ("Bearer wrong-0123456789", 401),
        ("Basic !", 401),
        (basic("wrong-0123456789"), 401),
        (f"Bearer {ROUTE}", 403),
        (basic(ROUTE), 403),
        (f"Bearer {ADMIN}", 200),
        (basic(ADMIN), 200),
    ],
)
def test_with_tokens_nothing_without_the_role_admin(guarded, authorization, expected):
    for path in PATHS:
        status, text = asked(guarded.http, path, authorization=authorization)
        assert status == expected, path
        assert ADMIN not in text
    wanted = {"model": "unknown", "worker": "w"}
    status, _ = asked(guarded.http, "/page/drain", body=wanted, authorization=authorization)
    assert status == (404 if expected == 200 else expected)
    assert asked(guarded.http, "/healthz")[0] == 200


def test_a_browser_is_told_to_ask_for_the_token(guarded):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{guarded.http}/", timeout=10)
    assert refused.value.headers["WWW-Authenticate"].startswith("Basic realm=")


def test_a_token_for_some_models_sees_their_newest_placements(guarded):
    metadata = [("authorization", f"Bearer {ADMIN}")]
    with Client(guarded.grpc) as client:
        for model, number in ("m", 1), ("n", 70):
            for each in range(number):
                request = router_pb2.RouteRequest(model=model, request_id=f"of-{model}-{each}")
                client.router.Route(request, metadata=metadata)
    for query in "", "?model=m":
        path = f"/page/state{query}"
        shown = json.loads(asked(guarded.http, path, authorization=basic(OF_M))[1])
        assert [placement["request"] for placement in shown["placements"]] == ["of-m-0"]
    path = "/page/state?model=n"
    assert not json.loads(asked(guarded.http, path, authorization=basic(OF_M))[1])["placements"]


def test_a_token_for_some_models_sees_and_touches_those_alone(guarded):
    def seen(path):
        return json.loads(asked(guarded.http, path, authorization=basic(OF_M))[1])

    for path in "/page/state", "/page/events":
        assert [model["name"] for model in seen(path)["models"]] == ["m"]
    for model, status in {"m": 204, "n": 403}.items():
        body = {"model": model, "worker": "w"}
        answered, _ = asked(guarded.http, "/page/drain", body=body, authorization=basic(OF_M))
        assert answered == status


def own_address():
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        return probe.getsockname()[0]


@pytest.mark.skipif(own_address() is None, reason="needs an address that is not loopback")
@pytest.mark.parametrize(("flags", "status"), [((), 403), (("--insecure",), 200)])
def test_from_another_machine_only_where_that_is_said(flags, status):
    with running_daemon("--http", "0.0.0.0:0", *flags) as daemon:
        http = f"{own_address()}:{daemon.http.rpartition(':')[2]}"
        assert {asked(http, path)[0] for path in PATHS} == {status}
        assert asked(http, "/metrics")[0] == 200


def test_with_client_certificates_alone_no_browser_can_say_who_it_is(tmp_path):
    authority = issue("authority")
    certificate, key = issue("server", authority).write(tmp_path, "server")
    known, _ = authority.write(tmp_path, "authority")
    flags = "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", known
    with running_daemon(*map(str, flags)) as daemon:
        status, text = asked(daemon.http, "/")
        assert (status, "--tokens" in text) == (403, True)


def test_nothing_inline_and_nothing_from_elsewhere(live):
    with urllib.request.urlopen(f"http://{live.http}/", timeout=10) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", html)
    assert asked(live.http, "/page/..%2Fview.py")[0] == 404
    assert asked(live.http, "/page/nothing")[0] == 404


def test_only_so_many_viewers(live):
    opened = [urllib.request.urlopen(f"http://{live.http}/page/events") for _ in range(64)]
    try:
        assert asked(live.http, "/page/events")[0] == 503
    finally:
        for each in opened:
            each.close()
    eventually(lambda: asked(live.http, "/page/events")[0] == 200)


def test_viewers_do_not_hold_up_the_end():
    with running_daemon() as daemon, socket.socket() as reads_nothing:
        reads_nothing.connect(("127.0.0.1", int(daemon.http.rpartition(":")[2])))
        reads_nothing.sendall(b"GET /page/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with urllib.request.urlopen(f"http://{daemon.http}/page/events") as answer:
            answer.readline()
            daemon.process.terminate()
            answer.read()  # which raises where the stream is cut off
        assert daemon.process.wait(10) == 0
