"""For tests with a real Envoy: eldr-extproc, built, and programs that run until a block ends."""

import re
import subprocess
import urllib.request
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from languages import one_build

LLM_D = Path(__file__).parents[2] / "clients/llm-d"
PATIENCE = ("--timeout", "10s")
"""A busy machine may decide more slowly than a gateway would wait."""


def released(daemon) -> Counter[str]:
    """Number of bookings that have ended, by outcome."""
    with urllib.request.urlopen(f"http://{daemon.http}/metrics") as page:
        text = page.read().decode()
    found = re.findall(r'eldr_releases_total{.*outcome="(\w+)".*} (\d+)', text)
    return Counter({outcome: int(count) for outcome, count in found})


@contextmanager
def process(*command: str | Path, log: Path):
    """A program that runs until the block ends."""
    with log.open("wb") as said:
        running = subprocess.Popen(command, stderr=said, stdout=said)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


@cache
def built_processor() -> Path:
    with one_build("llm-d") as built:
        build = ("go", "build", "-o", built / "eldr-extproc", "./cmd/eldr-extproc")
        subprocess.run(build, cwd=LLM_D, check=True, timeout=840)
    return built / "eldr-extproc"
