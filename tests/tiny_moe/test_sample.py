"""The shipped sample is what its README says."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.engines.tiny_moe import locality, texts
from eldr_service.lab.simulation.sample import sample_recording

README = Path(locality.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def sample():
    return sample_recording()


def test_its_locality_stands_in_the_readme(sample):
    assert locality.row("sample", sample) in README.read_text()


def test_it_has_as_many_requests_of_every_kind(sample):
    kinds, requests = np.unique(sample.domains, return_counts=True)
    assert set(kinds) == set(texts.KINDS)
    assert len(set(requests.tolist())) == 1
    assert sample.num_requests >= 160


def test_its_halves_are_of_different_files_and_alike_in_kinds(sample):
    half = sample.num_requests // 2
    assert sample.domains[:half].tolist() == sample.domains[half:].tolist()


def test_each_token_has_two_different_experts(sample):
    assert sample.expert_ids.shape[1:] == (4, 2)
    assert sample.geometry.num_experts == 32
    first, second = np.moveaxis(sample.expert_ids, -1, 0)
    assert (first != second).all()
