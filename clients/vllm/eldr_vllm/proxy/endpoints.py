"""The endpoints that generate, and how their requests and answers differ."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from eldr_vllm.proxy import sse
from eldr_vllm.proxy.errors import ProxyError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of vLLM's endpoints; the defaults are those of /v1/completions."""

    path: str
    _: KW_ONLY
    # Fields that limit the answer's tokens; the first one present counts.
    limits: tuple[str, ...] = ("max_tokens",)
    # Fields that make up the prompt, in order.
    prompt: tuple[str, ...] = ("prompt",)
    # Fields of the usage that count the prompt's and the answer's tokens.
    usage: tuple[str, str] = ("prompt_tokens", "completion_tokens")
    # Fields that stop an answer, and so might stop a prefill before its first token counts.
    stops: tuple[str, ...] = ("stop", "stop_token_ids")
    # Answers are lists of choices; streams end in [DONE], and include usage if asked to.
    has_choices: bool = True
    # Otherwise: the field with the answer's content, and the event types that precede its first
    # token, and that end it.
    content: str = ""
    preamble: tuple[str, ...] = ()
    last: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether its choices are messages."""
        return self.path.endswith("/chat/completions")

    def failure(self, error: ProxyError) -> bytes:
        """The event that reports, after a 200, that the answer failed; it also ends the stream."""
        if self.has_choices:
            return b"data: " + error.body.replace(b"\n", b" ") + b"\n\n" + sse.DONE
        if self.path == "/v1/messages":
            return sse.encode(error.as_anthropics(), "error")
        said: dict[str, Any] = {"type": "error", "code": error.kind, "message": str(error)}
        return sse.encode({**said, "param": None, "sequence_number": 0}, "error")


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/completions"),
        Endpoint(
            "/v1/chat/completions",
            limits=("max_completion_tokens", "max_tokens"),
            prompt=("messages",),
        ),
        Endpoint(
            "/v1/responses",
            limits=("max_output_tokens",),
            prompt=("instructions", "input"),
            usage=("input_tokens", "output_tokens"),
            has_choices=False,
            content="output",
            preamble=("response.created", "response.in_progress"),
            last=("response.completed", "response.incomplete"),
        ),
        Endpoint(
            "/v1/messages",
            prompt=("system", "messages"),
            usage=("input_tokens", "output_tokens"),
            stops=("stop_sequences",),
            has_choices=False,
            content="content",
            preamble=("message_start",),
            last=("message_stop",),
        ),
    )
}
