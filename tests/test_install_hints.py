"""What docs and messages say to install can be installed from a checkout: it is on no index."""

import re
import tomllib
from pathlib import Path

import pytest

from eldr_service.cli.report import NEEDED

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "eldr_service" / "policies" / "README.md"  # installs the reader's own package


def pages():
    """What a user reads: Markdown, and messages in the code."""
    for folder in ("docs", "eldr_service", "clients", "benchmarks", "."):
        for pattern in ("*.md", "*.py"):
            found = (ROOT / folder).glob(pattern if folder == "." else f"**/{pattern}")
            yield from (path for path in found if path != PLUGIN)


def hints():
    for path in pages():
        for words in re.findall(r"pip install ([^`\n#\"{]+)", path.read_text("utf-8")):
            yield pytest.param(words.split(), id=f"{path.relative_to(ROOT)}: {words.strip()}")


def project(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]


FOLDERS = (".", "clients/python", "clients/vllm", "clients/ray", "clients/sglang", "clients/dynamo")
OURS = {project(folder)["name"] for folder in FOLDERS}


@pytest.mark.parametrize("words", list(hints()))
def test_hints(words):
    folders = set()
    for word in words:
        folder, _, extra = word.strip("'").removesuffix("]").partition("[")
        if folder.startswith("."):
            folders.add(project(folder)["name"])
            assert not extra or extra in project(folder)["optional-dependencies"]
        else:
            assert folder not in OURS
    if folders:
        assert "eldr-client" in folders  # the others depend on it


def test_there_are_hints():
    assert len(list(hints())) >= 5


def test_what_a_report_says_it_needs_is_its_extra():
    extra = project(".")["optional-dependencies"]["report"]
    assert {re.split("[<>=]", each)[0] for each in extra} == set(NEEDED)


def test_what_the_proxy_says_it_needs_is_its_extra():
    source = (ROOT / "clients" / "vllm" / "eldr_vllm" / "proxy" / "__init__.py").read_text("utf-8")
    (said,) = re.findall(r'pip install ([^"]+)"', source)
    extra = project("clients/vllm")["optional-dependencies"]["proxy"]
    assert {re.split("[<>=]", each)[0] for each in extra} == set(said.split())
