"""Finds the pods behind Kubernetes Services, by their EndpointSlices."""

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

from eldr_service.core.errors import InvalidArgumentError
from eldr_service.core.worker import WorkerState
from eldr_service.server.discovery.endpoint_slices import (
    FAMILIES,
    SERVICE_NAME,
    service_of,
    workers_of,
)
from eldr_service.server.discovery.kubernetes_api import KubernetesApi, Object
from eldr_service.server.discovery.kubernetes_watch import KubernetesWatch
from eldr_service.server.discovery.source import Fail, Found, Key, Snapshot, Take
from eldr_service.server.origins import Origin

# A moving endpoint is in two slices for a while; its most alive state counts.
_STATES = (WorkerState.READY, WorkerState.DRAINING, WorkerState.JOINING)


class _Read(NamedTuple):
    """A slice and its Service; if it is faulty, `workers` are the last good ones."""

    item: Object
    service: Object | None
    workers: list[tuple[Key, Found]]
    flaw: str


class KubernetesSource:
    """The pods behind a Service, or behind all Services that match a label selector.

    Parameters
    ----------
    api : KubernetesApi
    origin : Origin
        `where` is NAMESPACE/SERVICE or NAMESPACE/SELECTOR (of labels).
    default_capacity : int
        Sequences of a worker without a stated capacity.
    """

    def __init__(self, api: KubernetesApi, origin: Origin, default_capacity: int) -> None:
        self.name = f"kubernetes:{origin.where}"
        self._texts = origin.texts
        self._default_capacity = default_capacity
        namespace, _, wanted = origin.where.partition("/")
        of_slices, of_services = {"labelSelector": wanted}, {"labelSelector": wanted}
        if is_service(wanted):
            of_slices = {"labelSelector": f"{SERVICE_NAME}={wanted}"}
            of_services = {"fieldSelector": f"metadata.name={wanted}"}
        base = f"namespaces/{namespace}"
        slices = f"/apis/discovery.k8s.io/v1/{base}/endpointslices"
        self._slices = KubernetesWatch(api, slices, of_slices)
        self._services = KubernetesWatch(api, f"/api/v1/{base}/services", of_services)
        self._read: dict[str, _Read] = {}  # by slice

    async def follow(self, take: Take, fail: Fail) -> None:
        """Report the workers of all slices, now and whenever slices or their Services change."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for watch in (self._slices, self._services):
                tasks.create_task(watch.follow(changed.set))
            while await changed.wait():
                changed.clear()
                slices, services = self._slices.objects, self._services.objects
                if trouble := self._slices.trouble or self._services.trouble:
                    fail(trouble)
                elif slices is not None and services is not None:
                    await take(*await self._snapshot(slices, services))

    async def _snapshot(
        self, slices: Mapping[str, Object], services: Mapping[str, Object]
    ) -> tuple[Snapshot, str]:
        """The workers, and any faults in slices, whose last good state is used."""
        best: dict[Key, tuple[tuple[int, int], Found]] = {}
        self._read = {name: read for name, read in self._read.items() if name in slices}
        for name, item in slices.items():
            service = services.get(service_of(item))
            read = self._read.get(name)
            if read is None or read.item is not item or read.service is not service:
                self._read[name] = read = self._again(item, service, read)
                await asyncio.sleep(0)  # a hundred workers take some milliseconds
            kind = item.get("addressType")
            family = FAMILIES.index(kind) if kind in FAMILIES else len(FAMILIES)
            for key, found in read.workers:
                rank = family, _STATES.index(found.state)
                if key not in best or rank < best[key][0]:
                    best[key] = rank, found
        flaws = (
            f"EndpointSlice {name}: {read.flaw}" for name, read in self._read.items() if read.flaw
        )
        return {key: found for key, (_, found) in best.items()}, next(flaws, "")

    def _again(self, item: Object, service: Object | None, before: "_Read | None") -> "_Read":
        try:
            workers = workers_of(item, service, self._texts, self._default_capacity)
        except InvalidArgumentError as error:
            return _Read(item, service, before.workers if before else [], str(error))
        return _Read(item, service, workers, "")


def is_service(wanted: str) -> bool:
    """Whether it is a Service's name rather than a label selector."""
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", wanted) is not None
