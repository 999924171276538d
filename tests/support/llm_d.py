"""llm-d's coordinator, its endpoint picker and an Envoy, with ELDR in one of them.

Both programs are from llm-d's router, v0.10: ELDR_LLM_D_COORDINATOR names the coordinator, and
ELDR_LLM_D_EPP an endpoint picker built with the plugin (docs/llm-d.md). The plugin's own tests need
the folder of the module that builds that picker: ELDR_LLM_D_MODULE.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from envoys import LLM_D, PATIENCE, built_processor, process
from languages import ENVOY

from benchmarks.demos.demo_vllm.processes import free_port

PROGRAMS = [os.environ.get(f"ELDR_LLM_D_{name}", "") for name in ("EPP", "COORDINATOR")]
PICKER_MODULE = os.environ.get("ELDR_LLM_D_MODULE", "")
EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
needs_picker_module = pytest.mark.skipif(
    not PICKER_MODULE,
    reason="needs llm-d's sources: ELDR_LLM_D_MODULE names the module that builds a picker of them",
)
needs_llm_d = pytest.mark.skipif(
    not all(PROGRAMS),
    reason="needs llm-d's programs: ELDR_LLM_D_EPP and ELDR_LLM_D_COORDINATOR name them",
)


def cluster(name: str, *ports: int, http2: bool = False) -> dict:
    at = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    found = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": each}} for each in at]}],
        },
    }
    if http2:
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        found["typed_extension_protocol_options"] = {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return found


def envoy_config(port: int, picker: int, processor: int | None) -> dict:
    """Envoy in front of the picker, as llm-d configures it; eldr-extproc, if any, comes after."""
    config = yaml.safe_load((LLM_D / "envoy.yaml").read_text())
    resources = config["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = port
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    eldr, last = manager["http_filters"]
    eldr["typed_config"]["message_timeout"] = "20s"
    both = ("request_body_mode", "response_body_mode")
    trailers = ("request_trailer_mode", "response_trailer_mode")
    headers = ("request_header_mode", "response_header_mode")
    modes = dict.fromkeys(both, "FULL_DUPLEX_STREAMED") | dict.fromkeys(headers + trailers, "SEND")
    llm_d = {
        "name": "llm-d",
        "typed_config": {
            "@type": EXT_PROC,
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
            "processing_mode": modes,
            "message_timeout": "20s",
        },
    }
    manager["http_filters"] = [llm_d, *([eldr] if processor else []), last]
    where = {"use_http_header": True, "http_header_name": "x-gateway-destination-endpoint"}
    resources["clusters"] = [
        {
            "name": "decode",
            "type": "ORIGINAL_DST",
            "connect_timeout": "1s",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": where,
        },
        cluster("picker", picker, http2=True),
        cluster("eldr-extproc", processor or 1, http2=True),
    ]
    return config


def picker_config(folder: Path, router: str, pool: list[tuple[str, int]], *, with_plugin: bool):
    config = yaml.safe_load((LLM_D / "epp-config.yaml").read_text())
    endpoints = [
        {
            "name": f"{role}-{number}",
            "address": "127.0.0.1",
            "port": str(port),
            "labels": {"llm-d.ai/role": role},
        }
        for number, (role, port) in enumerate(pool)
    ]
    (folder / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": endpoints}))
    [eldr] = [plugin for plugin in config["plugins"] if plugin["type"] == "eldr-decode"]
    eldr["parameters"] = {"router": router, "timeout": PATIENCE[1]}
    if not with_plugin:
        config["plugins"].remove(eldr)
        decode = config["schedulingProfiles"][1]["plugins"]
        decode[:] = [each for each in decode if each["pluginRef"] != "eldr-decode"]
    discovery = {"path": str(folder / "endpoints.yaml")}
    config["plugins"].append({"type": "file-discovery", "parameters": discovery})
    config["dataLayer"] = {"discovery": {"pluginRef": "file-discovery"}}
    return config


@contextmanager
def running_llm_d(
    folder: Path, router: str, prefills: list[int], decodes: list[int], *, with_plugin: bool
) -> Iterator[int]:
    """The coordinator's port. Engines are given by port; ELDR is in the picker, or after it."""
    pool = [("prefill", port) for port in prefills] + [("decode", port) for port in decodes]
    port, picker, coordinator = free_port(), free_port(), free_port()
    processor = None if with_plugin else free_port()
    config = picker_config(folder, router, pool, with_plugin=with_plugin)
    (folder / "picker.yaml").write_text(yaml.safe_dump(config))
    (folder / "envoy.json").write_text(json.dumps(envoy_config(port, picker, processor)))
    steps = {
        "server": {"listen_addr": f"127.0.0.1:{coordinator}", "shutdown_timeout": "1s"},
        "gateway": {"address": f"http://127.0.0.1:{port}", "timeout": "60s"},
        "pipeline": {
            "kv_connector": "kv-nixl",
            "steps": [{"type": "prefill"}, {"type": "decode"}],
        },
    }
    (folder / "coordinator.yaml").write_text(yaml.safe_dump(steps))
    flags = {
        "--config-file": folder / "picker.yaml",
        "--pool-name": "tiny",
        "--refresh-metrics-interval": "1s",
        "--grpc-port": picker,
        "--grpc-health-port": free_port(),
        "--metrics-port": free_port(),
        "--secure-serving=false": None,
        "--allow-experimental-plugins": None,  # header-profile-handler is one, in 0.10
        "--tracing=false": None,
        "--metrics-endpoint-auth=false": None,
    }
    parts = [str(part) for pair in flags.items() for part in pair if part is not None]
    with ExitStack() as up:
        up.enter_context(process(PROGRAMS[0], *parts, log=folder / "picker"))
        envoy = ("-c", folder / "envoy.json", "--use-dynamic-base-id", "--concurrency", "1")
        up.enter_context(process(ENVOY, *envoy, log=folder / "envoy"))
        given = ("--config", folder / "coordinator.yaml")
        up.enter_context(process(PROGRAMS[1], *given, log=folder / "coordinator"))
        if processor:
            at = ("--listen", f"127.0.0.1:{processor}", "--router", router)
            extproc = (built_processor(), *at, *PATIENCE)
            up.enter_context(process(*extproc, log=folder / "extproc"))
        yield coordinator
