"""`eldr-proxy`: the OpenAI-compatible front of prefill-decode disaggregated vLLM."""

import sys


def main() -> None:
    """Serve until told to stop; names missing packages if the extra `proxy` is not installed."""
    try:
        from eldr_vllm.proxy.cli import main
    except ModuleNotFoundError as error:
        missing, _, _ = (error.name or "").partition(".")
        if missing not in ("aiohttp", "prometheus_client"):
            raise
        sys.exit(f"eldr-proxy needs {missing}: pip install aiohttp prometheus-client")
    main()
