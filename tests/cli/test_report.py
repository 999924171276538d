"""`eldr report`: the page and the PDF of the real command on the shipped sample."""

import re
import shutil
from html.parser import HTMLParser

import pytest
from pypdf import PdfReader

from eldr_service.cli import report as command
from eldr_service.lab.reports.paper import browser, paper
from eldr_service.lab.reports.words import milliseconds, percent
from eldr_service.lab.simulation.tuning import WIDTHS

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
    html, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    printed = (f"--pdf={pdf}",) if browser() else ()
    document = eldr.json("report", *SMALL, *POINTS, f"--out={html}", *printed)
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
    for named in ("the paper's band", "band, tuned", "band, auto"):
        assert named in page.text
    found = document["verdict"]
    means = {policy: each["tpot_ms.mean"] for policy, each in document["policies"].items()}
    own = means.pop(found["policy"])
    assert found["rival"] == min(means, key=means.get)
    assert found["against_rival"]["relative"] == pytest.approx(
        own / min(means.values()) - 1, abs=0.01
    )
    (paper, *_), (tuned, *_), _ = document["bands"].values()
    assert (paper["transform"], paper["tau"]) == ("counts-idf", 0.1)
    assert tuned["width"] in map(pytest.approx, WIDTHS)
    if printed:
        pages = PdfReader(pdf).pages
        assert len(pages) > 2
        text = " ".join(one.extract_text() for one in pages)
        for said in ("Undecided; best so far", "arrivals per second", "What this cannot tell"):
            assert said in text


def test_what_other_costs_would_mean_for_the_gain(eldr, tmp_path):
    html = tmp_path / "report.html"
    policies = ("--policy=round-robin", "--policy=locality-band")
    load = ("--workers=4", "--duration=0.3", "--rate=3000", "--jobs=1", "--seeds=5", "--drive-all")
    document = eldr.json("report", *load, *policies, "--figure=cost", f"--out={html}")
    assert document["verdict"]["gains"]
    swept = document["sweeps"]["cost"]
    alone, own, twice = swept["values"]
    assert (own, twice) == (1.0, 2.0)
    assert 0.1 < alone < 0.6
    tpot = swept["policies"]["round-robin"]["tpot_ms.mean"]
    assert tpot == sorted(tpot)
    in_flight = swept["policies"]["round-robin"]["in_flight"]
    assert max(in_flight) < 1.3 * min(in_flight)
    gains = [at["relative"] for point in swept["changes"] for at in point if _of_mean(at)]
    assert gains == sorted(gains)  # the less there is beside the experts, the more is gained
    (said,) = [limit for limit in document["limits"] if "times as long" in limit]
    for gain in gains:
        assert percent(gain) in said
    assert "the first: the MoE layers alone" in said
    text = html.read_text("utf-8")
    assert "qwen3-30b-a3b-h200" in text
    assert any("Assumed: weights outside the experts" in limit for limit in document["limits"])


def _without_tags(html):
    return re.sub("<[^>]+>", "", html)


def _of_mean(change):
    return (change["policy"], change["figure"]) == ("locality-band", "tpot_ms.mean")


def test_costs_of_ones_own_have_no_moe_layers_alone_and_quick_has_no_such_sweep(eldr, tmp_path):
    cost = tmp_path / "own.toml"
    cost.write_text("per_layer_us = 30\nper_expert_us = 1\n")
    sweep = ("--figure=cost", f"--cost={cost}", f"--out={tmp_path / 'report.html'}")
    document = eldr.json("report", *SMALL, *sweep)
    assert document["sweeps"]["cost"]["values"] == [1.0, 2.0]
    assert not any("which attention reads" in limit for limit in document["limits"])
    assert eldr.json("report", *SMALL, *sweep, "--quick")["sweeps"] == {}


def test_one_policy_and_one_seed(eldr, tmp_path):
    html = tmp_path / "report.html"
    alone = ("--policy=locality-band", "--seeds=1", "--figure=none")
    document = eldr.json("report", *SMALL, *alone, f"--out={html}")
    assert document["changes"] == []
    assert "nothing to measure a gain against" in html.read_text("utf-8")


def test_quick_is_undecided_and_names_the_command_that_decides(eldr, tmp_path):
    html = tmp_path / "report.html"
    policies = ("--policy=round-robin", "--policy=marginal-cost")
    quick = ("--quick", "--workers=4", "--jobs=1", "--figure=none", *policies)
    document = eldr.json("report", *quick, f"--out={html}")
    assert document["verdict"]["advice"] == "undecided"
    assert not document["verdict"]["gains"]
    assert document["decide"].startswith("eldr report --policy round-robin")
    assert document["decide"].endswith("--seeds 5 --figure none")
    assert document["decide"] in _without_tags(html.read_text("utf-8"))
    decided = eldr.json(*document["decide"].split()[1:], "--jobs=1", f"--out={html}")
    assert decided["verdict"]["advice"] in ("use", "stay")
    assert decided["decide"] == ""


def test_a_load_that_tells_is_simulated_and_said(eldr, tmp_path):
    html = tmp_path / "report.html"
    asked = ("--workers=4", "--rate=20", "--duration=4", "--seeds=1", "--jobs=1", "--figure=none")
    document = eldr.json("report", *asked, "--policy=round-robin", f"--out={html}")
    note = document["caveats"]["Load"]
    assert note.startswith("The load is too small to tell: 20 requests per second would leave")
    assert document["rate_per_s"] > 100
    assert f"{document['rate_per_s']:g} requests per second on 4 workers" in note
    assert document["policies"]["round-robin"]["in_flight"] > 2
    assert note in html.read_text("utf-8")


def test_a_fleet_too_large_for_its_recording_is_told_what_would_tell(eldr, recording, tmp_path):
    given = (f"--activations={recording}", "--jobs=1", "--figure=none", "--seeds=5", "--drive-all")
    policies = ("--policy=round-robin", "--policy=locality-band")
    out = (*policies, f"--out={tmp_path / 'report.html'}")
    document = eldr.json("report", *given, *out, "--workers=12")
    assert document["verdict"]["advice"] == "light"
    assert "a worker holds" in document["advice"]
    words = document["decide"].split()
    assert "--rate" not in words
    assert int(words[words.index("--workers") + 1]) < 12
    words[words.index("--activations") + 1] = str(recording)
    told = eldr.json(*words[1:], "--jobs=1", *out[2:])
    assert told["verdict"]["advice"] != "light"


def test_a_pdf_without_a_browser_is_refused_before_anything_runs(eldr, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    document = eldr.json("report", f"--pdf={tmp_path / 'report.pdf'}", code=1)
    assert "Chromium" in document["error"]["message"]
    assert "print it from a browser" in document["error"]["hint"]


def test_a_browser_that_prints_nothing_is_said():
    with pytest.raises(OSError, match="false printed nothing: 1"):
        paper("<p>words", shutil.which("false"))


def test_a_missing_library_is_named(eldr, monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("jinja2", "no_such_library"))
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
