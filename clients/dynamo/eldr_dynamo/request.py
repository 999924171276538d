"""A request as Dynamo's frontend sends it to a decode worker."""

from collections.abc import Mapping
from typing import Any

from eldr_client import Handoff

Request = Mapping[str, Any]


def handoff(request: Request) -> Handoff:
    """What ELDR's connector in the prefill engine says; empty without connector or prefill."""
    return Handoff.of(_transfer_params(request).get("eldr")) or Handoff()


def with_booking(request: Request, request_id: str, attempt: int, lease_id: str) -> dict[str, Any]:
    """Return the request for the decode engine, with the booking in place of the counts.

    The engine's connector then reports the booking as held and ends it. A request without KV from a
    prefill stays as it is.
    """
    params = _transfer_params(request)
    if not params:
        return dict(request)
    booking = {
        "request_id": request_id,
        "attempt": attempt,
        "lease_id": lease_id,
        "num_sequences": sequences(request),
    }
    return _replaced(request, {**params, "eldr": booking})


def without_eldr(request: Request) -> dict[str, Any]:
    """Return the request for a decode engine without a booking."""
    params = _transfer_params(request)
    if "eldr" not in params:
        return dict(request)
    return _replaced(request, {name: value for name, value in params.items() if name != "eldr"})


def sequences(request: Request) -> int:
    """How many sequences the request decodes into."""
    n = (request.get("sampling_options") or {}).get("n")
    return n if isinstance(n, int) and n > 0 else 1


def output_limit(request: Request) -> int:
    """Output tokens that one sequence may have at most; 0 for no limit."""
    limit = (request.get("stop_conditions") or {}).get("max_tokens")
    return limit if isinstance(limit, int) and 0 < limit < 1 << 32 else 0


def _transfer_params(request: Request) -> Mapping[str, Any]:
    params = ((request.get("prefill_result") or {}).get("disaggregated_params") or {}).get(
        "kv_transfer_params"
    )
    return params if isinstance(params, Mapping) else {}


def _replaced(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    result = request["prefill_result"]
    disaggregated = {**result["disaggregated_params"], "kv_transfer_params": params}
    return {**request, "prefill_result": {**result, "disaggregated_params": disaggregated}}
