"""Flags made from the settings' fields, and one-line refusals that say what is wrong."""

import argparse
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import NoReturn

from pydantic.fields import FieldInfo

from eldr_service.core.errors import did_you_mean

PROGRAM = "eldr-server"


def flag(field: str) -> str:
    """The flag that sets a field."""
    return "--" + field.replace("_", "-")


def refuse(*messages: str) -> NoReturn:
    """Print what is wrong and exit with the status of wrong usage."""
    for message in messages:
        print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(2)


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage of all options."""

    def error(self, message: str) -> NoReturn:
        refuse(message.removeprefix("argument "))


def read_flags(argv: list[str], fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Return the values given to the fields' flags, as written.

    Raises
    ------
    SystemExit
        0 after --help or --version, 2 after a message on stderr.
    """
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [OPTION]...",
        description="Places prefilled requests on decode workers by the experts that they use.",
        epilog="Every option can also be given as a variable (ELDR_LOG_FORMAT=json) and in the"
        ' --config file (log_format = "json"). Flags override variables, and variables override'
        " the file. The file can also declare the geometry of models: [[models]] with name,"
        " num_layers, num_experts and top_k.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {version('eldr-service')}"
    )
    for name, field in fields.items():
        if field.annotation is bool:
            parser.add_argument(
                flag(name), action="store_const", const="true", help=field.description
            )
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, Mapping)
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            flag(name), metavar=str(extra["metavar"]), help=f"{field.description}{shown}"
        )
    flags, rest = parser.parse_known_args(argv)
    if rest:
        word = rest[0].partition("=")[0]
        if word.startswith("-"):
            hint = did_you_mean(word, map(flag, fields)) or "; see --help"
            refuse(f"{word}: unknown option{hint}")
        refuse(f"{word}: unexpected argument; options begin with --, see --help")
    return vars(flags)
