"""Splits a request into legs: one prompt and one sequence each, prefilled and decoded apart.

vLLM hands over KV blocks once: the first decode that has pulled them lets the prefill engine free
them, and of several prompts only the first one's are named in the answer. So several prompts, or
n > 1, become as many requests to the engines. Further sequences of a prompt wait for its first
prefill and find their prefix cached. Seeds count up as in vLLM for n > 1.
"""

import asyncio
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from eldr_vllm.proxy.endpoints import ENDPOINTS, Endpoint
from eldr_vllm.proxy.errors import bad_request
from eldr_vllm.proxy.kin import Kin
from eldr_vllm.proxy.said import MAX_TOKENS, Answer
from eldr_vllm.proxy.whole import why_whole
from eldr_vllm.proxy.written import Written

MAX_LEGS = 256

# They apply to the answer, and the prefill's one token is not an answer.
_NOT_FOR_PREFILL = (
    "stream_options",
    "min_tokens",
    "logprobs",
    "top_logprobs",
    "logprob_token_ids",
    "best_of",
    "echo",
    "include",
    "request_id",
)


@dataclass(slots=True)
class Leg:
    """One prompt and one sequence. `path` is the endpoint's, `index` the choice's."""

    request_id: str
    path: str
    body: dict[str, Any]
    _: KW_ONLY
    index: int = 0
    sample: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # Set when the first sequence of this prompt has been prefilled, or will not be.
    prefix_cached: asyncio.Event = field(default_factory=asyncio.Event)
    # The body's large values as JSON, shared by all legs of the request.
    encoded: dict[int, bytes] = field(default_factory=dict)
    # Its name in the engines' logs and the answer's id; the daemon knows it by `request_id`.
    name: str = ""
    # Why it is not split, and how many sequences it therefore has.
    why_whole: str = ""
    sequences: int = 1
    # The prefill it came with, until used; and whether a decode can continue from it.
    handed_over: Answer | None = None
    takes_kv: bool = False
    # What it has in common with earlier requests.
    kin: Kin = field(default_factory=Kin)
    # What its engines have written, where another one can go on with that.
    written: Written | None = None

    def __post_init__(self) -> None:
        self.name = self.name or self.request_id

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of its path."""
        return ENDPOINTS[self.path]

    @property
    def model(self) -> str:
        """The model's name as the caller gave it."""
        return str(self.body.get("model") or "")

    @property
    def is_stream(self) -> bool:
        """Whether the caller wants events."""
        return bool(self.body.get("stream"))

    @property
    def goes_on(self) -> bool:
        """Some of its answer is part of the prompt by now."""
        return self.written is not None and bool(self.written.request)

    @property
    def asked(self) -> Endpoint:
        """What its next engine is asked for: what is written is continued as a completion."""
        return ENDPOINTS["/v1/completions"] if self.goes_on else self.endpoint

    @property
    def wants_usage(self) -> bool:
        """Whether the caller wants the stream to end with the usage."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def forces_tool(self) -> bool:
        """Whether the answer must be a tool call, which engines may fail to read from one token."""
        choice = self.body.get("tool_choice")
        return isinstance(choice, dict) or choice == "required"

    @property
    def output_limit(self) -> int:
        """The most tokens of the answer; 0 if the caller leaves it open."""
        limits = (self.body.get(name) for name in self.endpoint.limits)
        limit = next((limit for limit in limits if limit), 0)
        return min(limit, MAX_TOKENS) if type(limit) is int and limit > 0 else 0

    def go_on(self) -> None:
        """The next engine is to go on with what is written."""
        if self.written is not None:
            self.written.go_on()
            self.encoded = {}  # by ids of values, of which the prompt is a new one

    def prefill_body(self, epoch: int, *, keeps_token: bool = False) -> dict[str, Any]:
        """The request for the prefill engine: the same prompt, one token.

        It is sampled as the caller wishes only if that token is kept. Otherwise it is any token, so
        that the prefill ends by its length: some connectors hand over no KV for one that was
        stopped, and vLLM's CPU engines (0.32) crash on a seed when a prefill takes several steps.
        """
        body = {k: v for k, v in self._asked().items() if k not in _NOT_FOR_PREFILL}
        body.update(dict.fromkeys(self.asked.limits, 1), stream=False)
        if not keeps_token:
            for name in ("seed", *self.asked.stops):
                body.pop(name, None)
            body.update(temperature=0, ignore_eos=True)
        if self.path == "/v1/responses":
            body["store"] = False
        body["kv_transfer_params"] = {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "eldr": {"request_id": self.request_id, "epoch": epoch},
        }
        return body

    def decode_body(self, kv_transfer_params: dict[str, Any] | None) -> dict[str, Any]:
        """The request for the decode engine: the caller's own, and where the KV is."""
        body = self._asked()
        if self.written is not None:
            body["return_token_ids"] = True
        if kv_transfer_params is not None:
            body["kv_transfer_params"] = kv_transfer_params
        options = body.get("stream_options")
        if self.is_stream and self.endpoint.has_choices and isinstance(options, dict | None):
            # The closing usage says how many tokens there were. A caller that did not ask for it
            # sees neither it nor anything that depends on it.
            options = options if self.wants_usage else {}
            body["stream_options"] = {**(options or {}), "include_usage": True}
        return body

    def _asked(self) -> dict[str, Any]:
        return dict(self.written.request if self.written and self.goes_on else self.body)


def split(
    request_id: str,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
    name: str = "",
    handed_over: Answer | None = None,
) -> list[Leg]:
    """Split a request; errors in other fields are left for the engines to report.

    One prefilled by another scheduler stays in one piece, as its KV is that of one sequence.

    Raises
    ------
    ProxyError
        A field that decides the split is wrong, or asks for what no engine can do.
    """
    body = {k: v for k, v in body.items() if k != "kv_transfer_params"}
    _check(path, body)
    headers = headers or {}
    splits = ENDPOINTS[path].has_choices
    prompts = _prompts(body) if splits else [{}]
    samples = max(body.get("n") or 1, 1) if splits else 1
    if len(prompts) * samples > MAX_LEGS:
        raise bad_request(f"at most {MAX_LEGS} sequences a request, found {len(prompts) * samples}")
    reason = why_whole(path, body)
    if reason or handed_over:
        whole = Leg(request_id, path, body, headers=headers, name=name)
        whole.why_whole = reason or "it came prefilled"
        whole.sequences = len(prompts) * samples
        whole.handed_over = handed_over
        whole.takes_kv = not reason and whole.sequences == 1
        return [whole]
    if samples > 1:
        body["n"] = 1
    alone = len(prompts) * samples == 1
    encoded: dict[int, bytes] = {}
    legs = []
    for number, prompt in enumerate(prompts):
        cached = asyncio.Event()
        for sample in range(samples):
            index = number * samples + sample
            own = {**body, **prompt}
            if type(own.get("seed")) is int:
                own["seed"] += sample
            suffix = "" if alone else f"-{index}"
            leg = Leg(
                request_id + suffix,
                path,
                own,
                index=index,
                sample=sample,
                headers=headers,
                prefix_cached=cached,
                encoded=encoded,
            )
            leg.name = (name or request_id) + suffix
            legs.append(leg)
    return legs


def _check(path: str, body: dict[str, Any]) -> None:
    """vLLM reads "2" as 2 and "false" as false; fields that this proxy acts on must be exact."""
    if not isinstance(body.get("stream"), bool | None):
        raise bad_request(f"stream: expected true or false, found {body['stream']!a:.60}")
    if not (body.get("n") is None or type(body["n"]) is int):
        raise bad_request(f"n: expected a whole number, found {body['n']!a:.60}")
    model = body.get("model")
    if not isinstance(model, str | None) or not _is_text(model or ""):
        raise bad_request(f"model: expected a name, found {model!a:.60}")
    for name in ("previous_response_id", "background") if path == "/v1/responses" else ():
        if body.get(name):
            raise bad_request(
                f"{name}: a response is kept, if at all, by the engine that wrote it, and the next "
                "request may go to another; send the complete input, without background"
            )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _prompts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A string and a list of token ids are one prompt; a list of either is several."""
    prompt = body.get("prompt")
    if "messages" in body or not isinstance(prompt, list) or not prompt:
        return [{}]
    several = all(isinstance(each, str | list) for each in prompt)
    return [{"prompt": each} for each in prompt] if several else [{}]
