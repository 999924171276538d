"""Code in the docs runs."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from eldr_service.lab.recordings.recording import Recording

DOCS = Path(__file__).parents[1] / "docs"


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


def test_every_page_is_in_the_readmes_list():
    (listed,) = re.findall(r"## Read on\n(.*)", (DOCS.parent / "README.md").read_text(), re.S)
    pages = re.findall(r"\]\(docs/([\w-]+\.md)\)", listed)
    assert sorted(pages) == sorted(page.name for page in DOCS.glob("*.md"))
