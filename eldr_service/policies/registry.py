"""Finds the installed policies, and creates one from its name and parameters.

A policy is an entry point of the group `eldr.policies`. Nothing is imported before it is needed,
and a plugin that cannot be imported is listed as broken without affecting the others.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from eldr_service.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    did_you_mean,
)
from eldr_service.policies.policy import Policy, PolicyParameters

GROUP = "eldr.policies"
OWN_DISTRIBUTION = "eldr-service"


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """A description of a policy's parameter.

    Attributes
    ----------
    name, description : str
    default : str
        As it would be written; empty if there is none.
    allowed : str
        What may be written, such as "a number, 0 to 2".
    """

    name: str
    description: str
    default: str
    allowed: str


@dataclass(frozen=True)
class InstalledPolicy:
    """A policy that a distribution provides; imported when more than its name is needed."""

    name: str
    distribution: str
    entry_point: EntryPoint

    @property
    def error(self) -> str | None:
        """Why it cannot be used; None if it can."""
        return self._loaded if isinstance(self._loaded, str) else None

    @property
    def description(self) -> str:
        """What it does, in one line; empty if it is broken."""
        return "" if isinstance(self._loaded, str) else self._loaded[0].description

    @property
    def parameters(self) -> tuple[ParameterInfo, ...]:
        """Its parameters; empty if it is broken."""
        return () if isinstance(self._loaded, str) else self._loaded[1]

    def load(self) -> type[Policy]:
        """Import the policy's class.

        Raises
        ------
        FailedPreconditionError
            The policy is broken.
        """
        if isinstance(self._loaded, str):
            raise FailedPreconditionError(
                f"policy {self.name} of distribution {self.distribution} is broken: {self._loaded}"
            )
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[type[Policy], tuple[ParameterInfo, ...]] | str:
        """Its class and parameters, or what is wrong with it."""
        try:
            policy = _checked(self.name, self.entry_point.load())
            return policy, _described(policy.Parameters)
        except Exception as error:  # noqa: BLE001 - others' code; reported as `error`
            return f"{type(error).__name__}: {error}"


def installed() -> dict[str, InstalledPolicy]:
    """All policies by name, in order of their names.

    If several distributions provide a name, this project's own wins, else the alphabetically
    first; a warning names the others.
    """
    found: dict[str, InstalledPolicy] = {}
    every = [InstalledPolicy(e.name, _distribution(e), e) for e in entry_points(group=GROUP)]
    every.sort(key=lambda p: (p.name, p.distribution != OWN_DISTRIBUTION, p.distribution))
    for policy in every:
        winner = found.setdefault(policy.name, policy)
        if winner is not policy:
            warnings.warn(
                f"policy {policy.name} of distribution {policy.distribution} is ignored:"
                f" {winner.distribution} provides one of that name",
                stacklevel=2,
            )
    return found


@cache
def policy_class(name: str) -> type[Policy]:
    """The class of an installed policy; what failed is looked for again the next time.

    Raises
    ------
    InvalidArgumentError
        Field ``name`` if no such policy is installed.
    FailedPreconditionError
        The policy is broken.
    """
    policies = installed()
    if name not in policies:
        expected = f"one of {', '.join(policies)}"
        raise InvalidArgumentError("name", expected, name, did_you_mean(name, policies))
    return policies[name].load()


def create(name: str, parameters: Mapping[str, str]) -> Policy:
    """Create a policy; omitted parameters have their defaults.

    Raises
    ------
    InvalidArgumentError
        Field ``name`` if no such policy is installed, ``parameters.<key>`` if it has no such
        parameter or does not take that value.
    FailedPreconditionError
        The policy is installed but broken, or its constructor raises.
    """
    policy = policy_class(name)
    try:
        validated = policy.Parameters.model_validate_strings(dict(parameters))
    except ValidationError as error:
        raise _invalid(policy, parameters, error) from error
    try:
        return policy(validated)
    except Exception as error:
        raise FailedPreconditionError(f"policy {name} cannot be created: {error}") from error


def create_prepared(name: str, parameters: Mapping[str, str]) -> Policy:
    """Like `create`, but ready to be put in force; may take seconds to compile kernels.

    Raises
    ------
    InvalidArgumentError, FailedPreconditionError
        As for `create`; the latter also if the policy's `prepare` raises.
    """
    policy = create(name, parameters)
    try:
        policy.prepare()
    except Exception as error:
        raise FailedPreconditionError(f"policy {name} cannot be prepared: {error}") from error
    return policy


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split ``NAME[:key=value,…]``; `create` checks that they exist.

    Raises
    ------
    InvalidArgumentError
        Field ``name`` or ``parameters``, or ``parameters.<key>`` for a key given twice.
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not name:
        raise InvalidArgumentError("name", "NAME[:key=value,…]", text)
    parameters: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            raise InvalidArgumentError("parameters", f"key=value after {name}:", pair)
        if key in parameters:
            raise InvalidArgumentError(f"parameters.{key}", "one value", "a second one")
        parameters[key] = value
    return name, parameters


def changed(name: str, parameters: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Parameters with some replaced, and without those that a replaced one excludes.

    `create` checks that they exist.
    """
    try:
        groups = policy_class(name).Parameters.exclusive
    except (InvalidArgumentError, FailedPreconditionError):
        groups = ()
    gone = {key for group in groups if changes.keys() & set(group) for key in group}
    return {k: v for k, v in parameters.items() if k not in gone} | dict(changes)


def parameters_of(policy: Policy) -> dict[str, str]:
    """All parameters of a policy as written: `create` makes an equal policy from them."""
    return {key: _written(value) for key, value in policy.parameters if value is not None}


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "unknown"


def _checked(name: str, loaded: object) -> type[Policy]:
    if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
        raise TypeError(f"{loaded!r} is not a subclass of eldr_service.policies.Policy")
    if isabstract(loaded):
        raise TypeError(f"{loaded.__name__} does not define pick")
    if loaded.name != name:
        raise TypeError(f"its entry point is called {name}, but its class {loaded.name}")
    if not isinstance(loaded.description, str):
        raise TypeError("its description is not a string")
    return loaded


def _invalid(
    policy: type[Policy], parameters: Mapping[str, str], error: ValidationError
) -> InvalidArgumentError:
    """Turn pydantic's first error into an error of the contract."""
    first = error.errors()[0]
    if not first["loc"]:  # a check across several parameters
        return InvalidArgumentError("parameters", first["msg"], dict(parameters))
    key = str(first["loc"][0])
    if key not in policy.Parameters.model_fields:
        expected = f"a parameter of {policy.name} ({', '.join(policy.Parameters.model_fields)})"
        hint = did_you_mean(key, policy.Parameters.model_fields)
        return InvalidArgumentError(f"parameters.{key}", expected, key, hint)
    own_words = first["type"] in ("value_error", "assertion_error")  # a plugin's own check
    expected = first["msg"] if own_words else _allowed(policy.Parameters, key)
    return InvalidArgumentError(f"parameters.{key}", expected, parameters.get(key, "nothing"))


def _described(parameters: type[PolicyParameters]) -> tuple[ParameterInfo, ...]:
    infos = []
    for name, field in parameters.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        written = "" if default is None else _written(default)
        allowed = _allowed(parameters, name)
        infos.append(ParameterInfo(name, field.description or "", written, allowed))
    return tuple(infos)


def _written(value: Any) -> str:
    value = to_jsonable_python(value)
    return value if isinstance(value, str) else json.dumps(value)


def _allowed(parameters: type[PolicyParameters], name: str) -> str:
    """Describe the allowed values of a parameter, from its JSON schema."""
    schema = parameters.model_json_schema()["properties"][name]
    schema = next(iter(schema.get("anyOf", ())), schema)  # None stands for omitted
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    kinds = {"number": "a number", "integer": "an integer", "boolean": "true or false"}
    words = kinds.get(schema.get("type", ""), "text")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{words}, {low:g} to {high:g}"
    for key, relation in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):
        if key in schema:
            words += f", {relation} {schema[key]:g}"
    return words
