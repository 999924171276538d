"""`eldr-proxy`: the OpenAI-compatible front of prefill-decode disaggregated vLLM."""

from eldr_vllm.proxy.cli import main

__all__ = ["main"]
