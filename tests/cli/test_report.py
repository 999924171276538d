"""`eldr report`: the page and the PDF of the real command on the shipped sample."""

from html.parser import HTMLParser

import pytest

from eldr_service.cli import report as command
from eldr_service.lab.reports.words import milliseconds

SMALL = ("--workers=4", "--duration=0.02", "--rate=4000", "--jobs=1", "--seeds=2")
POINTS = ("--rates=0.5,1", "--fleets=0.5,1", "--outputs=1", "--taus=0", "--tails=0")


class Page(HTMLParser):
    """Text, ids, and what would be loaded."""

    def __init__(self):
        super().__init__()
        self.text, self.ids, self.outside, self.open = [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        links = [found[name] for name in ("href", "src", "xlink:href") if name in found]
        self.outside += [link for link in links if not link.startswith("#")]
        if tag not in ("meta", "path", "use", "rect", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data.strip())


def test_page_and_pdf_of_the_sample(eldr, tmp_path):
    from pypdf import PdfReader

    html, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    document = eldr.json("report", *SMALL, *POINTS, f"--out={html}", f"--pdf={pdf}")
    page = Page()
    page.feed(html.read_text("utf-8"))
    assert page.open == []
    assert page.outside == []
    assert "http" not in html.read_text("utf-8")
    assert len(page.ids) == len(set(page.ids))
    for figures in document["policies"].values():
        assert milliseconds(figures["tpot_ms.p99"]) in page.text
    swept = document["sweeps"]["rate"]
    for median in swept["policies"]["locality-band"]["tpot_ms.p50"]:
        assert milliseconds(median) in page.text
    pages = PdfReader(pdf).pages
    assert len(pages) > 2
    text = " ".join(one.extract_text() for one in pages)
    for said in ("Recommended policy", "arrivals per second", "What this cannot tell"):
        assert said in text


def test_one_policy_and_one_seed(eldr, tmp_path):
    html = tmp_path / "report.html"
    alone = ("--policy=locality-band", "--seeds=1", "--figure=none")
    document = eldr.json("report", *SMALL, *alone, f"--out={html}")
    assert document["changes"] == []
    assert "nothing to measure a gain against" in html.read_text("utf-8")


def test_a_missing_library_is_named(eldr, monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("matplotlib", "no_such_library"))
    document = eldr.json("report", code=1)
    assert "no_such_library" in document["error"]["message"]
    assert document["error"]["hint"] == "pip install no_such_library"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--rates=0", "positive numbers"),
        ("--figure=speed", "found 'speed'"),
        ("--policy=fastest", "locality-band"),
        ("--activations=missing.npz", "does not exist"),
    ],
)
def test_wrong_use(eldr, option, said):
    assert said in eldr("report", *SMALL, option, code=2)
