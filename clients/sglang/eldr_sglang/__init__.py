"""ELDR in SGLang: signatures of prefills, and decodes placed after them."""
