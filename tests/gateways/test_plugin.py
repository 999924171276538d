"""The filter for llm-d's endpoint picker, by its own tests in Go with llm-d's own plugins."""

import pytest
from languages import needs_go, run_go_tests
from llm_d import PICKER_MODULE, needs_picker_module


@pytest.mark.timeout(900)  # all of the picker is compiled, once
@needs_go
@needs_picker_module
def test_go_says_that_it_passes():
    run_go_tests("eldr.internal/llm-d/plugin", PICKER_MODULE)
