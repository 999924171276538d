"""The engine probes itself before it is READY: do equal prompts give equal experts?

A few short prompts go through the engine's own HTTP server: one alone, again from the prefix cache,
and again in a batch with others. Rows that are mixed up between requests, taken from another rank
or left over from another step would then give other experts, and two different prompts the same.
While the engine serves, the first prompt is repeated now and then, as batches of other sizes take
other paths through vLLM.
"""

import base64
import binascii
import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from eldr.v1.activation_pb2 import ActivationCounts
from eldr_client import Counts
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from eldr_vllm.scheduler.address import Address
from eldr_vllm.scheduler.capture_state import CaptureState
from eldr_vllm.scheduler.startup import DIRECTLY
from eldr_vllm.settings import Settings

logger = logging.getLogger("vllm.eldr")  # appears in vLLM's log

MOST_APART = 0.5
"""A repeated prompt must differ by less than this share of another prompt's difference.

They need not be equal, as another batch may round some picks differently."""
TRIES_AMONG_OTHERS = 10
MOST_COPIES = 4
TIMEOUT = 120.0  # seconds; an engine compiles shapes that it has not seen

# So unlike each other that no model uses the same experts; less than 500 tokens each.
PROMPTS = (
    "The harbour lay still before sunrise. Two boats came back early, low in the water, and the "
    "women on the quay counted the crates before anyone spoke of prices or of the weather.",
    "def merge(left, right):\n    out = []\n    while left and right:\n        side = left if "
    "left[0] <= right[0] else right\n        out.append(side.pop(0))\n    return out + left + "
    "right\n",
    '{"id": 40817, "items": [{"sku": "A-113", "qty": 12, "price": 3.75}, {"sku": "Z-9", "qty": 1, '
    '"price": 1499.0}], "paid": false, "total": 1544.0, "currency": "EUR", "codes": [7, 77, 777]}',
    "Am Abend zog Nebel vom Fluss herauf, und die Laternen der alten Brücke wurden zu matten "
    "Kreisen. Niemand ging mehr hinüber; nur der Müller wartete noch auf seinen Wagen.",
)

# KV goes where the request's id says, which the probe's own requests cannot name.
_ADDRESSED_BY_ID = ("P2pNccl", "MoRIIO")


class ProbeError(Exception):
    """The probe could not be made; nothing is known about the capture."""


def can_probe(settings: Settings, transfer: Any) -> bool:
    """Whether the engine can probe itself."""
    inside = {k: v for k, v in transfer.kv_connector_extra_config.items() if k != "eldr"}
    addressed = any(name in json.dumps(inside, default=str) for name in _ADDRESSED_BY_ID)
    return bool(settings.probe and settings.url and settings.health_check and not addressed)


@dataclass(frozen=True, slots=True)
class _Heard:
    """Counts [L, E], known and unknown tokens, and whether its last step was mostly for it."""

    counts: NDArray[np.int64]
    known: int
    unknown: int
    alone: bool


class Probe:
    """One engine's probe; `run` is called once its HTTP server answers.

    Parameters
    ----------
    settings : Settings
    address : Address
    config : VllmConfig
    key : str
        Identifies these requests to the scheduler's side.
    capture : CaptureState
        Told the result.
    """

    def __init__(
        self, settings: Settings, address: Address, config: Any, key: str, capture: CaptureState
    ) -> None:
        self._url = address.url.rstrip("/") + "/v1/completions"
        self._token = settings.api_key or os.environ.get("VLLM_API_KEY", "")
        self._dp_rank = address.dp_rank if config.parallel_config.data_parallel_size > 1 else None
        self._model = str(config.model_config.served_model_name)
        self._key = key
        self._capture = capture
        self._alone: _Heard | None = None
        self._another = 0.0  # agreement with another prompt
        self._times = 0

    def run(self) -> None:
        """Ask, compare, and pass the result on to the capture state."""
        if self._capture.stopped or self._capture.capturing:
            return
        try:
            fault = self._fault(f"eldr-{self._key}")
        except ProbeError as error:
            self._capture.verified(f"the probe could not be made: {error}")
            return
        if fault:
            self._capture.stop(f"the start-up probe: {fault}")
        else:
            self._capture.verified()

    def again(self) -> None:
        """Ask once more, among the engine's other requests; only after `run`."""
        if self._alone is None or self._capture.stopped:
            return
        self._times += 1
        salt = f"eldr-{self._key}-again-{self._times}"
        try:
            heard = self._ask(PROMPTS[0], salt)
            if heard.unknown or not self._unlike(heard, "now"):
                return
            # New weights give other experts too, but the same ones every time.
            fault = self._fault(f"{salt}-whole")
        except ProbeError as error:
            logger.info("ELDR's probe got no answer while the engine served: %s", error)
            return
        if fault:
            self._capture.stop(f"the probe while the engine served: {fault}")

    def _fault(self, salt: str) -> str:
        """What the answers show to be wrong; empty if they agree."""
        alone, again = self._ask(PROMPTS[0], salt), self._ask(PROMPTS[0], salt)
        other = self._ask(PROMPTS[1], salt)
        among = self._among_others(salt)
        told = (alone, again, other, *((among,) if among else ()))
        if any(heard.unknown for heard in told):
            return f"of {alone.known + alone.unknown} tokens {max(h.unknown for h in told)} unknown"
        self._alone, self._another = alone, agreement(alone, other)
        if self._another == 1:
            return "two different prompts gave the same experts"
        fault = self._unlike(again, "from the prefix cache")
        if among is not None:
            fault = fault or self._unlike(among, "in a batch with others")
        return fault

    def _unlike(self, heard: _Heard, when: str) -> str:
        """How the first prompt's experts differ from when it was alone; empty if they do not."""
        share = agreement(self._alone, heard)
        if 1 - share <= MOST_APART * (1 - self._another):
            return ""
        return f"a prompt gave {share:.1%} of the same experts {when}, another {self._another:.1%}"

    def _among_others(self, salt: str) -> _Heard | None:
        """The first prompt, recomputed in a step with as many other tokens; None if in none."""
        for turn in range(TRIES_AMONG_OTHERS):
            # A fast engine serves each as it comes; the more there are, the sooner some meet.
            copies = [f"{salt}-{turn}-{copy}" for copy in range(min(1 + turn, MOST_COPIES))]
            with ThreadPoolExecutor(len(PROMPTS) * len(copies)) as pool:
                futures = [
                    pool.submit(self._ask, prompt, fresh, tokens)
                    for fresh in copies
                    for prompt, tokens in zip(PROMPTS[::-1], (8, 8, 8, 1), strict=True)
                ]
                answers = [future.result() for future in futures]
            for heard in answers[len(PROMPTS) - 1 :: len(PROMPTS)]:
                if not heard.alone:
                    return heard
        logger.info("the probe met no other request in its batch")
        return None

    def _ask(self, prompt: str, salt: str, tokens: int = 1) -> _Heard:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "cache_salt": salt,
            "kv_transfer_params": {"eldr": {"probe": self._key}},
        }
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._dp_rank is not None:
            headers["X-data-parallel-rank"] = str(self._dp_rank)
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        try:
            with DIRECTLY.open(request, timeout=TIMEOUT) as answer:
                return _read(json.load(answer))
        except urllib.error.HTTPError as error:
            raise ProbeError(f"HTTP {error.code}: {error.read(300).decode('replace')}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProbeError(str(error)) from error


def agreement(one: _Heard, other: _Heard) -> float:
    """Share of the picks that both have, for prompts of any length, from 0 to 1."""
    parts = [heard.counts / max(heard.counts.sum(), 1) for heard in (one, other)]
    return float(1 - np.abs(parts[0] - parts[1]).sum() / 2)


def _read(answer: Mapping[str, Any]) -> _Heard:
    eldr = (answer.get("kv_transfer_params") or {}).get("eldr") or {}
    if "counts" not in eldr:
        raise ProbeError("the engine's answer has no counts")
    try:
        message = ActivationCounts.FromString(base64.b64decode(eldr["counts"]))
        counts = Counts.from_proto(message)
    except (binascii.Error, DecodeError, ValueError) as error:
        raise ProbeError(f"the engine's counts are not ActivationCounts: {error}") from error
    known, unknown = message.num_tokens, message.unknown_tokens
    return _Heard(counts.array, known, unknown, bool(eldr.get("alone")))
