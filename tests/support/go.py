"""Whether what is written in Go can be built."""

import shutil

import pytest

needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="compiles a Go program: install Go from https://go.dev/dl"
)
