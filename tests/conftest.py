"""What all tests share."""

import os

from hypothesis import settings

# CI draws the same examples each time; at a desk the search goes on.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
