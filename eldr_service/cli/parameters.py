"""How options look in help, and the error when some are missing."""

from typing import Any, Never

import typer
from typer.core import TyperCommand, TyperGroup

from eldr_service.cli.parsing import MAX_UINT32


class Command(TyperCommand):
    """Reports all missing parameters at once, and leaves uninformative types out of the help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Parameters, with names for values: WORKER rather than <str>, nothing after a switch."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; report all that are missing in one error."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if type(error).__name__ != "MissingParameter":  # which typer does not export
                raise
            found, *_ = self.make_parser(ctx).parse_args(args=given)
            missing = [
                _name(parameter)
                for parameter in self.get_params(ctx)
                if parameter.required
                and parameter.value_is_missing(parameter.consume_value(ctx, found)[0])
            ]
            usage: Never = ctx.fail(f"Missing {', '.join(missing)}.")
            return usage


class Group(TyperGroup):
    """The same for the options of a group."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As for a command."""
        return [_plain(parameter) for parameter in super().get_params(ctx)]


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(max(parameter.opts, key=len))


def _plain(parameter: Any) -> Any:
    kind = getattr(parameter, "type_descriptor", None)
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: ""  # its name is enough
    elif parameter.metavar is None and getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None and not getattr(kind, "is_choice", False):
        parameter.metavar = parameter.name.rpartition("_")[2].upper()
    if (getattr(parameter, "max", None) or 0) >= MAX_UINT32:  # the contract's limit
        parameter._get_number_range_help_str = lambda: None
    return parameter
