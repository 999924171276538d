"""The caller's roles and models, from its credentials."""

import fnmatch
import re
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from eldr_service.server.rpc.errors import PermissionDeniedError

ROLES = frozenset({"route", "worker", "admin"})

_REFLECTION = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
_ROUTER = "/eldr.v1.RouterService/"
_OF_WORKERS = frozenset(
    {"/eldr.v1.FleetService/RegisterWorker", "/eldr.v1.FleetService/ReportLoad"}
)


class Models:
    """Names of models, in which `*` matches any characters.

    Raises
    ------
    ValueError
        They are not a list of names.
    """

    def __init__(self, names: object) -> None:
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise ValueError('expected a list of model names such as ["qwen*"]')
        self._names = frozenset(names)
        # fnmatch never backtracks over a `*`; its other special characters are literal here.
        patterns = [re.sub(r"[[?]", r"[\g<0>]", name) for name in names if "*" in name]
        self._pattern = re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")
        self._includes = lru_cache(maxsize=1_024)(self._look)

    def __contains__(self, name: str) -> bool:
        return self._includes(name)

    def _look(self, name: str) -> bool:
        return name in self._names or self._pattern.match(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller that a token stands for.

    Attributes
    ----------
    models : Models or None
        Those that the caller may access; None for all.
    expires : float
        Unix time at which the token expires.
    """

    name: str
    roles: Collection[str]
    models: Models | None = None
    expires: float = float("inf")

    def may_call(self, method: str) -> bool:
        """Whether the roles allow this full method name, which need not exist."""
        if "admin" in self.roles:
            return True
        if method.startswith((_ROUTER, *_REFLECTION)):
            return bool(self.roles)  # each role includes RouterService
        return "worker" in self.roles and method in _OF_WORKERS

    def may_touch(self, model: str) -> bool:
        """Whether the model is one of the caller's."""
        return self.models is None or model in self.models


ANYONE = Caller(name="anyone", roles=ROLES)
# Of the call being served.
CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def own(model: str) -> str:
    """Return a model's name if the caller may access it, whether or not it exists.

    Raises
    ------
    PermissionDeniedError
    """
    caller = CALLER.get()
    if caller.models is not None and model not in caller.models:
        raise PermissionDeniedError(f"token {caller.name} is not for this model")
    return model
