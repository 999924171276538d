"""The experts that vLLM and SGLang return with an answer, and the tokens they belong to."""

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings.answer_files import Logged, answer_id

_LATEST = 1e11  # Unix seconds of the year 5138; milliseconds are beyond
_NPY = b"\x93NUMPY"
_STARTS = ("routed_experts_prompt_start", "routed_experts_start_len")  # vLLM's, SGLang's


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Returned:
    """An answer with known experts.

    Attributes
    ----------
    place : str
    experts : ndarray of int, shape [tokens, hidden layers, top_k]
        Of the prompt's tokens from `start` on and of the answer's, except its last, which passed no
        layer. Layers that are not MoE are 0.
    prompt_tokens, output_tokens, start : int
    name : str
        The answer's id; empty if it has none.
    """

    place: str
    experts: NDArray[np.integer]
    prompt_tokens: int
    output_tokens: int
    start: int
    name: str = ""


def returned(logged: Logged, shape: tuple[int, int] | None) -> Iterator[Returned]:
    """The experts in an answer, one per choice; nothing if it has none.

    Parameters
    ----------
    logged : Logged
    shape : (int, int), optional
        Hidden layers and top_k. SGLang's numbers carry none; vLLM's must match, if given.

    Raises
    ------
    ValueError
        Says which field is invalid.
    """
    body = logged.body
    if "choices" not in body:
        meta = body["meta_info"]
        if meta.get("routed_experts") is not None:
            prompt = _number(meta.get("prompt_tokens"), "meta_info.prompt_tokens")
            output = _number(meta.get("completion_tokens"), "meta_info.completion_tokens")
            yield _checked(logged, meta["routed_experts"], shape, prompt, output)
        return
    choices = body["choices"]
    alone = len(choices) == 1
    beside = body.get("sglext") or {}
    for choice in choices:
        experts = choice.get("routed_experts") or (choice.get("sglext") or beside).get(
            "routed_experts"
        )
        if experts is not None:
            prompts = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
            prompt = _length(prompts, body, "prompt", alone)
            output = _length(choice.get("token_ids"), body, "completion", alone)
            yield _checked(logged, experts, shape, prompt, output)


def field(record: dict[str, Any], path: str) -> Any:
    """The value at a path such as `metadata.tenant`, None if there is none."""
    found: Any = record
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def moment(value: Any) -> float:
    """Unix seconds from a number or an ISO 8601 text (UTC by default); ValueError otherwise."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST:
        return float(value)
    if isinstance(value, str):
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    raise ValueError(f"expected Unix seconds or ISO 8601, found {str(value)[:40]}")


def _checked(
    logged: Logged, text: Any, shape: tuple[int, int] | None, prompt: int, output: int
) -> Returned:
    experts = _decoded(text, shape)
    start = _start(logged)
    expected = prompt + output - 1 - start
    if not 0 <= start <= prompt or len(experts) != expected:
        said = f"from {start} on " if start else ""
        raise ValueError(
            f"routed_experts has {len(experts)} tokens, expected {expected}: the {prompt} of the"
            f" prompt {said}and the {output} of the answer except the last; a request's"
            f" {_STARTS[0]} or {_STARTS[1]} must be logged with it"
        )
    return Returned(
        place=logged.place,
        experts=experts,
        prompt_tokens=prompt,
        output_tokens=output,
        start=start,
        name=answer_id(logged.body) or "",
    )


def _decoded(text: Any, shape: tuple[int, int] | None) -> NDArray[np.integer]:
    if not isinstance(text, str):
        raise ValueError(f"routed_experts must be base64, found {type(text).__name__}")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"routed_experts must be base64: {error}") from error
    experts = _npy(data) if data.startswith(_NPY) else _raw(data, shape)
    if shape is not None and shape != experts.shape[1:]:
        raise ValueError(
            "routed_experts is of {} layers and top-{}, expected {} and top-{}".format(
                *experts.shape[1:], *shape
            )
        )
    return experts


def _npy(data: bytes) -> NDArray[np.integer]:
    """vLLM's format: an array as a .npy file, checked against its length."""
    file = io.BytesIO(data)
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if major > 1:
            read = np.lib.format.read_array_header_2_0
        dims, fortran, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"routed_experts must be a .npy array: {error}") from error
    there = len(data) - file.tell()
    if len(dims) != 3 or dtype.kind not in "iu" or min(dims[1:]) < 1 or dims[0] < 0:
        raise ValueError(
            f"routed_experts must be integers [tokens, layers, top_k], found {dtype} {list(dims)}"
        )
    if math.prod(dims) * dtype.itemsize != there:
        raise ValueError(
            f"routed_experts says {list(dims)} of {dtype}, {math.prod(dims) * dtype.itemsize}"
            f" bytes, but has {there}"
        )
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(dims, order="F" if fortran else "C")


def _raw(data: bytes, shape: tuple[int, int] | None) -> NDArray[np.integer]:
    """SGLang's format: little-endian int32, without a shape."""
    if shape is None:
        raise ValueError("SGLang's routed_experts carries no shape: layers and top_k must be given")
    if len(data) % (4 * math.prod(shape)):
        raise ValueError(
            f"routed_experts holds {len(data)} bytes, expected tokens of int32 for"
            f" {shape[0]} layers of top-{shape[1]}, a multiple of {4 * math.prod(shape)}"
        )
    return np.frombuffer(data, "<i4").reshape(-1, *shape)


def _start(logged: Logged) -> int:
    """The first returned token of the prompt: asked for in the request, so maybe logged there."""
    request = ("request", "request.body", "request.sampling_params")
    places = [logged.record, logged.body, logged.body.get("meta_info")]
    places += [field(logged.record, path) for path in request]
    for place in places:
        for name in _STARTS:
            if isinstance(place, dict) and place.get(name) is not None:
                return _number(place[name], name)
    return 0


def _length(tokens: Any, body: dict[str, Any], kind: str, alone: bool) -> int:
    """Tokens of a prompt or an answer, from their ids or from usage, which counts all choices."""
    if isinstance(tokens, list):
        return len(tokens)
    if not alone:
        raise ValueError(
            "usage counts several choices together: their prompt_token_ids and token_ids are"
            " needed (return_token_ids in the request)"
        )
    return _number(field(body, f"usage.{kind}_tokens"), f"usage.{kind}_tokens")


def _number(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a number of tokens, found {value!r}")
    return value
