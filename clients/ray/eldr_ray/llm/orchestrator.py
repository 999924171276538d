"""Prefill, then decode: what stands between Ray's ingress and the engines."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

from ray.serve.handle import DeploymentHandle

# These concern the answer, and the prefill's one token is not one. It must end by its length: some
# connectors transfer no KV for a prefill that was stopped.
_NOT_FOR_PREFILL = (
    *("n", "stream_options", "min_tokens", "logprobs", "top_logprobs", "echo", "seed"),
    *("stop", "stop_token_ids", "request_id"),
)
_PREFILL = {
    "max_tokens": 1,
    "max_completion_tokens": 1,
    "stream": False,
    "temperature": 0.0,
    "ignore_eos": True,
}


class Orchestrator:
    """Takes the ingress's calls in place of an engine's server.

    Ray's own prefill-decode deployment chooses the decode replica first, which then asks for the
    prefill. Here the prefill comes first, as its experts decide where the request decodes;
    the decode deployment's request router makes that choice.
    """

    def __init__(self, prefill_server: DeploymentHandle, decode_server: DeploymentHandle) -> None:
        self._prefill = prefill_server.options(stream=True)
        self._decode = decode_server.options(stream=True)

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """What the decode replica answers."""
        async for part in self._serve("chat", request, raw_request_info):
            yield part

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """What the decode replica answers."""
        async for part in self._serve("completions", request, raw_request_info):
            yield part

    async def tokenize(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """What a prefill replica answers."""
        async for part in self._ask(self._prefill, "tokenize", request, raw_request_info):
            yield part

    async def detokenize(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """What a prefill replica answers."""
        async for part in self._ask(self._prefill, "detokenize", request, raw_request_info):
            yield part

    async def _serve(self, method: str, request: Any, info: Any) -> AsyncIterator[Any]:
        decode = request.model_copy(deep=True)
        decode.kv_transfer_params = None
        if not _is_whole(request):
            answer: Any = None
            async for part in self._ask(self._prefill, method, _prefill_request(request), info):
                answer = part
            if not hasattr(answer, "choices"):  # an error
                yield answer
                return
            decode.kv_transfer_params = answer.kv_transfer_params
        async for part in self._ask(self._decode, method, decode, info):
            yield part

    @staticmethod
    async def _ask(
        handle: DeploymentHandle, method: str, request: Any, info: Any
    ) -> AsyncIterator[Any]:
        parts = getattr(handle, method).remote(request, info)
        try:
            async for part in parts:
                yield part
        except BaseException:  # the caller has gone, or the replica
            parts.cancel()
            raise


def _prefill_request(request: Any) -> Any:
    """Return the request with the same prompt, for one token, whichever it is."""
    fields = type(request).model_fields
    defaults = {
        name: fields[name].get_default(call_default_factory=True)
        for name in _NOT_FOR_PREFILL
        if name in fields
    }
    transfer = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
        "eldr": {"request_id": uuid.uuid4().hex},
    }
    given = {name: value for name, value in _PREFILL.items() if name in fields}
    copy = request.model_copy(deep=True)
    return copy.model_copy(update={**defaults, **given, "kv_transfer_params": transfer})


def _is_whole(request: Any) -> bool:
    """Whether one engine must serve it, prompt included.

    KV is transferred once, and only for the first of several prompts; beam search never pulls it;
    log probabilities of the prompt are known only where it is computed.
    """
    prompt, n = getattr(request, "prompt", None), getattr(request, "n", None)
    return bool(
        (n or 1) > 1
        or (isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int))
        or getattr(request, "prompt_embeds", None) is not None
        or getattr(request, "use_beam_search", False)
        or getattr(request, "prompt_logprobs", None) is not None
        or getattr(request, "echo", False)
        or (getattr(request, "truncate_prompt_tokens", None) or 0) < 0
    )
