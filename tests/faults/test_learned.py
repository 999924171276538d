"""What was learned from traffic is there after a restart."""

import re
import urllib.request

import pytest
from daemon import running_daemon
from eldr.v1 import fleet_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import GEOMETRY, Client, counts, drawn

FLAGS = ("--policy", "marginal-cost", "--refit", "manual", "--log-format", "json")


def predicted(client) -> list[float]:
    scores = client.route("m", "x", counts=counts(drawn(2, 9)), dry_run=True).scores
    return [score.predicted_active_experts for score in scores]


def window(daemon) -> int:
    page = urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10).read().decode()
    return int(float(re.search(r'eldr_window_signatures{model="m"} (\S+)', page)[1]))


def teach(client, life) -> None:
    """Requests whose decodes use other experts than their prefills."""
    for number in range(40):
        client.route("m", f"r{number}", counts=counts(drawn(number % 4, number)))
        decode = counts(drawn((number + 1) % 4, number))
        request = router_pb2.ReleaseRequest(
            model="m", request_id=f"r{number}", decode_counts=decode, output_tokens=30
        )
        client.router.Release(request)
        report = fleet_pb2.ReportLoadRequest(
            model="m", worker_id="a", incarnation=life, report_number=number + 1,
            active_experts=4.0 + number % 3, batch_size=2 + number % 5,
            step_time=Duration(nanos=1_000_000 * (8 + number % 3)),
        )  # fmt: skip
        assert client.fleet.ReportLoad(report).accepted


def test_costs_predictions_and_the_window_go_on(tmp_path):
    flags = ("--state", str(tmp_path), *FLAGS)
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        life = client.register("m", "a", geometry=GEOMETRY)
        client.register("m", "b", geometry=GEOMETRY)
        client.fit("m")
        untaught = predicted(client)
        teach(client, life)
        before, kept = predicted(client), window(daemon)
        assert kept == 40
        assert before != pytest.approx(untaught, rel=0.02)
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        assert predicted(client) == pytest.approx(before)
        assert window(daemon) == kept
        client.route("m", "one more", counts=counts(drawn(0)))
        client.release("m", "one more")
    with running_daemon(*flags) as daemon, Client(daemon.grpc) as client:
        assert window(daemon) == kept + 1
        assert not [line for line in daemon.logs if line["level"] in ("error", "warning")]


def test_another_policy_begins_anew(tmp_path):
    flags = ("--state", str(tmp_path))
    with running_daemon(*flags, *FLAGS) as daemon, Client(daemon.grpc) as client:
        teach(client, client.register("m", "a", geometry=GEOMETRY))
    with running_daemon(*flags, "--log-format", "json") as daemon, Client(daemon.grpc) as client:
        assert client.route("m", "after", counts=counts(drawn(0))).policy == "locality-band"
        assert not [line for line in daemon.logs if line["level"] == "error"]
