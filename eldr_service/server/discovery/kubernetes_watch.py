"""Objects of one kind as the API server has them: listed once, then watched."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from eldr_service.server.discovery.kubernetes_api import ApiError, KubernetesApi, Object

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a failed request is retried; doubled each time."""
SETTLED_SECONDS = 5.0
"""After a watch that lasted this long, the next follows at once."""

log = structlog.get_logger("eldr")


class KubernetesWatch:
    """Keeps up to date with a path of the API.

    Parameters
    ----------
    api : KubernetesApi
    path : str
    selection : mapping
        `labelSelector` or `fieldSelector`.

    Attributes
    ----------
    objects : mapping of str to dict, or None
        By name; None before the first list.
    trouble : str
        Why they may be out of date; empty if they are not.
    """

    def __init__(self, api: KubernetesApi, path: str, selection: Mapping[str, str]) -> None:
        self.objects: dict[str, Object] | None = None
        self.trouble = ""
        self._api, self._path, self._selection = api, path, selection
        self._version = ""  # empty: list first
        self._objects: dict[str, Object] = {}

    async def follow(self, tell: Callable[[], None]) -> None:
        """Keep `objects` and `trouble` up to date, and call `tell` at every change, without end."""
        wait = 0.0
        while True:
            began, failed = time.monotonic(), False
            try:
                if not self._version:
                    await self._list()
                    tell()
                await self._watch(tell)
            except ApiError as error:
                failed = True
                if error.is_expired:
                    self._version = ""
                    log.debug("watch expired", path=self._path)
                else:
                    self.trouble = str(error)
                    tell()
            if time.monotonic() - began > SETTLED_SECONDS:
                wait = 0.0
            else:
                wait = min(max(FIRST_WAIT, 2 * wait), LONGEST_WAIT) if failed else FIRST_WAIT
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # not all daemons at once

    async def _list(self) -> None:
        items, self._version = await self._api.read(self._path, self._selection)
        self._objects = {_name(item): item for item in items}
        self.objects, self.trouble = dict(self._objects), ""

    async def _watch(self, tell: Callable[[], None]) -> None:
        """Apply events until the watch ends, usually by the server."""
        async for events in self._api.watch(self._path, self._selection, self._version):
            changed = bool(self.trouble)
            self.trouble = ""
            for event in events:
                changed |= self._take(event)
            if changed:
                self.objects = dict(self._objects)
                tell()

    def _take(self, event: Object) -> bool:
        """Apply an event; returns whether an object has changed."""
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            message = f"{self._path}: {item.get('code')} {item.get('message')}"
            raise ApiError(message, item.get("code", 0))
        version = (item.get("metadata") or {}).get("resourceVersion")
        if kind in ("ADDED", "MODIFIED"):
            self._objects[_name(item)] = item
        elif kind == "DELETED":
            self._objects.pop(_name(item), None)
        elif kind != "BOOKMARK":
            raise ApiError(f"{self._path}: expected an event, found one of type {kind!r}")
        self._version = str(version) if version else self._version
        return bool(kind != "BOOKMARK")


def _name(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("name", ""))
