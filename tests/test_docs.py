"""The documentation: its code runs; its site is whole, needs no network, and tells everything."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from eldr.v1 import (
    activation_pb2,
    decision_log_pb2,
    fleet_pb2,
    partition_pb2,
    policy_pb2,
    router_pb2,
)
from eldr_vllm.proxy.cli import _parser

from eldr_service.lab.recordings.recording import Recording
from eldr_service.server.config import Settings
from tools import docs_reference, docs_site

DOCS = Path(__file__).parents[1] / "docs"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "use": "href"}
"""What a browser fetches by itself; of `link` only some kinds."""
FETCHED = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest", "preconnect"}


def test_the_writer_of_recorded_routing(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(), re.S)
    rng = np.random.default_rng(0)
    requests = [
        SimpleNamespace(experts=rng.integers(0, 128, (tokens, 3, 8)), prompt_tokens=tokens // 2)
        for tokens in (10, 7, 4)
    ]
    monkeypatch.chdir(tmp_path)
    exec(code, {"requests": requests})
    recording = Recording.load(tmp_path / "recorded.npz")
    assert (recording.num_requests, recording.geometry.top_k) == (3, 8)
    np.testing.assert_array_equal(recording.counts_of(recording.prefill(1)).sum(axis=1), 3 * 8)
    for number, request in enumerate(requests):
        rows = slice(*recording.offsets[number : number + 2])
        np.testing.assert_array_equal(recording.expert_ids[rows], request.experts)


def test_every_reason_of_a_placement_is_explained():
    page = (DOCS / "missing.md").read_text()
    for name in router_pb2.PlacementReason.DESCRIPTOR.values_by_name:
        reason = name.removeprefix("PLACEMENT_REASON_")
        assert f"`{reason}`" in page or reason == "UNSPECIFIED"


def test_the_readme_is_for_newcomers():
    text = (DOCS.parent / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"!\[", text)) == 1


@pytest.mark.parametrize("path", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda p: p.name)
def test_a_picture_is_read_in_light_and_dark_and_aloud(path):
    picture = ElementTree.parse(path).getroot()
    assert picture.get("aria-label")
    assert "prefers-color-scheme: dark" in path.read_text()
    width = int(picture.get("width"))
    assert width <= 440  # on a telephone its smallest text is still read
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}text"))) > 4
    used = [page for page in DOCS.glob("*.md") if f"pictures/{path.name}" in page.read_text()]
    assert used


def test_the_symptoms_are_what_the_code_says():
    """Each message that the page quotes as seen stands in the sources, as one text."""
    sources = "".join(
        path.read_text("utf-8")
        for folder in ("eldr_service", "clients/python/eldr_client")
        for path in (DOCS.parent / folder).rglob("*.py")
    )
    said = re.sub(r'"\s+f?"', "", sources)  # texts that go on in the next line
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", (DOCS / "troubleshoot.md").read_text(), re.M)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    messages = [text.rstrip("…") for text in quoted if " " in text and not text.startswith("eldr ")]
    assert len(messages) > 25
    for message in messages:
        for part in re.split(r"DIR|…|\w+=[A-Z]+", message):
            assert part.strip() in said, message
    for reason in router_pb2.PlacementReason.DESCRIPTOR.values_by_name:
        if "LEAST_LOADED" in reason:
            assert reason.removeprefix("PLACEMENT_REASON_") in quoted


class Page(HTMLParser):
    """What a page of the site loads, links to and can be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.ids, self.silent = [], [], set(), []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "link" and FETCHED & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        if LOADED.get(tag) in given:
            self.loads.append(given[LOADED[tag]])
        if tag == "img" and not given.get("alt"):
            self.silent.append(given["src"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.ids.add(given.get("id"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    docs_site.build(folder)
    return folder / "site"


@pytest.fixture(scope="module")
def read(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_no_page_loads_anything_from_elsewhere(site, read):
    assert len(read) > 50
    for path, page in read.items():
        assert page.loads
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{path.name} loads {address}"
            assert (path.parent / unquote(urlsplit(address).path)).exists(), (path.name, address)
        assert not page.silent, f"{path.name}: pictures without words for who cannot see them"
    elsewhere = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import")
    for style in site.rglob("*.css"):
        assert not elsewhere.search(style.read_text()), style.name


def test_no_link_is_broken(read):
    """Beside zensical's own check, of the HTML that a browser gets."""
    for path, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            assert target in read, f"{path.name}: {link}"
            if parts.fragment and parts.fragment != "__skip":
                assert unquote(parts.fragment) in read[target].ids, f"{path.name}: {link}"


def test_the_search_knows_every_page(site):
    for index in ("search.json", "search.js"):  # of a server's pages, and of a folder's
        text = (site / index).read_text("utf-8")
        for page in docs_site.navigation():
            assert f'"{page.removesuffix(".md")}.html' in text, page


def test_a_broken_link_ends_the_build(tmp_path, monkeypatch):
    place = docs_site.laid_out

    def with_a_fault(path, *rest):
        fault = "\n[nowhere](start.md#nothing-of-the-kind)\n" if path == "docs/why.md" else ""
        return place(path, *rest) + fault

    monkeypatch.setattr(docs_site, "laid_out", with_a_fault)
    with pytest.raises(SystemExit, match="faults"):
        docs_site.build(tmp_path)


def test_a_page_outside_the_navigation_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_site, "navigation", lambda: ["index.md"])
    with pytest.raises(SystemExit, match="in the nav"):
        docs_site.build(tmp_path)


def test_the_reference_holds_the_whole_contract(read):
    by_name = {path.stem: page for path, page in read.items() if path.parent.name == "reference"}
    modules = (activation_pb2, decision_log_pb2, fleet_pb2, partition_pb2, policy_pb2, router_pb2)
    methods = 0
    for module in modules:
        file = module.DESCRIPTOR
        page = by_name[Path(file.name).stem]
        for service in file.services_by_name.values():
            for method in service.methods:
                assert docs_reference.anchor(f"{service.name}.{method.name}") in page.ids
                methods += 1
        for name in (*file.message_types_by_name, *file.enum_types_by_name):
            assert docs_reference.anchor(name) in page.ids, name
    assert methods > 20
    text = docs_reference.pages()["router.md"]
    for field in router_pb2.RouteRequest.DESCRIPTOR.fields:
        row = rf"^\| `{field.name}` \| {field.number} \| .+ \| \S.+ \|$"
        assert re.search(row, text, re.M), field.name


def test_the_reference_holds_every_setting_and_option():
    pages = docs_reference.pages()
    for name in set(Settings.model_fields) - {"models"}:
        flag = f"--{name.replace('_', '-')}"
        assert re.search(rf"^## `{flag}[ `]", pages["eldr-server.md"], re.M), flag
        assert f"`ELDR_{name.upper()}`" in pages["eldr-server.md"]
    for action in _parser({})._actions:
        if action.dest not in ("help", "version"):
            assert f"## `{action.option_strings[-1]}" in pages["eldr-proxy.md"]


def test_the_reference_holds_every_command(eldr_help):
    page = docs_reference.pages()["eldr.md"]
    shared, *_ = page.partition("## eldr ")
    commands = eldr_help()
    assert len(commands) > 15
    for words, options in commands.items():
        section = re.search(rf"^## eldr {re.escape(words)} {{.*?(?=^## |\Z)", page, re.M | re.S)
        assert section, words
        for option in options:
            assert f"`{option}" in section[0] or f"`{option}" in shared, (words, option)


@pytest.fixture
def eldr_help():
    """Commands and their options, as `eldr … --help` shows them."""
    from typer.testing import CliRunner

    from eldr_service.cli.app import app

    def shown(*words):
        told = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
        commands = re.search(r"─ Commands ─.*?\n(.*?)╰", told, re.S)
        return told, re.findall(r"^│ ([a-z-]+)  ", commands[1], re.M) if commands else []

    def walk(*words):
        told, below = shown(*words)
        if below:
            return {name: options for each in below for name, options in walk(*words, each).items()}
        found = set(re.findall(r"^│ [* ]*(--[a-z-]+)", told, re.M)) - {"--help"}
        return {" ".join(words): sorted(found)}

    return walk
