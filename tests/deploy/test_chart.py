"""The Helm chart, by the real helm and kubeconform, and by the programs that it starts."""

import json
import re
import subprocess

import pytest
import yaml
from charts import CHART, DEPLOY, objects, operators_schemas, render, schemas, tool
from languages import needs_go

from eldr_service.server.config import load_settings

VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
VERSIONS = ("1.25.0", "1.31.0", "1.37.0")
pytestmark = [needs_go, pytest.mark.timeout(900)]  # helm is built, once


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def test_what_the_chart_renders_is_valid(values):
    lint = [tool("helm"), "lint", "--strict", "--quiet", CHART, "--values", values]
    lint += ["--kube-version", "1.31.0"]
    said = subprocess.run(lint, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    rendered = render("--values", values, "--api-versions", "monitoring.coreos.com/v1")
    for version in VERSIONS:
        found = conforms(rendered, version)
        assert found["resources"] == [], version
        assert found["summary"]["valid"] == len(re.findall("^kind:", rendered, re.M))
        assert found["summary"]["skipped"] == 0


def conforms(text, version):
    """What kubeconform finds in manifests, by the schemas of a version of Kubernetes."""
    command = [tool("kubeconform"), "-strict", "-summary", "-output", "json"]
    for folder in (schemas(version), operators_schemas()):
        command += ["-schema-location", f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def test_a_wrong_field_is_found():
    rendered = render().replace("terminationGracePeriodSeconds: 45", "terminationGraceSeconds: 45")
    [found] = conforms(rendered, "1.31.0")["resources"]
    assert (found["kind"], found["status"]) == ("StatefulSet", "statusInvalid")
    assert "terminationGraceSeconds" in found["msg"]


def test_twelve_combinations():
    assert len(VALUES) >= 12
    shown = {kind for values in VALUES for kind, _ in objects(render("--values", values))}
    assert {"PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "HorizontalPodAutoscaler",
            "PrometheusRule", "Role", "RoleBinding", "StatefulSet",
            "Deployment"} <= shown  # fmt: skip


def test_rules_and_dashboard_are_those_of_the_folder_by_the_name_of_the_job():
    values = CHART / "ci" / "monitored-values.yaml"
    monitoring = DEPLOY / "monitoring"
    found = objects(render("--values", values, release="x"))
    for kind, name, text in (
        ("PrometheusRule", "x-eldr", "eldr-rules.yaml"),
        ("ConfigMap", "x-eldr-dashboard", "eldr-dashboard.json"),
    ):
        ours = (monitoring / text).read_text()
        named = ours.replace('job="eldr"', 'job="x-eldr"').replace(
            'job=\\"eldr\\"', 'job=\\"x-eldr\\"'
        )
        assert named != ours
        shown = found[kind, name]
        spec = shown["spec"] if kind == "PrometheusRule" else json.loads(shown["data"][text])
        assert spec == yaml.safe_load(named)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def test_the_daemon_takes_what_its_pod_says(values, tmp_path):
    """Flags and settings, read by the daemon's own parser."""
    found = objects(render("--values", values))
    kind = "Deployment" if ("Deployment", "eldr") in found else "StatefulSet"
    [container] = found[kind, "eldr"]["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    arguments = []
    for argument in container["args"]:
        flag, _, value = argument.partition("=")
        if value.startswith("/"):
            assert any(value == m or value.startswith(f"{m}/") for m in mounts), argument
            place = tmp_path / value[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.suffix or "state-password" in flag:
                place.write_text(found["ConfigMap", "eldr"]["data"].get(place.name, ""))
            argument = f"{flag}={place}"
        arguments.append(argument)
    settings = load_settings(arguments)
    assert str(settings.listen) == "0.0.0.0:50051"
    if "monitored" in values.name:
        assert (settings.lease_ttl, settings.refit, settings.max_waiting) == (600, "manual", 128)
        assert settings.signature_memory_bytes == 1 << 26
    if "discovery" in values.name:
        decode, prefill = settings.kubernetes
        assert (decode.where, prefill.where) == ("serving/decode", "serving/prefill")
        assert decode.texts == {"model": "Qwen3-30B-A3B", "geometry": "48x128x8"}
        assert prefill.texts == {"model": "Qwen3-30B-A3B", "role": "prefill"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["replicas=2"], "replicas: expected 1 without state.url or state.valkey.enabled, found 2"),
        (["autoscaling.enabled=true"], "expected state.url or state.valkey.enabled beside it"),
        (["state.url=redis://a", "state.valkey.enabled=true"], "expected one of them, found both"),
        (["tls.clientCASecret=x"], "expected tls.secret beside it"),
        (["engines[0].name=a"], "engines: expected role in each entry"),
        (
            ["engines[0].name=a", "engines[0].model=m", "engines[0].role=both"],
            "expected role prefill or decode, found both",
        ),
        (["discovery[0].namespace=a"], "discovery: expected service or selector in each entry"),
    ],
)
def test_values_that_cannot_work_are_refused(given, said):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        render(*(part for value in given for part in ("--set", value)))
    assert said in raised.value.stderr


def test_the_plain_manifests_are_the_charts():
    values = DEPLOY / "manifests/values.yaml"
    text = (DEPLOY / "manifests/eldr.yaml").read_text()
    assert text == render("--values", values), "stale: run `make manifests`"
