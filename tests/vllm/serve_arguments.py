"""The arguments of `vllm serve`, by vLLM's own parser."""

import importlib.util

HOMES = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.common.cli_args")


def parsed(words):
    """The namespace; an argument that this vLLM does not know ends in SystemExit."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    home = next(name for name in HOMES if importlib.util.find_spec(name))  # 0.33 moved it
    cli_args = importlib.import_module(home)
    return cli_args.make_arg_parser(FlexibleArgumentParser()).parse_args(words)


def engine_config(words):
    """The VllmConfig that the server makes of them."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs.from_cli_args(parsed(words)).create_engine_config()
