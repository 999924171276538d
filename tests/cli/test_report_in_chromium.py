"""The page of a report with every section, in Chromium: on screens, phones and paper."""

import json
import re
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from pypdf import PdfReader
from routed import separable
from typer.testing import CliRunner

from eldr_service.cli.app import app
from eldr_service.lab.reports.paper import browser as installed

pytestmark = pytest.mark.skipif(installed() is None, reason="needs Chromium: apt install chromium")
A4 = 688  # px between the margins
LOAD = ("--workers=4", "--rate=4000", "--duration=0.02", "--seeds=2", "--seed=7", "--drive-all")
HYPHEN = re.compile(r"(?<!\w)-[\d.]")
WHAT_IS_DRAWN = """() => [...document.querySelectorAll("svg")].map(svg => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const sizes = [...svg.querySelectorAll("text")].map(one => getComputedStyle(one).fontSize);
    return [scale, [...new Set(sizes)].map(parseFloat)];
})"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with report.html and report.pdf, of a recording with a path of its own."""
    folder = tmp_path_factory.mktemp("secret-place")
    separable(4, 15).save(folder / "traffic.npz")
    (folder / "own.toml").write_text("per_layer_us = 30\nper_expert_us = 1\n")
    files = (f"--activations={folder / 'traffic.npz'}", f"--cost={folder / 'own.toml'}")
    out = (f"--out={folder / 'report.html'}", f"--pdf={folder / 'report.pdf'}")
    result = CliRunner().invoke(app, ["report", *LOAD, *files, *out])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def html(made):
    return (made / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def pdf(made):
    return PdfReader(BytesIO((made / "report.pdf").read_bytes()))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, made):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((made / "report.html").as_uri())
    yield page
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1400])
def test_axe_finds_nothing_and_nothing_overflows(page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    found = Axe().run(page).response["violations"]
    assert not found, json.dumps([(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found])
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("media", "width"), [("screen", 390), ("screen", 800), ("screen", 1400), ("print", A4)]
)
def test_the_text_of_pictures_is_of_one_size_that_can_be_read(page, media, width):
    page.emulate_media(media=media)
    page.set_viewport_size({"width": width, "height": 900})
    drawn = page.evaluate(WHAT_IS_DRAWN)
    assert len(drawn) > 10
    sizes = {round(scale * size, 1) for scale, each in drawn for size in each}
    assert max(sizes) - min(sizes) <= 0.5
    assert 9 <= min(sizes) <= max(sizes) <= 14


def test_names_in_pictures_lie_within_them(page):
    outside = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
        const whole = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter(one => {
            const box = one.getBoundingClientRect();
            return box.left < whole.left - 1 || box.right > whole.right + 1
                || box.top < whole.top - 3 || box.bottom > whole.bottom + 3;
        }).map(one => one.textContent);
    })"""
    assert page.evaluate(outside) == []


def test_rows_are_cards_on_a_phone_and_every_cell_has_its_heading(page):
    page.set_viewport_size({"width": 390, "height": 900})
    cells = page.locator("td")
    assert cells.count() > 100
    labels = page.evaluate(
        """() => [...document.querySelectorAll("tbody tr")].map(row => {
            const heads = [...row.closest("table").querySelectorAll("thead th")];
            const cells = [...row.children];
            return cells.length === heads.length && cells.every((cell, i) =>
                getComputedStyle(cell, "::before").content.includes(heads[i].textContent));
        })"""
    )
    assert all(labels)


def test_contents_lead_to_every_section(page):
    links = page.locator("nav a").evaluate_all("all => all.map(one => one.hash)")
    sections = page.locator("section").evaluate_all("all => all.map(one => '#' + one.id)")
    assert links == sections
    assert len(links) > 10


def test_paper_has_few_pages_and_every_column(page, pdf):
    assert len(pdf.pages) <= 7
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    printed = _squeezed(" ".join(one.extract_text() for one in pdf.pages))
    cells = page.locator("th, td").all_text_contents()
    assert len(cells) > 300
    assert [cell for cell in cells if _squeezed(cell) not in printed] == []


def test_the_pdf_is_tagged_named_and_dated(pdf, made):
    root = pdf.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert "/StructTreeRoot" in root
    assert root["/Lang"] == "en"
    assert pdf.outline
    assert pdf.metadata.title == "What ELDR gains on traffic"
    assert datetime.now(UTC) - pdf.metadata.creation_date < timedelta(hours=1)
    assert made.name not in f"{pdf.metadata} {' '.join(one.extract_text() for one in pdf.pages)}"


def test_no_local_path_no_network_and_everything_once(html, made):
    assert made.name not in html
    assert not re.search(r"/(tmp|home|root|work|usr|var)/|file:|https?:|data:", html)
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    tables = re.findall(r"<tbody.*?</tbody>", html, re.DOTALL)
    for blocks in (pictures, tables, re.findall(r"<code>eldr report.*?</code>", html)):
        assert len(blocks) == len(set(blocks))
    text = re.sub("<[^>]+>", "", html)
    assert text.count("--activations traffic.npz") == 2  # to repeat it, and to decide
    assert html.count("60 requests, ") == 1


def test_date_version_and_minus_signs(page):
    from importlib.metadata import version

    made = page.locator(".made").inner_text()
    assert f"{datetime.now(UTC):%Y}" in made
    assert made.endswith(version("eldr-service"))
    page.evaluate("document.querySelectorAll('code').forEach(one => one.remove())")
    text = page.locator("main").inner_text() + " ".join(page.locator("svg").all_text_contents())
    assert "−" in text
    assert HYPHEN.findall(text) == []
    assert "−0.0%" not in text


def _squeezed(words):
    return "".join(words.split())
