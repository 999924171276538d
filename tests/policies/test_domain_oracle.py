import pytest
from fleet_snapshot import request, snapshot

from eldr_service.policies.domain_oracle import DomainOracle

LABELS = [{"domain": "law, medicine"}, {"domain": "code"}, {"domain": "medicine"}, {}]


def pick(domain, sequences=(3, 0, 2, 1), **given):
    labels = {} if domain is None else {"domain": domain}
    fleet = snapshot(list(sequences), labels=LABELS, **given)
    return DomainOracle().pick(request(labels=labels), fleet)


@pytest.mark.parametrize(
    ("domain", "worker"),
    [("law", 0), ("code", 1), ("medicine", 2), ("poetry", 1), (None, 1), ("", 1)],
)
def test_least_loaded_of_the_domains_workers_else_of_all(domain, worker):
    assert pick(domain).worker == worker


def test_a_domain_is_a_whole_word_of_the_list():
    assert pick("med").worker == 1


def test_ineligible_workers_of_the_domain_do_not_count():
    assert pick("medicine", eligible=[1, 1, 0, 1]).worker == 0
    assert pick("code", eligible=[1, 0, 1, 1]).worker == 3  # nobody left: the least loaded of all


def test_ties_by_registration_and_load_relative_to_capacity():
    assert pick("medicine", sequences=[2, 0, 2, 0]).worker == 0
    assert pick("medicine", sequences=[2, 0, 3, 0], capacity=[8, 8, 32, 8]).worker == 2


def test_says_who_the_candidates_were():
    assert pick("medicine").in_band.tolist() == [True, False, True, False]
    assert pick(None).in_band.tolist() == [True] * 4
