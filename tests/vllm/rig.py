"""The daemon and vLLM's own API server, as processes of a test."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
from eldr.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
)
from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import RouterClient
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.demos.demo_vllm.processes import free_port

MODEL = "tiny"
DAEMON_PYTHON = os.environ.get("ELDR_DAEMON_PYTHON", sys.executable)
"""The interpreter that has the daemon's dependencies; vLLM's environment need not."""

START_SECONDS = 400


class Process:
    """A child process in a group of its own, with its output in a file."""

    def __init__(self, command, log, **env):
        self.log = Path(log)
        self._popen = subprocess.Popen(
            command,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
        )

    @property
    def is_alive(self):
        return self._popen.poll() is None

    def kill(self, how=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, how)
        self._popen.wait(60)

    def signal(self, number):
        self._popen.send_signal(number)

    def terminate(self):
        """As an operator would; its children are left to it for a while."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)


class Daemon(Process):
    def __init__(self, directory, port=0):
        ports = directory / f"ports-{time.monotonic_ns()}.json"
        code = "from eldr_service.server import main; main()"
        options = ["--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0"]
        options += ["--state", ":memory:", "--port-file", str(ports)]
        super().__init__([DAEMON_PYTHON, "-c", code, *options], directory / "daemon.log")
        wait(ports.exists, 180, lambda: self.log.read_text())
        said = json.loads(ports.read_text())
        self.target, self.http = said["grpc"], said["http"]


class Engine(Process):
    """`python -m vllm.entrypoints.openai.api_server` on a free port.

    `inner` is the wrapped connector: None for NIXL, empty for what the shim chooses by itself.
    """

    def __init__(self, name, model, directory, kv_role, eldr, inner=None, **options):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        nixl = {
            "kv_connector": "NixlConnector",
            # more processes than cores
            "kv_connector_module_path": "benchmarks.demos.demo_vllm.tame",
            "kv_connector_extra_config": {"kv_lease_duration": 180},
        }
        transfer = {
            "kv_connector": "EldrConnector",
            "kv_connector_module_path": "eldr_vllm.connector",
            "kv_role": kv_role,
            "kv_buffer_device": "cpu",
            "kv_connector_extra_config": {"eldr": {"url": self.url, **eldr}},
        }
        if inner is None or inner:
            transfer["kv_connector_extra_config"]["inner"] = inner or nixl
        defaults = {
            "model": str(model),
            "served-model-name": MODEL,
            "host": "127.0.0.1",
            "port": self.port,
            "dtype": "float32",
            "block-size": 32,
            "max-model-len": 1024,
            "max-num-seqs": 16,
            "max-num-batched-tokens": 256,
            "kv-transfer-config": json.dumps(transfer),
        }
        command = ["nice", "-n", "5", sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--enforce-eager"]
        for option, value in {**defaults, **options}.items():
            command += [f"--{option}", str(value)]
        super().__init__(
            command,
            directory / f"{name}.log",
            VLLM_NIXL_SIDE_CHANNEL_PORT=str(free_port()),
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            OMP_NUM_THREADS="1",
        )

    def wait(self):
        wait(self._is_ready, START_SECONDS, lambda: self.log.read_text()[-4000:])
        return self

    def _is_ready(self):
        if not self.is_alive:
            raise AssertionError(self.log.read_text()[-4000:])
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/health", timeout=2):
            return True
        return False

    def metrics(self):
        """Samples of its /metrics, by name and the labels that are not the engine's."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        own = ("engine", "model_name")
        return {
            (sample.name, *(v for k, v in sample.labels.items() if k not in own)): sample.value
            for family in families
            for sample in family.samples
        }

    def complete(self, prompt, max_tokens, kv=None, **more):
        body = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "kv_transfer_params": kv,
            **more,
        }
        request = urllib.request.Request(
            self.url + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from error

    def prefill(self, prompt, eldr=None):
        """The parameters for the decode engine, and what the shim says."""
        kv = {"do_remote_decode": True, "do_remote_prefill": False, "eldr": eldr or {}}
        params = self.complete(prompt, 1, kv)["kv_transfer_params"]
        return params, params.pop("eldr", None)


class Apart:
    """A prefill engine and two decode engines with the daemon; see `running_apart`."""

    def __init__(self, directory, daemon):
        self.directory, self.daemon = directory, daemon
        self.prefill, self.decodes = None, []

    @property
    def decode(self):
        return self.decodes[0]

    def at(self, url):
        """The decode engine that serves there."""
        (engine,) = (engine for engine in self.decodes if engine.url == url)
        return engine

    def workers(self):
        request, ready = fleet_pb2.ListWorkersRequest(), fleet_pb2.WORKER_STATE_READY
        workers = self._ask(fleet_pb2_grpc.FleetServiceStub, "ListWorkers", request).workers
        return {worker.url: worker for worker in workers if worker.state == ready}

    def booked(self):
        return sum(worker.booked_sequences for worker in self.workers().values())

    def await_workers(self):
        urls = {engine.url for engine in (self.prefill, *self.decodes)}
        wait(lambda: urls <= self.workers().keys(), 20)

    def policies(self):
        """All that are registered."""
        request = policy_pb2.ListPoliciesRequest()
        answer = self._ask(policy_pb2_grpc.PolicyServiceStub, "ListPolicies", request)
        return [policy.name for policy in answer.policies]

    def set_policy(self, name):
        request = policy_pb2.SetPolicyRequest(model=MODEL, name=name)
        self._ask(policy_pb2_grpc.PolicyServiceStub, "SetPolicy", request)

    def fit(self, counts):
        """Put a partition of as many slots as there are decode engines in force."""
        request = partition_pb2.FitPartitionRequest(
            model=MODEL, counts=counts, num_slots=len(self.decodes), activate=True
        )
        self._ask(partition_pb2_grpc.PartitionServiceStub, "FitPartition", request)

    def fit_on(self, prompts, max_tokens):
        """Fit on these, prefilled; what one engine answers to each."""
        whole, counted = [], []
        for tokens in prompts:
            whole.append(self.prefill.complete(tokens, max_tokens)["choices"][0]["text"])
            params, eldr = self.prefill.prefill(tokens)
            counted.append(decode_counts(eldr["counts"])[1])
            self.decode.complete(tokens, 1, params)  # so that the prefill engine may let go
        self.fit(counted)
        return whole

    def client(self):
        return RouterClient(self.daemon.target, timeout=5.0)

    def complete(self, client, name, tokens, max_tokens):
        """Prefill, route, decode: the answer and the placement."""
        params, _ = self.prefill.prefill(tokens, {"request_id": name})
        placement = client.route(MODEL, name, wait_for_signature=2.0)
        eldr = {"request_id": name, "attempt": 0, "lease_id": placement.lease_id}
        decode = self.at(placement.url)
        return decode.complete(tokens, max_tokens, {**params, "eldr": eldr}), placement

    def warm_up(self):
        """The first transfer of a pair has a deadline of 5 s, which a busy machine can miss."""
        for decode in self.decodes:
            for attempt in range(5):
                params, _ = self.prefill.prefill(prompt(attempt))
                with contextlib.suppress(AssertionError):
                    decode.complete(prompt(attempt), 2, params)
                    break
            else:
                raise AssertionError(decode.log.read_text()[-4000:])

    def _ask(self, stub, method, request):
        with grpc.insecure_channel(self.daemon.target) as channel:
            return getattr(stub(channel), method)(request, timeout=60)


@contextlib.contextmanager
def running_apart(model, directory, settings=(), daemon=None, **options):
    """Once all serve and each pair has met; `settings` are the shim's, `options` the engines'.

    `daemon` is one that runs already.
    """
    with contextlib.ExitStack() as ending:
        rig = Apart(directory, daemon or Daemon(directory))
        if daemon is None:
            ending.callback(lambda: rig.daemon.kill())
        eldr = {"router": rig.daemon.target, "group": "here", "timeout": 5.0}  # on a busy machine
        eldr.update(settings)
        for name in ("prefill", "decode", "other"):
            role = "kv_producer" if name == "prefill" else "kv_consumer"
            more = {} if name == "prefill" and not settings else {"shutdown-timeout": 20}
            engine = Engine(name, model, directory, role, eldr, **more, **options)
            ending.callback(engine.kill)
            if name == "prefill":
                rig.prefill = engine
            else:
                rig.decodes.append(engine)
        for engine in (rig.prefill, *rig.decodes):
            engine.wait()
        rig.warm_up()
        yield rig


def equal_shares(rig, client, count, max_tokens, in_flight):
    """Shares of equal greedy completions: apart against one engine, and that one against itself."""
    prompts = [prompt(seed, 100 + 7 * seed) for seed in range(count)]

    def all_of(complete):
        with futures.ThreadPoolExecutor(in_flight) as pool:
            return list(pool.map(complete, range(count)))

    def whole(index):
        return ids(rig.prefill.complete(prompts[index], max_tokens))

    def apart(index):
        name = f"flight-{time.monotonic_ns()}"
        return ids(rig.complete(client, name, prompts[index], max_tokens)[0])

    first, second, third = all_of(whole), all_of(whole), all_of(apart)
    equal = np.array([[a == c, a == b] for a, b, c in zip(first, second, third, strict=True)])
    return tuple(equal.mean(axis=0).tolist())


def prompt(seed, tokens=300):
    """Longer than a chunk (256 tokens)."""
    return [(seed * 17 + index * 7 + index // 9) % 250 + 1 for index in range(tokens)]


def ids(answer):
    return answer["choices"][0]["token_ids"]


def decode_counts(text):
    """Counts [layers, experts] and the message, out of the answer's base64."""
    return read_counts(ActivationCounts.FromString(base64.b64decode(text)))


def read_counts(message):
    """Counts [layers, experts] and the message."""
    counts = np.zeros(message.num_layers * message.num_experts, np.int64)
    encoding = message.WhichOneof("encoding")
    if encoding == "sparse":
        counts[list(message.sparse.index)] = message.sparse.count
    elif encoding is not None:
        width = "<u2" if encoding == "dense_u16" else "<u4"
        counts[:] = np.frombuffer(getattr(message, encoding), width)
    return counts.reshape(message.num_layers, message.num_experts), message


def wait(condition, seconds, describe=lambda: ""):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {describe()}")
