"""Turns an EndpointSlice and its Service into workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.worker import WorkerState
from eldr_service.server.discovery.described import described
from eldr_service.server.discovery.kubernetes_api import Object
from eldr_service.server.discovery.source import Found, Key
from eldr_service.server.origins import KEYS, read_traits

PREFIX = "eldr/"
SERVICE_NAME = "kubernetes.io/service-name"
FAMILIES = ("IPv4", "IPv6", "FQDN")
OF_KUBERNETES = ("kubernetes.io", "k8s.io")


def service_of(item: Object) -> str:
    """The name of the Service that a slice belongs to; empty if there is none."""
    return str(_metadata(item, "labels").get(SERVICE_NAME, ""))


def workers_of(
    item: Object, service: Object | None, texts: Mapping[str, str], default_capacity: int
) -> list[tuple[Key, Found]]:
    """The workers of a slice.

    Their traits come, in increasing precedence, from `texts`, from labels `eldr/KEY` and from
    annotations of that name; those of the slice take precedence over the Service's.

    Raises
    ------
    InvalidArgumentError
        Something in it is wrong.
    """
    objects = [service, item] if service else [item]
    said = dict(texts)
    labels: dict[str, str] = {}
    for each in objects:
        labels |= {k: v for k, v in _metadata(each, "labels").items() if _is_a_users(k)}
    for kind in ("labels", "annotations"):  # Kubernetes copies a Service's labels to its slices
        for each in objects:
            found = _metadata(each, kind)
            said |= {key: found[PREFIX + key] for key in KEYS if PREFIX + key in found}
    traits = read_traits(said)
    serving = [(e, state) for e in item.get("endpoints") or [] if (state := state_of(e))]
    port = _port(item.get("ports") or [], traits.port) if serving else 0
    return [
        described(
            traits,
            (endpoint.get("targetRef") or {}).get("name") or where,
            where,
            default_capacity,
            labels | dict(_places(endpoint)),
            state,
        )
        for endpoint, state in serving
        for where in [_where(item, endpoint, port)]
    ]


def state_of(endpoint: Mapping[str, Any]) -> WorkerState | None:
    """The worker state for an endpoint's conditions; None if it has ended.

    Defaults: `ready`, `serving` if it is ready, and not `terminating`.
    """
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready")
    serving = conditions.get("serving")
    ready = True if ready is None else ready
    serving = ready if serving is None else serving
    if conditions.get("terminating"):
        return WorkerState.DRAINING if serving else None
    return WorkerState.READY if ready else WorkerState.JOINING


def _port(ports: Sequence[Mapping[str, Any]], wanted: str) -> int:
    """The number of the port with this name or number; by default the only one, or `http`."""
    if wanted.isdecimal():
        number = int(wanted)
        if not 0 < number < 1 << 16:
            raise InvalidArgumentError("port", "a name, or 1 to 65535", wanted)
        return number
    name = wanted or "http"
    named = {str(port.get("name") or ""): int(port.get("port") or 0) for port in ports}
    only = sum(named.values()) if len(named) == 1 and not wanted else 0
    if not (found := named.get(name) or only):
        there = ", ".join(each or "one without a name" for each in named) or "no ports"
        raise InvalidArgumentError("port", f"{name} among the slice's ports", there)
    return found


def _where(item: Object, endpoint: Mapping[str, Any], port: int) -> str:
    """HOST:PORT of an endpoint; its addresses are interchangeable, according to the API."""
    address = next(iter(endpoint.get("addresses") or []), "")
    if not address:
        raise InvalidArgumentError("endpoints.addresses", "an address", "none")
    return f"[{address}]:{port}" if item.get("addressType") == "IPv6" else f"{address}:{port}"


def _places(endpoint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label, field in (("node", "nodeName"), ("zone", "zone")):
        if endpoint.get(field):
            yield label, endpoint[field]


def _metadata(item: Object, kind: str) -> dict[str, str]:
    return (item.get("metadata") or {}).get(kind) or {}


def _is_a_users(label: str) -> bool:
    """Whether it is neither Kubernetes' own label nor one that is read here."""
    domain, slash, _ = label.partition("/")
    return not slash or not (label.startswith(PREFIX) or domain.endswith(OF_KUBERNETES))
