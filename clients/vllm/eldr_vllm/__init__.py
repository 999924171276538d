"""ELDR inside vLLM: a KV connector that wraps the real one."""
