"""The command line of `eldr-proxy`; every option is also a variable, ELDR_PROXY_…."""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from aiohttp import web
from eldr_client import arguments, traces

from eldr_vllm.proxy.app import Proxy
from eldr_vllm.proxy.headers import NOT_FORWARDED
from eldr_vllm.proxy.settings import Settings

logger = logging.getLogger("eldr_proxy")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = read_settings(argv, os.environ)
    web.run_app(
        Proxy(settings, traces.begin("eldr-proxy", logger.warning)).app(),
        host=settings.host,
        port=settings.port,
        handler_cancellation=True,
        access_log=None,
    )


def read_settings(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings:
    """Read the settings from flags, else the environment, else defaults; exits 2 if wrong."""
    parser = _parser(environ)
    given = vars(parser.parse_args(argv))
    host, _, port = given.pop("listen").rpartition(":")
    if not port.isdecimal():
        parser.error("--listen: expected HOST:PORT")
    router = given.pop("router")
    router = None if router in ("", "none") else router
    decodes_alone = given["accept_prefilled"] or given["without_prefill_workers"]
    needed = given["decode"] and (given["prefill"] or decodes_alone)
    if router is None and not needed:
        parser.error("without --router, --prefill and --decode are required")
    if given["without_prefill_workers"] and (given["prefill"] or given["accept_prefilled"]):
        parser.error("--without-prefill-workers excludes --prefill and --accept-prefilled")
    if given["moves"] and router is None:
        parser.error("--moves: the daemon proposes them, so --router is needed")
    if given["attempts"] < 1:
        parser.error("--attempts: expected 1 or more")
    if given["prefix_length"] < 1:
        parser.error("--prefix-length: expected 1 or more")
    if wrong := sorted(name for name in given["forward_headers"] if name.lower() in NOT_FORWARDED):
        parser.error(f"--forward-headers: {', '.join(wrong)} cannot be forwarded")
    if (given["client_key"] is None) != (given["client_certificate"] is None):
        parser.error("--client-key and --client-certificate go together")
    return Settings(
        host=host.strip("[]") or "127.0.0.1",
        port=int(port),
        router=router,
        prefill=tuple(url.rstrip("/") for url in given.pop("prefill")),
        decode=tuple(url.rstrip("/") for url in given.pop("decode")),
        forward_headers=tuple(given.pop("forward_headers")),
        **given,
    )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="eldr-proxy",
        description="OpenAI-compatible front of prefill-decode disaggregated vLLM",
        epilog="Every option can also be a variable, ELDR_PROXY_…, with lists separated by commas.",
    )
    parser.add_argument("--version", action="version", version=f"eldr-proxy {version('eldr-vllm')}")

    def add(flag: str, default: Any, text: str, **options: Any) -> None:
        value = environ.get("ELDR_PROXY_" + flag[2:].replace("-", "_").upper())
        if value is not None and options.get("nargs"):
            default = [each for each in value.split(",") if each]
        elif value is not None and options.get("action"):
            default = value.lower() in ("1", "true", "yes", "on")
        elif value is not None:
            default = value  # argparse converts it like the flag's value
        parser.add_argument(flag, default=default, help=text, **options)

    file = {"metavar": "FILE"}
    where = "HOST:PORT to serve on"
    add("--listen", f"{defaults.host}:{defaults.port}", where, metavar="HOST:PORT")
    where = "HOST:PORT of the daemon, comma-separated replicas, dns:///NAME:PORT, or none"
    add("--router", "127.0.0.1:50051", where, type=_router, metavar="ADDRESS")
    add(
        "--token-file",
        None,
        "bearer token for the daemon",
        type=arguments.token,
        dest="token",
        **file,
    )
    add("--tls", False, "TLS to the daemon, verified by the system's roots", action="store_true")
    roots = "PEM; TLS to the daemon, verified by these authorities"
    add("--root-certificates", None, roots, type=arguments.contents, **file)
    add(
        "--client-key",
        None,
        "PEM; for a daemon that requires client certificates",
        type=arguments.contents,
        **file,
    )
    add(
        "--client-certificate",
        None,
        "PEM; the certificate of --client-key",
        type=arguments.contents,
        **file,
    )
    add(
        "--prefill",
        [],
        "prefill engines; by default those of the daemon's fleet",
        nargs="+",
        metavar="URL",
    )
    add(
        "--decode",
        [],
        "decode engines; by default those of the daemon's fleet",
        nargs="+",
        metavar="URL",
    )
    add("--model", None, "the model's name at the daemon; by default the request's")
    add(
        "--first-token-from-prefill",
        False,
        "send the prefill's token at once (greedy or seeded, n = 1)",
        action="store_true",
    )
    add(
        "--without-prefill-workers",
        False,
        "the engines prefill what they decode, without prefill engines: a request is placed on"
        " arrival, by its conversation (X-Session-Id, prompt_cache_key or user) or its tenant",
        action="store_true",
    )
    add(
        "--moves",
        False,
        "carry out the moves of running requests that the daemon proposes: streams of"
        " /v1/completions and /v1/chat/completions go on at another engine",
        action="store_true",
    )
    tenant = "header that names a request's tenant, by which its experts may be predicted"
    add("--tenant-header", defaults.tenant_header, tenant, metavar="NAME")
    add(
        "--accept-prefilled",
        False,
        "serve as a decode engine behind another scheduler: use the KV that its requests name in"
        " kv_transfer_params; only for trusted callers",
        action="store_true",
    )
    seconds = {"type": float, "metavar": "SECONDS"}
    patience = "maximum time that placing may add to a request; then engines are taken in turn"
    add("--route-timeout", defaults.route_timeout, patience, **seconds)
    part = "part of --route-timeout that the daemon may wait for a signature on its way"
    add("--signature-wait", defaults.signature_wait, part, **seconds)
    full = "how long a request waits for a place while all decode engines are full, before its 429"
    add("--max-wait", defaults.max_wait, full, **seconds)
    add("--connect-timeout", defaults.connect_timeout, "timeout to connect to an engine", **seconds)
    add("--read-timeout", defaults.read_timeout, "longest silence of an engine", **seconds)
    add("--attempts", defaults.attempts, "tries of a decode, including the first", type=int)
    length = (
        "characters of the prompt's piece that chooses the prefill engine: the first, or the first"
        " after a system prompt that too many share"
    )
    add("--prefix-length", defaults.prefix_length, length, type=int)
    names = list(defaults.forward_headers)
    add(
        "--forward-headers",
        names,
        "headers of the caller to pass on to engines",
        nargs="*",
        metavar="NAME",
    )
    add(
        "--credentials-to-fleet",
        False,
        "send Authorization and x-api-key also to engines registered at the daemon, not only to"
        " those of --prefill and --decode; needed if they have vLLM's --api-key",
        action="store_true",
    )
    add(
        "--allow-link-local",
        False,
        "allow engines at link-local addresses, where clouds have their metadata services",
        action="store_true",
    )
    return parser


def _router(text: str) -> str:
    return text if text in ("", "none") else arguments.address(text)
