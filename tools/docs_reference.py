"""The site's reference, generated from .proto files and each program's options."""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer
from eldr_vllm.proxy.cli import _parser as proxy_parser
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.rpc import status_pb2
from grpc_tools import protoc

from eldr_service.cli.app import app
from eldr_service.cli.command import PANEL
from eldr_service.server.config import Settings
from eldr_service.server.flags import flag
from eldr_service.server.options import PREFIX, ModelDeclaration

ROOT = Path(__file__).parents[1]
GOOGLE = Path(status_pb2.__file__).parents[2]
PACKAGE = ".eldr.v1."
FIELD = FieldDescriptorProto


def pages() -> dict[str, str]:
    """Every page of the reference, by file name."""
    described = descriptors()
    where = {name: f"{stem(file)}.md" for file in described for name in names_in(file)}
    return {
        "eldr-server.md": server_page(),
        "eldr.md": commands_page(),
        "eldr-proxy.md": proxy_page(),
        **{f"{stem(file)}.md": ProtoPage(file, where).text() for file in described},
    }


# --- the contract


def descriptors() -> list[FileDescriptorProto]:
    """The project's .proto files, with comments."""
    protos = sorted((ROOT / "protos").glob("eldr/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set")
        paths = (ROOT / "protos", files("grpc_tools") / "_proto", GOOGLE)
        arguments = ["protoc", *(f"-I{path}" for path in paths), f"--descriptor_set_out={out}"]
        if protoc.main([*arguments, "--include_source_info", *map(str, protos)]):
            sys.exit("protoc failed")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def stem(file: FileDescriptorProto) -> str:
    return Path(file.name).stem


def names_in(file: FileDescriptorProto) -> Iterator[str]:
    """Full names of messages and enums, including nested ones."""

    def inside(message: DescriptorProto, prefix: str) -> Iterator[str]:
        yield prefix + message.name
        yield from (f"{prefix}{message.name}.{enum.name}" for enum in message.enum_type)
        for nested in message.nested_type:
            if not nested.options.map_entry:
                yield from inside(nested, f"{prefix}{message.name}.")

    for message in file.message_type:
        yield from inside(message, "")
    yield from (enum.name for enum in file.enum_type)


class ProtoPage:
    """One .proto file as a page."""

    def __init__(self, file: FileDescriptorProto, where: dict[str, str]) -> None:
        self._file, self._where = file, where
        self._said = {
            tuple(at.path): at.leading_comments or at.trailing_comments
            for at in file.source_code_info.location
        }

    def text(self) -> str:
        parts = [f"# {self._file.name}", f"Package `{self._file.package}`."]
        for number, service in enumerate(self._file.service):
            path = (6, number)
            parts += [heading(2, service.name, service.name), self._prose(path)]
            for at, method in enumerate(service.method):
                parts.append(heading(3, method.name, f"{service.name}.{method.name}"))
                asked, answered = (
                    f"{'stream of ' if streams else ''}{self._link(kind)}"
                    for kind, streams in (
                        (method.input_type, method.client_streaming),
                        (method.output_type, method.server_streaming),
                    )
                )
                parts += [f"{asked} → {answered}", self._prose((*path, 2, at))]
        for number, message in enumerate(self._file.message_type):
            parts += self._message(message, "", (4, number))
        for number, enum in enumerate(self._file.enum_type):
            parts += self._enum(enum, "", (5, number))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _message(self, message: DescriptorProto, prefix: str, path: tuple[int, ...]) -> list[str]:
        name = prefix + message.name
        parts = [heading(2, name, name), self._prose(path)]
        maps = {n.name: n for n in message.nested_type if n.options.map_entry}
        rows = [
            (f"`{field.name}`", str(field.number), self._kind(field, maps, message),
             self._cell((*path, 2, number)))
            for number, field in enumerate(message.field)
        ]  # fmt: skip
        if rows:
            parts.append(table(("field", "number", "type", "meaning"), rows))
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                parts += self._message(nested, f"{name}.", (*path, 3, number))
        for number, enum in enumerate(message.enum_type):
            parts += self._enum(enum, f"{name}.", (*path, 4, number))
        return parts

    def _enum(self, enum: EnumDescriptorProto, prefix: str, path: tuple[int, ...]) -> list[str]:
        rows = [
            (f"`{value.name}`", str(value.number), self._cell((*path, 2, number)))
            for number, value in enumerate(enum.value)
        ]
        name = prefix + enum.name
        return [
            heading(2, name, name),
            self._prose(path),
            table(("value", "number", "meaning"), rows),
        ]

    def _kind(
        self, field: FIELD, maps: dict[str, DescriptorProto], message: DescriptorProto
    ) -> str:
        own = maps.get(field.type_name.rpartition(".")[2])
        if own:
            return f"map of {', '.join(self._kind(each, {}, own) for each in own.field)}"
        kind = (
            self._link(field.type_name)
            if field.type_name
            else f"`{FIELD.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
        )
        if field.label == FIELD.LABEL_REPEATED:
            return f"list of {kind}"
        if field.proto3_optional:
            return f"{kind}, optional"
        if field.HasField("oneof_index"):
            return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return kind

    def _link(self, kind: str) -> str:
        name = kind.removeprefix(PACKAGE)
        if page := self._where.get(name):
            return f"[`{name}`]({page}#{anchor(name)})"
        return f"`{kind.removeprefix('.')}`"

    def _prose(self, path: tuple[int, ...]) -> str:
        lines = (line.removeprefix(" ") for line in self._said.get(path, "").splitlines())
        prose = escaped("\n".join(lines).strip())
        return re.sub(r"^([A-Z_]{7,}(?: \([\w.]+\))?:)", r"- \1", prose, flags=re.M)

    def _cell(self, path: tuple[int, ...]) -> str:
        return " ".join(self._prose(path).split())


# --- the programs


def server_page() -> str:
    """Every setting of eldr-server."""
    parts = [
        "# eldr-server",
        "The daemon. Each setting is a flag, a variable and a key of the `--config` file (TOML); a"
        " flag beats the variable, and the variable beats the file.",
    ]
    for name, field in Settings.model_fields.items():
        if name == "models":
            continue
        switch = field.annotation is bool  # all others name their value
        value = "" if switch else f" {field.json_schema_extra['metavar']}"  # type: ignore[index]
        default = field.get_default(call_default_factory=True)
        key = "no key: a file can name no other" if name == "config" else f"key `{name}`"
        told = f"variable `{PREFIX}{name.upper()}`, {key}"
        if switch:
            told += "; off by default"
        elif default is not None:
            told += f"; default `{str(default).replace(str(Path.home()), '~')}`"
        parts += [
            heading(2, f"`{flag(name)}{value}`", name),
            escaped(sentence(field.description or "")),
            told[0].upper() + told[1:] + ".",
        ]
    keys = ", ".join(f"`{key}`" for key in ModelDeclaration.model_fields)
    parts += [
        "## `[[models]]`",
        f"Only in the file: models whose geometry no worker can claim otherwise. Each has {keys}.",
    ]
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """Every command of eldr."""
    root = typer.main.get_command(app)
    context = root.make_context("eldr", [], resilient_parsing=True)
    shared, own = split(root.get_params(context))
    parts = [
        "# eldr",
        *map(escaped, (root.help, root.epilog)),
        "## Connection and output",
        "Options of every command that needs a daemon; they may come before or after it.",
        options(shared, context),
        options(own, context),
    ]
    for path, command in commands(root, ()):
        name = " ".join(("eldr", *path))
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join((name, *command.collect_usage_pieces(context)))
        told = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help.replace("\b\n", ""))
        parts += [
            heading(2, name, "-".join(path)),
            f"```text\n{usage}\n```",
            escaped(told),
            options(split(command.get_params(context))[1], context),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, each with its words on the command line."""
    for name, command in group.commands.items():
        words = (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


def split(parameters: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """The options shared by all commands, and the others."""
    given = [each for each in parameters if not each.hidden and "--help" not in each.opts]
    shared = [each for each in given if each.rich_help_panel == PANEL]
    return shared, [each for each in given if each not in shared]


def options(parameters: Iterable[Any], context: Any) -> str:
    """A table of a command's arguments and options; empty if it has none."""
    rows = []
    for each in parameters:
        argument = each.param_type_name == "argument"
        value = each.display_name_raw if argument else each.display_type_rich(context) or ""
        names = value if argument else ", ".join(each.opts + each.secondary_opts)
        told = [sentence(each.help or "")]
        if each.default not in (None, False, (), []) and not callable(each.default):
            told.append(f"Default `{getattr(each.default, 'value', each.default)}`.")
        if each.envvar:
            told.append(f"Variable `{each.envvar}`.")
        if each.required:
            told.append("Required.")
        cells = (f"`{names}`", f"`{value}`" if value and not argument else "", " ".join(told))
        rows.append(tuple(map(escaped, cells)))
    return table(("option", "value", "meaning"), rows) if rows else ""


def proxy_page() -> str:
    """Every option of eldr-proxy."""
    parser = proxy_parser({})
    parts = [
        "# eldr-proxy",
        f"{parser.description}. What it does: [its page](../clients/proxy.md). Each option is also"
        " a variable, in which lists are separated by commas.",
    ]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        name = action.option_strings[-1]
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        told = f"Variable `ELDR_PROXY_{action.dest.upper()}`"
        if action.nargs != 0 and action.default not in (None, [], ()):
            told += f"; default `{action.default}`"
        parts += [
            heading(2, f"`{name}{value}`", action.dest),
            escaped(sentence(action.help or "")),
            told + ".",
        ]
    return "\n\n".join(parts) + "\n"


# --- Markdown


def anchor(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).lower()


def heading(level: int, text: str, name: str) -> str:
    """A heading, with an id that depends only on its name."""
    return f"{'#' * level} {text} {{ #{anchor(name)} }}"


def escaped(text: str) -> str:
    """Text escaped so that Markdown finds no tags or table cells."""

    def escape(match: re.Match[str]) -> str:
        code, special = match.groups()
        return code or f"\\{special}"

    return re.sub(r"(`[^`]*`)|([<|*\[\]])", escape, text)


def sentence(text: str) -> str:
    text = " ".join(text.split())
    return text and text[0].upper() + text[1:] + ("" if text.endswith((".", "…")) else ".")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
