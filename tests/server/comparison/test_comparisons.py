"""The comparison with load alone in the metrics of a real daemon whose requests come and go."""

import json
import urllib.request

import pytest
from daemon import running_daemon
from live_fleet import LiveFleet
from prometheus_client.parser import text_string_to_metric_families
from wire import Client, counts, drawn, eventually


def scraped(daemon):
    """Samples by name and labels."""
    with urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }


FLAGS = "--policy", "marginal-cost", "--refit-interval", "0.5", "--refit-signatures", "16"


def test_who_scrapes_learns_the_gain_and_whether_it_is_true():
    with (
        running_daemon(*FLAGS) as daemon,
        LiveFleet(daemon.grpc, [f"w{i}" for i in range(4)], rate=60, decode_s=0.6),
    ):
        eventually(lambda: ("eldr_estimated_step_time_ratio", "m") in scraped(daemon))
        eventually(lambda: scraped(daemon).get(("eldr_active_experts_reports_total", "m"), 0) > 40)
        found = scraped(daemon)
    ours = found["eldr_estimated_active_experts", "m", "policy"]
    by_load = found["eldr_estimated_active_experts", "m", "load"]
    assert 4 <= ours <= by_load <= 32
    assert 0.5 < found["eldr_estimated_step_time_ratio", "m"] < 1.1
    predicted, reported = (
        found[f"eldr_active_experts_{n}_total", "m"] for n in ("predicted", "reported")
    )
    assert predicted / reported == pytest.approx(1, abs=0.25)


def test_nothing_is_compared_that_is_off():
    with (
        running_daemon("--load-comparison", "off") as daemon,
        LiveFleet(daemon.grpc, ["w0", "w1"], rate=60, decode_s=0.2) as fleet,
    ):
        scraped(daemon)
        eventually(lambda: fleet.placed > 60)
        found = scraped(daemon)
        with urllib.request.urlopen(f"http://{daemon.http}/page/state", timeout=10) as answer:
            [model] = json.load(answer)["models"]
    assert (model["compares"], model["by_load"]) == (False, None)
    assert not [key for key in found if key[0].startswith(("eldr_estimated", "eldr_active"))]


def test_strangers_make_no_series_without_end():
    with running_daemon("--metrics-workers", "2") as daemon, Client(daemon.grpc) as client:
        client.register("m", "stranger-0-0")
        client.register("m", "stranger-0-1")
        client.register("m", "other")
        sizes = []
        for turn in range(2):
            for number in range(2, 20):
                client.register("m", f"stranger-{turn}-{number}")
                client.route("m", f"r-{turn}-{number}", counts=counts(drawn(0)))
            found = scraped(daemon)
            named = {key[-1] for key in found if key[0].startswith("eldr_worker_")}
            assert named == {"stranger-0-0", "stranger-0-1", "other"}
            of_workers = [
                key for key in found if key[0].startswith(("eldr_worker_", "eldr_placements"))
            ]
            sizes.append(len(of_workers))
            booked = [v for key, v in found.items() if key[0] == "eldr_worker_booked_sequences"]
            assert sum(booked) == 18 * (turn + 1)
        assert sizes[0] == sizes[1]
