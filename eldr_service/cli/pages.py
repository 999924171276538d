"""HTTP pages, fetched concurrently, each within a timeout."""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

MOST_BYTES = 64 << 20
MOST_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Page:
    """The result of one GET.

    Attributes
    ----------
    url : str
    status : int
        0 if there was no answer.
    text : str
    error : str
        Why there was no answer.
    refused : bool
        The host is up, and nothing listens on that port.
    ahead : float or None
        Seconds by which its clock is ahead of ours, to half a second; None if unknown.
    """

    url: str
    status: int = 0
    text: str = field(default="", repr=False)
    error: str = ""
    refused: bool = False
    ahead: float | None = None


def fetch(
    urls: Iterable[str], seconds: float, headers: Mapping[str, str] | None = None
) -> dict[str, Page]:
    """GET each URL once, and return the pages by URL. Redirects are not followed."""
    return asyncio.run(_fetch(list(dict.fromkeys(urls)), seconds, headers))


async def _fetch(
    urls: list[str], seconds: float, headers: Mapping[str, str] | None
) -> dict[str, Page]:
    import aiohttp  # late: a tenth of a second

    some = asyncio.Semaphore(MOST_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=seconds)

    async def get(url: str) -> Page:
        async with some:
            try:
                async with session.get(url, allow_redirects=False) as answer:
                    body = await answer.content.read(MOST_BYTES) if answer.status else b""
                    while len(body) < MOST_BYTES and (more := await answer.content.readany()):
                        body += more
                    return Page(
                        url=url,
                        status=answer.status,
                        text=body.decode(errors="replace"),
                        ahead=_ahead(answer.headers.get("Date", "")),
                    )
            except TimeoutError:
                return Page(url=url, error=f"no answer within {seconds:g} s")
            except aiohttp.ClientConnectorError as error:
                if isinstance(error.os_error, socket.gaierror):
                    return Page(url=url, error="its name does not resolve here")
                refused = isinstance(error.os_error, ConnectionRefusedError)
                why = "nothing listens there" if refused else error.os_error.strerror
                return Page(url=url, error=why or str(error.os_error), refused=refused)
            except (aiohttp.ClientError, ValueError, OSError) as error:
                return Page(url=url, error=f"no HTTP there ({type(error).__name__})")

    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        return {page.url: page for page in await asyncio.gather(*map(get, urls))}


def _ahead(date: str) -> float | None:
    try:
        there = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    return there + 0.5 - time.time()  # the header is truncated to whole seconds
