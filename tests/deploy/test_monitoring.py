"""The dashboard and the alert rules, by promtool and a Prometheus that scrapes a real daemon."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from daemon import running_daemon
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from live_fleet import LiveFleet
from wire import eventually

from benchmarks.demos.demo_vllm.processes import free_port

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "eldr-rules.yaml").read_text())
TESTS = yaml.safe_load((MONITORING / "eldr-rules-tests.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "eldr-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES += [(each["name"], each["expr"]) for each in DASHBOARD["annotations"]["list"]]
OTHERS = {"up"}  # Prometheus's own

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool: apt install prometheus",
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon whose fleet works and reports; three of four workers capture."""
    flags = "--refit-interval", "0.5", "--refit-signatures", "16", "--policy", "marginal-cost"
    state = "--state", str(tmp_path_factory.mktemp("state"))
    workers = [f"w{i}" for i in range(4)]
    with (
        running_daemon(*flags, *state) as daemon,
        LiveFleet(daemon.grpc, workers, rate=60, decode_s=0.6, capturing=3),
    ):
        eventually(lambda: "eldr_estimated_step_time_ratio{" in scraped(daemon))
        yield daemon


def scraped(daemon):
    with urllib.request.urlopen(f"http://{daemon.http}/metrics", timeout=10) as answer:
        return answer.read().decode()


def names_in(expression):
    """The metrics of an expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b((?:eldr|process|up)\w*)\b", bare))


def test_every_metric_in_them_is_one_of_the_daemons(daemon):
    text = scraped(daemon)
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    there = set(kinds) | OTHERS
    for name, kind in kinds.items():
        if kind == "histogram":
            there |= {name + end for end in ("_bucket", "_sum", "_count")}
    rules = [(name, rule["expr"]) for name, rule in ALERTS.items()]
    for title, expression in QUERIES + rules:
        used = names_in(expression)
        assert used, title
        assert used <= there, title
    variables = [
        v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "model"
    ]
    assert variables == ["label_values(eldr_workers, model)"]


def test_panels_have_their_own_place_and_number():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own


def test_grafana_knows_every_field():
    """What Grafana's types do not know is lost where they read the dashboard and write it again."""
    plugins.register_default_plugins()
    assert not list(lost(DASHBOARD, written_by_grafana(DASHBOARD)))
    misspelt = json.loads(json.dumps(DASHBOARD))
    timeseries = next(panel for panel in misspelt["panels"] if panel["type"] == "timeseries")
    timeseries["options"]["legendd"] = {}
    (path,) = lost(misspelt, written_by_grafana(misspelt))
    assert path.endswith(".options.legendd")


def written_by_grafana(document):
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


def lost(given, kept, path=""):
    """The paths of what is not the same."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key in given.keys() - {"titleFormat"}:  # of Prometheus's annotations alone
            yield from lost(given[key], kept.get(key), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{path}[{number}]")
    elif given != kept:
        yield path


def test_each_alert_is_tested_firing_and_quiet_and_documented():
    docs = (MONITORING.parents[1] / "docs" / "metrics.md").read_text()
    tested = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in TESTS["tests"]
        for case in test["alert_rule_test"]
    ]
    for name in ALERTS:
        assert {(name, True), (name, False)} <= set(tested)
        assert f"`{name}`" in docs


@needs_prometheus
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "eldr-rules.yaml"), ("check", "config", "prometheus.yaml"),
                  ("test", "rules", "eldr-rules-tests.yaml")], ids=" ".join
)  # fmt: skip
def test_promtool_finds_nothing_wrong(arguments):
    done = subprocess.run(
        ["promtool", *arguments], cwd=MONITORING, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(daemon, tmp_path_factory):
    """Asks a real Prometheus that has scraped the daemon, by the configuration in deploy/."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(MONITORING / "eldr-rules.yaml", folder)
    config = (MONITORING / "prometheus.yaml").read_text()
    assert "15s" in config
    assert "127.0.0.1:9464" in config
    config = config.replace("15s", "1s").replace("127.0.0.1:9464", daemon.http)
    (folder / "prometheus.yaml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    flags = "--config.file=prometheus.yaml", "--storage.tsdb.path=data"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address={address}"],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip

    def ask(path, **query):
        assert process.poll() is None, (folder / "log").read_text()
        url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def scraped_often():
        try:
            found = ask("query", query="count_over_time(eldr_leases[1m])")["result"]
        except OSError:
            return False
        return any(float(series["value"][1]) >= 15 for series in found)

    try:
        eventually(scraped_often, 90)
        yield ask
    finally:
        process.terminate()
        process.wait(30)


@needs_prometheus
def test_every_query_of_the_dashboard_returns_series(prometheus):
    found = {}
    for title, expression in QUERIES:
        asked = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
        assert "$" not in asked
        found[title, expression] = prometheus("query", query=asked)["result"]
    # A new partition may have come in the last minute, or not.
    empty = [key for key, series in found.items() if not series and key[0] != "Partition"]
    assert empty == []
    values = [s["value"][1] for series in found.values() for s in series]
    assert "NaN" not in values
    shares = {title: series[0]["value"][1] for (title, _), series in found.items() if series}
    assert float(shares["Requests with a signature"]) == 1
    assert float(shares["Workers that capture"]) == 0.75


@needs_prometheus
def test_every_alert_is_understood_and_quiet(prometheus):
    time.sleep(2)  # an evaluation or two
    loaded = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == ALERTS.keys()
    for rule in loaded:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        assert rule["state"] == "inactive", rule["name"]
