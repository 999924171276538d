"""What ELDR adds to vLLM: a KV connector in its workers and a proxy before them."""
