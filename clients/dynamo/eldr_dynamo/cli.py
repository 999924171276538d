"""The command line of `eldr-dynamo-router`; every option also as ELDR_DYNAMO_…."""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import uvloop
from eldr_client import arguments
from eldr_client.channel import DEFAULT_TARGET

from eldr_dynamo.service import ENDPOINT_TYPES, FALLBACKS, Settings, serve


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(serve(read_settings(argv, os.environ)))


def read_settings(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings:
    """The settings from flags, else the environment, else their defaults; exits 2 if wrong."""
    parser = _parser(environ)
    given = vars(parser.parse_args(argv))
    if (given["client_key"] is None) != (given["client_certificate"] is None):
        parser.error("--client-key and --client-certificate must be given together")
    given["model_name"] = given["model_name"] or given["model_path"]
    return Settings(**given)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eldr-dynamo-router",
        description="Stand as a decode worker before NVIDIA Dynamo's frontend, and forward each"
        " request to the decode worker that ELDR chooses",
        epilog="Each option can also be set as ELDR_DYNAMO_…; discovery and planes by Dynamo's"
        " own variables (DYN_DISCOVERY_BACKEND, DYN_REQUEST_PLANE, …).",
    )
    text = "show the version and exit"
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help=text,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
    )

    def add(flag: str, default: Any, text: str, **options: Any) -> None:
        value = environ.get("ELDR_DYNAMO_" + flag[2:].replace("-", "_").upper())
        if value is not None and options.get("action"):
            default = value.lower() in ("1", "true", "yes", "on")
        elif value is not None:
            default = value  # argparse converts it as it would the flag's
            options.pop("required", None)
        parser.add_argument(flag, default=default, help=text, **options)

    name = {"type": _endpoint, "metavar": "NAMESPACE.COMPONENT.ENDPOINT"}
    add("--model-path", None, "the model's folder or name, as given to its workers", required=True)
    add("--model-name", None, "name to serve the model under (default: its path)")
    add("--endpoint", "dynamo-decode.backend.generate", "the decode workers' endpoint", **name)
    add(
        "--serve",
        "dynamo.eldr.generate",
        "this router's endpoint, in the frontend's namespace",
        **name,
    )
    where = "HOST:PORT of ELDR's daemon, replicas separated by commas, or dns:///NAME:PORT"
    add("--router", DEFAULT_TARGET, where, type=arguments.address, metavar="ADDRESS")
    add("--eldr-model", None, "the model's name at the daemon (default: --model-name)")
    file = {"metavar": "FILE"}
    add(
        "--token-file",
        None,
        "file with a bearer token of the role admin",
        type=arguments.token,
        dest="token",
        **file,
    )
    add("--tls", False, "TLS to the daemon, trusting the system's roots", action="store_true")
    add(
        "--root-certificates",
        None,
        "PEM; TLS to the daemon, trusting these roots",
        type=arguments.contents,
        **file,
    )
    add("--client-key", None, "PEM; for a daemon that requires it", type=arguments.contents, **file)
    add("--client-certificate", None, "PEM; for --client-key", type=arguments.contents, **file)
    timeout = {"type": float, "metavar": "SECONDS"}
    add("--route-timeout", Settings.route_timeout, "deadline for the daemon's answer", **timeout)
    add("--attempts", Settings.attempts, "placements to try before Dynamo chooses", type=_positive)
    add("--capacity", 0, "sequences per worker; 0: the daemon's default", type=int)
    modes = ", ".join(FALLBACKS)
    text = f"how Dynamo chooses when the daemon does not: {modes}"
    add("--fallback", Settings.fallback, text, choices=FALLBACKS, metavar="MODE")
    add("--kv-cache-block-size", None, "tokens per block, as set in the workers", type=_positive)
    both = ",".join(Settings.endpoint_types)
    add(
        "--endpoint-types",
        both,
        "the model's; without a chat template only completions",
        type=_types,
    )
    add("--tool-call-parser", None, "the parser to announce to the frontend")
    add("--reasoning-parser", None, "the parser to announce to the frontend")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: an uninstalled checkout has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it."""
        print(f"{parser.prog} {version('eldr-dynamo')}")
        parser.exit()


def _endpoint(text: str) -> str:
    name = text.removeprefix("dyn://")
    if len(list(filter(None, name.split(".")))) != 3 or name.count(".") != 2:
        raise argparse.ArgumentTypeError(f"expected NAMESPACE.COMPONENT.ENDPOINT, found {text!r}")
    return name


def _types(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= ENDPOINT_TYPES.keys():
        raise argparse.ArgumentTypeError(f"expected {' or '.join(ENDPOINT_TYPES)}, found {text!r}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
