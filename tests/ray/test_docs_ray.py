"""The configurations in docs/ray-serve.md are such that Ray Serve builds the application."""

import re
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[2] / "docs/ray-serve.md"


def block(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    return code


def test_the_yaml(cluster):
    from ray._common.utils import import_attr
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    deploy = ServeDeploySchema.model_validate(yaml.safe_load(block("yaml")))
    (application,) = deploy.applications
    assert isinstance(import_attr(application.import_path)(application.args), Application)


def test_the_python(cluster):
    from ray.serve import Application

    code, run, _ = block("python").partition("serve.run(app)")
    assert run
    names = {}
    exec(code, names)
    assert isinstance(names["app"], Application)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine_kwargs": {"data_parallel_size": 2}}, "data_parallel_size: expected 1"),
        ({"lora_config": {}}, "lora_config: expected none"),
        ({"deployment_config": {"request_router_config": {}}}, "request_router_config: expected"),
        ({"engine_kwargs": {"kv_transfer_config": {"kv_connector": "EldrConnector",
          "kv_connector_module_path": "eldr_vllm.connector"}}}, "kv_connector: expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(cluster, change, said):
    from eldr_ray.llm import build_pd_openai_app

    args = yaml.safe_load(block("yaml"))["applications"][0]["args"]
    for side in ("prefill_config", "decode_config"):
        for name, value in change.items():
            args[side][name] = {**args[side].get(name, {}), **value}
    with pytest.raises(ValueError, match=said):
        build_pd_openai_app(args)
