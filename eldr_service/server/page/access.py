"""Who may see the page, and act on it.

Without tokens: any program on this machine, which can do the same by gRPC on loopback. A browser
that another site has led here names another host in `Host`, and is refused. With tokens: callers
with the role `admin`, by ``Authorization: Bearer TOKEN``, or by the password that the browser asks
for, with any user name. Other machines, whose credentials would cross the network in the clear:
only with `--insecure`; through `ssh -L` and `kubectl port-forward` they connect from this machine.
"""

import base64
import binascii
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web

from eldr_service.core.errors import EldrError
from eldr_service.server.rpc.caller import ANYONE, Caller
from eldr_service.server.rpc.errors import PermissionDeniedError, UnauthenticatedError

CallerOf = Callable[[str], Awaitable[Caller]]
"""Returns the caller that a token names; raises UnauthenticatedError."""
_LOCAL_NAMES = ("localhost",)


class Access:
    """Lets requests through, or refuses them and says why.

    Parameters
    ----------
    caller_of : callable, or None
        None if the daemon has no tokens.
    insecure : bool
        Other machines may see the page too.
    closed : bool
        Callers identify themselves by certificates alone, which this listener does not ask for.
    """

    def __init__(self, caller_of: CallerOf | None, insecure: bool, closed: bool = False) -> None:
        self._caller_of = caller_of
        self._insecure = insecure
        self._closed = closed and not insecure

    async def caller(self, request: web.Request) -> Caller:
        """The caller of a request.

        Raises
        ------
        aiohttp.web.HTTPUnauthorized, aiohttp.web.HTTPForbidden
        """
        if self._closed:
            raise web.HTTPForbidden(
                text="With client certificates alone a browser cannot identify itself: start"
                " eldr-server with --tokens too, or with --insecure.\n"
            )
        if not (self._insecure or _is_local(request.remote)):
            raise web.HTTPForbidden(
                text="The page is shown on the daemon's own machine only: use ssh -L or kubectl"
                " port-forward, or start eldr-server with --insecure.\n"
            )
        if self._caller_of is None:
            if not (self._insecure or _names_this_machine(request.host)):
                raise web.HTTPForbidden(text="Expected a Host header that names this machine.\n")
            return ANYONE
        try:
            caller = await self._caller_of(_token(request.headers.get("Authorization", "")))
            if "admin" not in caller.roles:
                raise PermissionDeniedError(f"token {caller.name} lacks the role admin")
        except UnauthenticatedError as error:
            raise web.HTTPUnauthorized(
                text=f"{error}\n",
                headers={"WWW-Authenticate": 'Basic realm="ELDR: token as password"'},
            ) from error
        except EldrError as error:
            raise web.HTTPForbidden(text=f"{error}\n") from error
        return caller


def _token(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return password
    return ""


def _is_local(remote: str | None) -> bool:
    return remote is not None and _is_loopback(remote)


def _names_this_machine(host: str) -> bool:
    """Whether a Host header, without its port, names loopback."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name in _LOCAL_NAMES or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
