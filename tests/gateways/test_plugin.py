"""The filter for llm-d's endpoint picker, by its own tests in Go with llm-d's own plugins."""

import subprocess

import pytest
from languages import needs_go
from llm_d import PICKER_MODULE


@pytest.mark.timeout(900)  # all of the picker is compiled, once
@needs_go
@pytest.mark.skipif(not PICKER_MODULE, reason="needs llm-d: tests/support/llm_d.py says how")
def test_go_says_that_it_passes():
    done = subprocess.run(
        ["go", "test", "-count=1", "eldr.internal/llm-d/plugin"],
        cwd=PICKER_MODULE,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no test files" not in done.stdout
