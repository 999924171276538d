"""The real helm and kubeconform, and their inputs."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from languages import one_build

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"
MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
}
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
DEFINITION = "example/prometheus-operator-crd/monitoring.coreos.com_{}s.yaml"
OPERATORS = ("servicemonitor", "prometheusrule")


@cache
def tool(name: str) -> str:
    """The program's path, built from its module if missing."""
    with one_build("tools") as folder:
        if not (folder / name).exists():
            command = ["go", "install", MODULES[name]]
            subprocess.run(command, env={**os.environ, "GOBIN": str(folder)}, check=True)
        return str(folder / name)


@cache
def schemas(version: str) -> Path:
    """Kubernetes' own schemas, in the folder where kubeconform resolves their references."""
    import kubernetes_validate  # not installed beside vLLM

    theirs = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    with one_build("tools") as folder:
        into = folder / version
        into.mkdir(exist_ok=True)
        for path in (theirs / f"v{version}-local-strict").glob("*.json"):
            text = path.read_text().replace("/api/_definitions.json#", "_definitions.json#")
            (into / path.name).write_text(text.replace('"$id"', '"$comment"'))
        return into


@cache
def operators_definitions() -> list[dict[str, Any]]:
    """The Prometheus operator's own definitions of a ServiceMonitor and a PrometheusRule."""
    with one_build("tools") as folder:
        command = ["go", "mod", "download", "-json", OPERATOR]
        said = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    module = Path(json.loads(said.stdout)["Dir"])
    return [yaml.safe_load((module / DEFINITION.format(kind)).read_text()) for kind in OPERATORS]


@cache
def operators_schemas() -> Path:
    """The same as a folder of schemas, as kubeconform reads them."""
    definitions = operators_definitions()
    with one_build("tools") as folder:
        for kind, definition in zip(OPERATORS, definitions, strict=True):
            [version] = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
            schema = folder / f"{kind}-monitoring-v1.json"
            schema.write_text(json.dumps(version["schema"]["openAPIV3Schema"]))
        return folder


def render(*arguments: str | Path, release: str = "eldr") -> str:
    """The output of `helm template`; raises CalledProcessError with helm's message."""
    command = [tool("helm"), "template", release, CHART, "--namespace", "serving", *arguments]
    command += ["--kube-version", "1.31.0"]  # a helm built from its module knows none
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def objects(text: str) -> dict[tuple[str, str], dict]:
    """The objects by kind and name."""
    return {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(text) if o}
