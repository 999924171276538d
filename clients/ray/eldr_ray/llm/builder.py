"""Builds the application from the arguments of Ray's own builder."""

from typing import Any

from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.serving_patterns.prefill_decode.builder import PDServingArgs
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import make_fastapi_ingress

from eldr_ray.llm.connector import with_eldr
from eldr_ray.llm.orchestrator import Orchestrator
from eldr_ray.llm.servers import DecodeServer, PrefillServer

ROUTER = "eldr_ray.router:EldrRequestRouter"
# Settings that the engines' connector and the request router share.
_DAEMON = (
    *("router", "model", "token", "token_file", "tls"),
    *("root_certificates", "client_key", "client_certificate"),
)


def build_pd_openai_app(pd_serving_args: dict[str, Any]) -> Application:
    """Build what `ray.serve.llm.build_pd_openai_app` builds, with ELDR in it.

    The graph is ingress -> orchestrator -> prefill servers and, after them, decode servers.

    Parameters
    ----------
    pd_serving_args : dict
        As for Ray's builder: `prefill_config`, `decode_config`, `ingress_cls_config`,
        `ingress_deployment_config`. In addition

        - `eldr`: settings of the engines' connector; `router` is the daemon's HOST:PORT.
        - `request_router_kwargs`: for `EldrRequestRouter.initialize_state`; how to reach the
          daemon is taken from `eldr`.
        - `orchestrator_deployment_config`: options of the orchestrator's deployment.

    Raises
    ------
    ValueError
        This application cannot serve the configuration.
    """
    rest = dict(pd_serving_args)
    eldr = dict(rest.pop("eldr", {}))
    router_kwargs = {name: eldr[name] for name in _DAEMON if name in eldr}
    router_kwargs |= rest.pop("request_router_kwargs", {})
    options = dict(rest.pop("orchestrator_deployment_config", {}))
    given = PDServingArgs.model_validate(rest)
    for config in (given.prefill_config, given.decode_config):
        _check(config)
        transfer = config.engine_kwargs["kv_transfer_config"]
        config.update_engine_kwargs(kv_transfer_config=with_eldr(transfer, eldr))

    prefill = build_llm_deployment(
        given.prefill_config, name_prefix="Prefill:", deployment_cls=PrefillServer
    )
    decode = build_llm_deployment(
        given.decode_config,
        name_prefix="Decode:",
        deployment_cls=DecodeServer,
        override_serve_options={
            "request_router_config": RequestRouterConfig(
                request_router_class=ROUTER, request_router_kwargs=router_kwargs
            )
        },
    )
    model = given.decode_config.model_id
    ingress_config = given.ingress_cls_config
    defaults = ingress_config.ingress_cls.get_deployment_options([given.decode_config])
    name = model.replace("/", "--").replace(".", "_")  # as Ray names its deployments
    orchestrator = serve.deployment(
        Orchestrator, name=f"Orchestrator:{name}", **_merged(defaults, options)
    ).bind(prefill_server=prefill, decode_server=decode)
    ingress = make_fastapi_ingress(ingress_config.ingress_cls)
    ingress_options = _merged(defaults, given.ingress_deployment_config or {})
    return serve.deployment(ingress, **ingress_options).bind(
        llm_deployments={model: orchestrator},
        model_cards={model: to_model_metadata(model, given.decode_config)},
        **ingress_config.ingress_extra_kwargs,
    )


def _check(config: LLMConfig) -> None:
    if config.engine_kwargs.get("data_parallel_size", 1) > 1:
        raise ValueError("data_parallel_size: expected 1: each replica is one decode worker")
    if config.lora_config is not None:
        raise ValueError("lora_config: expected none: ELDR's router does not support adapters")
    if "request_router_config" in config.deployment_config:
        raise ValueError("request_router_config: expected none: ELDR's request router is used")


def _merged(defaults: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options over defaults; Ray rejects `autoscaling_config` beside `num_replicas`."""
    if "num_replicas" in options:
        defaults = {k: v for k, v in defaults.items() if k != "autoscaling_config"}
    return {**defaults, **options}
