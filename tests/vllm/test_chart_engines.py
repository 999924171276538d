"""The vLLM pods of the Helm chart: their arguments and the connector laid beside vLLM, for real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from charts import CHART, objects, render
from languages import needs_go
from serve_arguments import parsed

ROOT = Path(__file__).parents[2]
pytestmark = [needs_go, pytest.mark.vllm]
LOOK = """
import eldr_vllm.connector, eldr_client
from importlib.metadata import entry_points
print(eldr_vllm.__file__, eldr_client.__file__)
print({point.value for point in entry_points(group="vllm.general_plugins", name="eldr")})
"""


@pytest.fixture(scope="module")
def pods():
    """The pods' specifications, by the engines' names."""
    found = objects(render("--values", CHART / "ci/engines-values.yaml"))
    return {
        name: found["StatefulSet", f"eldr-{name}"]["spec"]["template"]["spec"]
        for name in ("prefill", "decode")
    }


@pytest.mark.parametrize(("name", "role"), [("prefill", "prefill"), ("decode", "decode")])
def test_vllm_and_the_connector_take_the_arguments(pods, monkeypatch, name, role):
    from eldr_vllm.settings import Settings
    from vllm.engine.arg_utils import AsyncEngineArgs

    monkeypatch.setenv("POD_IP", "10.0.0.2")
    monkeypatch.setenv("POD_NAME", f"eldr-{name}-0")
    [container] = pods[name]["containers"]
    model, *words = container["args"]
    transfer = AsyncEngineArgs.from_cli_args(parsed(["--model", model, *words])).kv_transfer_config
    extra = transfer.kv_connector_extra_config
    settings = Settings.read(extra["eldr"], transfer.kv_role)
    assert settings.registered
    assert settings.role == role
    assert settings.router == "dns:///eldr-replicas.serving.svc:50051"
    assert (settings.worker_id, settings.group) == (f"eldr-{name}-0", "pool-1")
    assert extra["inner"]["kv_connector"] == "NixlConnector"


def test_the_connector_lies_beside_vllm(pods, tmp_path):
    """By the init container's own script, with vLLM's Python."""
    wheels = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path]
    sources = (ROOT / "clients/python", ROOT / "clients/vllm")
    subprocess.run([*wheels, *sources], check=True)
    [script] = pods["decode"]["initContainers"][1]["args"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    script = script.replace("/opt/eldr", str(tmp_path))
    subprocess.run(["sh", "-ec", script], check=True, env=env)
    env["PYTHONPATH"] = str(tmp_path)
    command = ["python3", "-c", LOOK]
    said = subprocess.run(
        command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    files, points = said.stdout.splitlines()[-2:]
    assert all(Path(file).is_relative_to(tmp_path) for file in files.split())
    assert points == "{'eldr_vllm.plugin:load'}"
