"""ELDR on real vLLM engines, measured by a client of the proxy: `make demo-vllm`."""
