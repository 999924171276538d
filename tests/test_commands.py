"""Every command of the documentation is run, here or by the test that its marker names.

A block of shell commands without a marker is run here, in a folder that looks like a checkout; only
ports are others. A block of text right behind it is what it prints. The marker
`<!-- run by tests/FILE.py::TEST -->` names another test, which reads the page or has the commands'
words. `<!-- not run: REASON -->` is for what no test can do: few, and what they name must exist.
"""

import importlib.util
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from documented import BLOCK, ROOT, SHELLS, Block, blocks, options_of, shell

from tools import docs_reference, docs_site

BLOCKS = [block for page in docs_site.pages() for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.language in SHELLS]
RUN = {block.page for block in COMMANDS if block.kept is None}
NOT_RUN = [block for block in COMMANDS if block.kept == "not run"]
MOST_NOT_RUN = 11
NEEDED = {"redis-server": "redis-server", "openssl": "openssl"}
MAKEFILE = (ROOT / "Makefile").read_text()


def name(block: Block) -> str:
    return f"{block.page}: {block.text.splitlines()[0]}"


def test_every_block_says_what_it_is():
    for block in BLOCKS:
        assert block.language, f"{name(block)}: ```text, if it is no command"
        for line in block.text.splitlines():
            shown = re.match(r"\$ |(eldr|make|pip|python|python3|grpcurl) [a-z-]", line)
            assert not (shown and block.language == "text"), f"{name(block)}: a command, so ```sh"


PREPARED = {
    ("docs/fit.md", 0): """
        cp eldr_service/lab/simulation/sample.npz recorded.npz
        for n in 0 1 2 3; do
          eldr workers add decode-$n --model tiny --url http://10.0.0.$n:8000 --geometry 4x32x2
        done
        eldr fit recorded.npz --slots 4 --model tiny --import --activate
        """,
    ("docs/refits.md", 0): """
        for n in 0 1; do
          eldr workers add decode-$n --model tiny --url http://10.0.0.$n:8000 --geometry 4x32x2
          eldr route --counts eldr_service/lab/simulation/sample.npz --request $n
        done
        """,
    ("docs/doctor.md", 0): """
        eldr workers add decode-0 --model tiny --url http://10.0.0.1:8000 --geometry 4x32x2
        """,
    ("docs/troubleshoot.md", 0): """
        eldr workers add decode-0 --model tiny --url http://10.0.0.1:8000 --geometry 4x32x2
        eldr route --request-id first
        """,
    ("docs/replay.md", 1): """
        for n in 0 1; do
          eldr workers add decode-$n --model tiny --url http://10.0.0.$n:8000 --geometry 4x32x2
        done
        eldr route --counts eldr_service/lab/simulation/sample.npz
        """,
}
"""What a page takes as given before a block: workers, requests, files of the reader's own."""


def plain(text: str) -> set[str]:
    """Lines, whatever the width of their columns."""
    return {" ".join(line.split()) for line in text.splitlines()}


@pytest.mark.parametrize("page", sorted(RUN))
def test_a_page(page, tmp_path):
    shown = [block for block in BLOCKS if block.page == page and block.kept is None]
    texts = [block.text for block in shown if block.language in SHELLS]
    for program, package in NEEDED.items():
        if re.search(rf"\b{program} ", "\n".join(texts)) and not shutil.which(program):
            pytest.skip(f"needs `{program}`: apt-get install {package}")
    with shell(tmp_path) as terminal:
        calls = re.search(r"^ *eldr(?:-proxy| (?!simulate|report|replay))", "\n".join(texts), re.M)
        starts = re.search(r"^eldr-server(?! --version)", "\n".join(texts), re.M)
        if calls and not starts:
            terminal.run("eldr-server")
        printed, number = "", 0
        for block in shown:
            if block.language in SHELLS:
                terminal.run(PREPARED.get((page, number), ""))
                printed, number = terminal.run(block.text), number + 1
            elif block.language == "text" and block.follows:
                assert plain(block.text) <= plain(printed)


def made_by(target: str) -> str:
    """The module or program that the target of the Makefile runs, the last of them."""
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    found = re.findall(r" -m ([\w.]+)|/(eldr-\w+)", recipe)
    return "".join(found[-1])


@pytest.mark.parametrize("block", [b for b in COMMANDS if b.kept == "run by"], ids=name)
def test_what_other_tests_run(block):
    path, _, test = block.why.partition("::")
    source = (ROOT / path).read_text("utf-8")
    for module in re.findall(r"^ *from (\w+) import", source, re.M):  # what it starts programs by
        source += "".join(p.read_text("utf-8") for p in ROOT.glob(f"tests/*/{module}.py"))
    assert f"def {test}(" in source, f"{block.why} is no test"
    page = block.page.rpartition("/")[2]
    if page.removesuffix(".md") in source if page == "README.md" else page in source:
        return  # the test reads the page
    for words in block.commands:
        if words[0] == "make":
            assert made_by(words[1]).replace("-", "_") in source.replace("-", "_"), words
            continue
        said = {word for word in words[1:] if re.fullmatch(r"[a-z]+(-[a-z]+)*", word)}
        for word in options_of(words) | (said if words[0] == "eldr" else set()):
            pattern = word.strip("-").replace("-", "[-_]")
            assert re.search(rf"\b{pattern}\b", source), (words, word)


def test_few_are_not_run(record_property):
    reasons = Counter(block.why for block in NOT_RUN)
    for reason, number in reasons.items():
        print(f"{number} x {reason}")
        record_property(reason, number)
    assert len(NOT_RUN) <= MOST_NOT_RUN


def inline(page: str) -> list[list[str]]:
    """Commands within the sentences of a page, as words."""
    text = BLOCK.sub("", (ROOT / page).read_text("utf-8"))
    programs = r"(?:[A-Z_]+=\S+ )*(?:eldr|eldr-server|eldr-proxy|make|python)"
    found = re.findall(rf"`({programs} [^`]+)`", " ".join(text.split()))
    return [command.replace("'", "").replace('"', "").split() for command in found]


@pytest.mark.parametrize("page", sorted(docs_site.pages()))
def test_what_sentences_name_exists(page):
    for words in inline(page):
        check(words)


def test_sentences_are_searched():
    found = [words for page in docs_site.pages() for words in inline(page)]
    assert len(found) > 80
    with pytest.raises(AssertionError):
        check(["eldr", "workers", "dance"])
    with pytest.raises(AssertionError):
        check(["eldr", "fit", "--on-moonlight"])


@pytest.mark.parametrize("block", NOT_RUN, ids=name)
def test_what_is_not_run_exists_all_the_same(block):
    for words in block.commands:
        check(words)


REFERENCE = docs_reference.pages()
SHARED, *SECTIONS = re.split(r"^## eldr ", REFERENCE["eldr.md"], flags=re.M)


def check(words: list[str]) -> None:
    """A command exists, and so do its options."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *rest = words
    options = options_of(rest) - {"--help", "--version"}
    if program == "make":
        assert re.search(rf"^{rest[0]}:", MAKEFILE, re.M), words
    elif program == "python":
        if rest[0] != "-m" or rest[1].startswith(("vllm.", "sglang_router.")):
            return
        module = rest[1].rstrip("….")
        spec = importlib.util.find_spec(module.split(".")[0])
        assert spec, words
        assert importlib.util.find_spec(module), words
        folder = Path(spec.submodule_search_locations[0])
        source = "".join(path.read_text("utf-8") for path in folder.rglob("*.py"))
        for option in options:
            assert f'"{option}"' in source, (words, option)
    elif program in ("eldr-server", "eldr-proxy"):
        for option in options:
            assert re.search(rf"^## `{option}[ `]", REFERENCE[f"{program}.md"], re.M), words
    elif program == "eldr":
        named = [word for word in rest if re.fullmatch(r"[a-z][a-z-]*", word)]
        starts = (" ".join(named[:2]) + " {", " ".join(named[:1]) + " {")
        exact = [section for section in SECTIONS if section.startswith(starts)]
        sections = exact or [s for s in SECTIONS if [s.split()[0]] == named]  # a group's
        assert sections or not named, words
        for option in options:
            assert any(f"`{option}" in section for section in (*sections, SHARED)), words
    else:
        assert program in ("podman", "helm", "apt-get"), words
