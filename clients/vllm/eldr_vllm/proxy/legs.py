"""A request as legs: one prompt and one sequence each, prefilled, placed and decoded apart.

vLLM hands KV blocks over once: the first decode that has pulled them lets the prefill engine free
them, and of several prompts only the first one's are named in the answer. So several prompts, or
n > 1, become as many requests to the engines. The further sequences of a prompt wait for its first
prefill and find their prefix cached. Seeds count up as vLLM counts them for n > 1.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from eldr_vllm.proxy.errors import bad_request

MAX_LEGS = 256

# They mean the answer, and the prefill's one token is no answer.
_NOT_FOR_PREFILL = (
    "stream_options",
    "min_tokens",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "best_of",
)


@dataclass(slots=True)
class Leg:
    """One prompt and one sequence. `path` is that of the endpoint, `index` the choice's."""

    request_id: str
    path: str
    body: dict[str, Any]
    index: int = 0
    sample: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # Set when the first sequence of this prompt has been prefilled, or will not be.
    prefix_cached: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def model(self) -> str:
        """The model's name as the caller says it."""
        return str(self.body.get("model") or "")

    @property
    def is_stream(self) -> bool:
        """The caller wants events."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """The caller wants the stream to end with the usage."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def needs_no_prefill(self) -> bool:
        """Beam search starts its beams from the prompt itself and would never pull the KV."""
        return bool(self.body.get("use_beam_search"))

    @property
    def output_limit(self) -> int:
        """Tokens that the answer may have; 0 where the caller leaves it open."""
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens") or 0
        return limit if isinstance(limit, int) and limit > 0 else 0

    def prefill_body(self, epoch: int, *, keeps_token: bool = False) -> dict[str, Any]:
        """The request for the prefill engine: the same prompt, one token.

        It is sampled as the caller wishes only if that token is kept: vLLM's CPU engines (0.32)
        die of a seed when a prefill takes several steps.
        """
        body = {k: v for k, v in self.body.items() if k not in _NOT_FOR_PREFILL}
        body.update(stream=False, max_tokens=1)
        if not keeps_token:
            body.pop("seed", None)
            body["temperature"] = 0
        if self.path.endswith("/chat/completions"):
            body["max_completion_tokens"] = 1
        body["kv_transfer_params"] = {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "eldr": {"request_id": self.request_id, "epoch": epoch},
        }
        return body

    def decode_body(self, kv_transfer_params: dict[str, Any] | None) -> dict[str, Any]:
        """The request for the decode engine: the caller's own, with the KV's whereabouts."""
        body = dict(self.body)
        if kv_transfer_params is not None:
            body["kv_transfer_params"] = kv_transfer_params
        options = body.get("stream_options") or {}
        if self.is_stream and isinstance(options, dict):
            # The closing usage says how many tokens there were. Who did not ask won't see it.
            body["stream_options"] = {**options, "include_usage": True}
        return body

    def prefix_key(self, length: int) -> bytes:
        """What the prefill worker is chosen by: the model and the beginning of the prompt."""
        prompt = self.body.get("prompt", self.body.get("messages"))
        if isinstance(prompt, list):
            prompt = json.dumps(prompt[:length])
        return f"{self.model}\0{str(prompt)[:length]}".encode()


def split(
    request_id: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> list[Leg]:
    """Take a request apart; what is wrong with it is left to the engines to say."""
    body = {k: v for k, v in body.items() if k != "kv_transfer_params"}
    prompts = _prompts(body)
    samples = body.get("n")
    if not isinstance(samples, int) or samples < 1 or body.get("use_beam_search"):
        samples = 1
    else:
        body["n"] = 1
    if len(prompts) * samples > MAX_LEGS:
        raise bad_request(f"at most {MAX_LEGS} sequences a request, found {len(prompts) * samples}")
    alone = len(prompts) * samples == 1
    legs = []
    for number, prompt in enumerate(prompts):
        cached = asyncio.Event()
        for sample in range(samples):
            index = number * samples + sample
            own = {**body, **prompt}
            if isinstance(own.get("seed"), int):
                own["seed"] += sample
            name = request_id if alone else f"{request_id}-{index}"
            legs.append(Leg(name, path, own, index, sample, headers or {}, cached))
    return legs


def _prompts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A string and a list of token ids are one prompt, a list of such are several."""
    prompt = body.get("prompt")
    if "messages" in body or not isinstance(prompt, list) or not prompt:
        return [{}]
    several = all(isinstance(each, str | list) for each in prompt)
    return [{"prompt": each} for each in prompt] if several else [{}]
