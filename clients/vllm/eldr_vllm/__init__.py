"""ELDR inside vLLM: a prefill worker's routed experts become signatures, its answers placements."""
