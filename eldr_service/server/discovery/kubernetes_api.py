"""The Kubernetes API over HTTP: lists, and watches with one JSON text per line."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from eldr_service.server.discovery.source import SourceError

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LIST_SECONDS = 30.0
WATCH_SECONDS = 60  # length of a watch, and so how long a dead connection may go unnoticed
PAGE = 50
"""Objects of a list per request: 2 MB if slices have the usual 100 endpoints."""
MAX_BYTES = 64 << 20
"""Of a page or an event: a slice has at most 1,000 endpoints of about 400 bytes."""

Object = dict[str, Any]


class ApiError(Exception):
    """The API server does not answer, or refuses.

    Attributes
    ----------
    is_expired : bool
        410: the resource version is too old, so list again.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.is_expired = status == 410


class KubernetesAccess(NamedTuple):
    """Where the API server is, and the credentials for it.

    Attributes
    ----------
    url : str
    token, authorities : Path or None
        Files, read for every request, as they rotate.
    """

    url: str
    token: Path | None = None
    authorities: Path | None = None

    @classmethod
    def of(
        cls, url: str | None, token: Path | None, authorities: Path | None
    ) -> "KubernetesAccess":
        """Access as given; without a URL, that of the pod in which this process runs.

        Raises
        ------
        SourceError
            This process does not run in a pod.
        """
        if url:
            return cls(url.rstrip("/"), token, authorities)
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{word}") for word in ("HOST", "PORT"))
        if not host:
            raise SourceError(
                "--kubernetes: not in a pod (KUBERNETES_SERVICE_HOST is not set): give"
                " --kubernetes-api"
            )
        host = f"[{host}]" if ":" in host else host
        url = f"https://{host}:{port or 443}"
        return cls(url, token or POD / "token", authorities or POD / "ca.crt")


class KubernetesApi:
    """Client of the API server. One connection per request: credentials are read for each."""

    def __init__(self, access: KubernetesAccess) -> None:
        self._access = access

    async def read(self, path: str, selection: Mapping[str, str]) -> tuple[list[Object], str]:
        """All selected objects of a path, and their resource version.

        Raises
        ------
        ApiError
        """
        items: list[Object] = []
        query = {**selection, "limit": str(PAGE)}
        while True:
            page = b""
            async for chunk in self._chunks(path, query, aiohttp.ClientTimeout(LIST_SECONDS)):
                page += chunk
            answer = _object(path, page)
            items += answer.get("items") or []
            metadata = answer.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def watch(
        self, path: str, selection: Mapping[str, str], version: str
    ) -> AsyncIterator[list[Object]]:
        """Events after a resource version, in groups as they arrive; first an empty group.

        Ends when the server ends the watch, about every minute. A truncated text is dropped: the
        event comes again.

        Raises
        ------
        ApiError
        """
        query = {
            **selection,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=10, sock_read=WATCH_SECONDS + 10)
        unfinished = b""
        async for chunk in self._chunks(path, query, timeout):
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            if len(unfinished) > MAX_BYTES:
                raise ApiError(f"{path}: expected lines of at most {MAX_BYTES} bytes")
            yield [_object(path, line) for line in lines if line.strip()]

    async def _chunks(
        self, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[bytes]:
        """The answer in chunks; first an empty one, once the server has accepted."""
        url = self._access.url + path
        size = 0
        try:
            headers, tls = await asyncio.to_thread(self._credentials)
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.get(url, params=query, ssl=tls, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    told = await response.content.read(4_096)
                    raise ApiError(_refused(url, response, told), response.status)
                yield b""
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > MAX_BYTES and "watch" not in query:
                        raise ApiError(f"{url}: expected at most {MAX_BYTES} bytes")
                    yield chunk
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(f"{url}: {type(error).__name__}: {error}") from error

    def _credentials(self) -> tuple[dict[str, str], ssl.SSLContext | bool]:
        _, token, authorities = self._access
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token.read_text('utf-8').strip()}"
        return headers, ssl.create_default_context(cafile=authorities) if authorities else True


def _object(path: str, text: bytes) -> Object:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"{path}: expected JSON, found {text[:60]!r}") from error
    if not isinstance(found, dict):
        raise ApiError(f"{path}: expected a JSON object, found {text[:60]!r}")
    return found


def _refused(url: str, response: aiohttp.ClientResponse, text: bytes) -> str:
    """The server's error: usually a Status with a message."""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = response.reason or ""
    return f"{url}: {response.status} {message}".rstrip()
