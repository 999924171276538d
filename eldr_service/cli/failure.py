"""What went wrong, in one line that says how to fix it."""

from typing import Any

WORKER_METHODS = ("RegisterWorker", "ReportLoad")
# Message field -> what it is called on the command line.
OPTIONS = {
    "model": "--model",
    "worker_id": "WORKER",
    "request_id": "the request's id",
    "url": "--url",
    "dp_rank": "--dp-rank",
    "group": "--group",
    "labels": "--label",
    "capacity.kv_tokens": "--kv-tokens",
    "capacity.sequences": "--capacity",
    "geometry": "--geometry",
    "counts": "--counts",
    "worker_selector": "--selector",
    "candidate_workers": "--candidate",
    "exclude_workers": "--exclude",
    "pinned_worker": "--pin",
    "lease_ttl": "--lease",
    "num_slots": "--slots",
    "name": "policy",
    "parameters": "",
}


class CommandError(Exception):
    """A command that cannot do what it was asked.

    Parameters
    ----------
    message : str
    hint : str
        What to do about it.
    code : str
        The gRPC status, or FAILED where no call was made.
    **details
        For programs: field, expected, found and so on.
    """

    def __init__(self, message: str, hint: str = "", code: str = "FAILED", **details: Any) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint, self.code, self.details = message, hint, code, details

    def document(self) -> dict[str, Any]:
        """For --json."""
        error = {"code": self.code, "message": self.message, "hint": self.hint, **self.details}
        return {"error": error}


def of_call(error: Any, method: str, server: str, timeout: float) -> CommandError:
    """Turn a `grpc.RpcError` from `/package.Service/Method` into an error with a hint."""
    code, message = error.code().name, error.details() or ""
    details = _details(error)
    field = details.get("field", "")
    if field and message.startswith(f"{field}: "):
        message = f"{_option(field)}{message.removeprefix(field)}"
    hint = ""
    match code:
        case "UNAVAILABLE" if not details:  # gRPC's own, not the daemon's
            if message.endswith("Connection refused"):
                message = f"nothing listens at {server}"
                hint = "is eldr-server running, and at that address (--server)?"
            else:
                reason = message.removeprefix("failed to connect to all addresses; last error: ")
                message = f"no eldr-server answers at {server} ({reason})"
                hint = "is the address right (--server), and does it use TLS (--tls-ca)?"
        case "UNAVAILABLE" if method.endswith("/Route"):
            hint = "eldr workers list shows the workers"
        case "DEADLINE_EXCEEDED":
            message, hint = f"{server} gave no answer within {timeout:g} s", "--timeout sets it"
        case "UNAUTHENTICATED":
            hint = "give a token with --token-file, --token or ELDR_TOKEN"
        case "PERMISSION_DENIED" if message.endswith("lacks the role for this call"):
            hint = f"{method.rpartition('/')[2]} needs {_role(method)}"
        case "UNIMPLEMENTED":
            message = f"{server} does not know {method.strip('/')}"
            hint = "is it an eldr-server of this version, without --admin-listen on another port?"
        case "FAILED_PRECONDITION" if "is there already" in message:
            hint = "--again begins a new life of it, and ends its bookings"
        case "RESOURCE_EXHAUSTED" if "retry_after_seconds" in details:
            hint = f"try again in {details['retry_after_seconds']:g} s"
    return CommandError(message, hint, code, **details)


def _option(field: str) -> str:
    """The option that sets a message's field, and the part of it that is meant."""
    for path, option in OPTIONS.items():
        if field == path or field.startswith(f"{path}."):
            return f"{option}{field.removeprefix(path).replace('.', ' ', 1)}".strip()
    return field


def _role(method: str) -> str:
    service, _, name = method.strip("/").rpartition("/")
    if service.endswith("RouterService"):
        return "the role route, worker or admin"
    return "the role worker or admin" if name in WORKER_METHODS else "the role admin"


def _details(error: Any) -> dict[str, Any]:
    """The machine-readable details in the call's google.rpc.Status."""
    from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
    from google.rpc.status_pb2 import Status

    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for packed in Status.FromString(value).details:
            info, retry = ErrorInfo(), RetryInfo()
            if packed.Unpack(info):
                found |= {"reason": info.reason, **info.metadata}
            elif packed.Unpack(retry):
                found["retry_after_seconds"] = retry.retry_delay.ToNanoseconds() / 1e9
    return found
