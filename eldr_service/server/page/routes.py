"""The page's paths: `/`, its files below `/page/`, and the calls that it makes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

from eldr_service.core.errors import EldrError, NotFoundError, UnavailableError
from eldr_service.policies.registry import installed
from eldr_service.server.page.access import Access
from eldr_service.server.page.actions import Actions
from eldr_service.server.page.watch import TooManyViewersError, Watch
from eldr_service.server.rpc.errors import PermissionDeniedError

MOST_BYTES = 4_096
"""Of a request's body."""
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """Serves the page; add its `paths` to an application."""

    def __init__(self, access: Access, watch: Watch, actions: Actions) -> None:
        self._access = access
        self._watch = watch
        self._actions = actions
        folder = files("eldr_service.server.page") / "static"
        self._parts = {part.name: part.read_bytes() for part in folder.iterdir() if part.is_file()}

    def paths(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler) of each."""
        return [
            ("GET", "/", self._part),
            ("GET", "/page/state", self._state),
            ("GET", "/page/events", self._events),
            ("GET", "/page/policies", self._policies),
            ("POST", "/page/policy", self._set_policy),
            ("POST", "/page/drain", self._drain),
            ("GET", "/page/{part}", self._part),
        ]

    async def _part(self, request: web.Request) -> web.Response:
        await self._access.caller(request)
        name = request.match_info.get("part", "index.html")
        if (body := self._parts.get(name)) is None:
            raise web.HTTPNotFound
        kind = _KINDS[name[name.rindex(".") :]]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_SAFE)

    async def _state(self, request: web.Request) -> web.Response:
        caller = await self._access.caller(request)
        documents = self._watch.documents(caller, request.query.get("model"))
        try:
            first = await anext(documents)
        except TooManyViewersError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error
        finally:
            await documents.aclose()  # type: ignore[attr-defined]
        return web.Response(body=first, content_type="application/json", headers=_SAFE)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        caller = await self._access.caller(request)
        response = web.StreamResponse(headers={**_SAFE, "Content-Type": "text/event-stream"})
        documents = self._watch.documents(caller, request.query.get("model"))
        try:
            first = await anext(documents)
        except TooManyViewersError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error
        try:
            await response.prepare(request)
            await response.write(b"data: " + first + b"\n\n")
            async for each in documents:
                await response.write(b"data: " + each + b"\n\n")
        except (ConnectionError, asyncio.CancelledError):
            pass  # the viewer has gone, or the daemon is stopping
        finally:
            await documents.aclose()  # type: ignore[attr-defined]
        return response

    async def _policies(self, request: web.Request) -> web.Response:
        await self._access.caller(request)
        policies = [
            {"name": policy.name, "description": policy.description}
            for policy in installed().values()
            if not policy.error
        ]
        return web.json_response(policies, headers=_SAFE)

    async def _set_policy(self, request: web.Request) -> web.Response:
        caller = await self._access.caller(request)
        wanted = await _asked(request, "model", "policy")
        return await _answered(self._actions.set_policy(caller, wanted["model"], wanted["policy"]))

    async def _drain(self, request: web.Request) -> web.Response:
        caller = await self._access.caller(request)
        wanted = await _asked(request, "model", "worker")
        return await _answered(self._actions.drain(caller, wanted["model"], wanted["worker"]))


async def _asked(request: web.Request, *names: str) -> dict[str, str]:
    """The texts of a JSON object; another site's page cannot send that type without asking."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Expected application/json.\n")
    if (request.content_length or MOST_BYTES + 1) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES, request.content_length or 0)
    try:
        found: Any = json.loads(await request.read())
    except ValueError as error:
        raise web.HTTPBadRequest(text="Expected a JSON object.\n") from error
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        raise web.HTTPBadRequest(text=f"Expected a JSON object with {' and '.join(names)}.\n")
    if not all(isinstance(found[name], str) for name in names):
        raise web.HTTPBadRequest(text=f"Expected texts for {' and '.join(names)}.\n")
    return found


async def _answered(done: Awaitable[None]) -> web.Response:
    try:
        await done
    except NotFoundError as error:
        raise web.HTTPNotFound(text=f"{error}\n") from error
    except PermissionDeniedError as error:
        raise web.HTTPForbidden(text=f"{error}\n") from error
    except UnavailableError as error:
        raise web.HTTPServiceUnavailable(text=f"{error}\n") from error
    except EldrError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
    return web.Response(status=204, headers=_SAFE)
