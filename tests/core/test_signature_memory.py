import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.signature_memory import (
    TOKENS,
    SignatureMemory,
    SignatureSource,
    keys_of,
)

GEOMETRY = ModelGeometry(2, 4, 1)
SESSION, PREFIX, TENANT = SignatureSource.SESSION, SignatureSource.PREFIX, SignatureSource.TENANT


def on(*shares, tokens=10, geometry=GEOMETRY):
    """Counts of tokens that pick the experts in these shares, in every layer."""
    row = np.zeros(geometry.num_experts)
    row[: len(shares)] = shares
    return np.tile(np.rint(row * tokens), (geometry.num_layers, 1)).astype(np.uint32)


def shares(predicted):
    return (predicted[1][0] / TOKENS).round(3).tolist()


def learnt(memory, counts, session="", prefixes=(), tenant="", more=False):
    memory.learn(keys_of(session, prefixes, tenant), counts, GEOMETRY, more)


@pytest.fixture
def memory():
    return SignatureMemory()


def test_the_conversation_says_more_than_a_prefix_and_that_more_than_the_tenant(memory):
    learnt(memory, on(1.0), session="s", tenant="t")
    learnt(memory, on(0, 1.0), prefixes=[7, 8])
    learnt(memory, on(0, 0, 1.0), tenant="t2")

    def asked(session, prefixes, tenant):
        found = memory.predict(GEOMETRY, session, prefixes, tenant)
        return found and (found[0], int(found[1][0].argmax()))

    assert asked("s", [7], "t") == (SESSION, 0)
    assert asked("new", [7, 9], "t2") == (PREFIX, 1)
    assert asked("new", [9], "t2") == (TENANT, 2)
    assert asked("new", [9], "new") is None
    assert asked("", [], "") is None


def test_the_longest_known_prefix_is_taken(memory):
    learnt(memory, on(1.0), prefixes=[1, 2, 3])
    learnt(memory, on(0, 1.0), prefixes=[1, 2, 30])
    longest = memory.predict(GEOMETRY, "", [1, 2, 3, 4, 5], "")
    assert shares(longest) == [1, 0, 0, 0]
    assert shares(memory.predict(GEOMETRY, "", [1, 2, 4], "")) == pytest.approx(
        [0.9 / 1.9, 1 / 1.9, 0, 0], abs=1e-3
    )


def test_a_long_prompt_takes_a_dozen_places_and_its_end_is_known():
    hashes = list(range(100, 4_196))
    keys = keys_of("", hashes, "")
    assert [key for _, key in keys] == [hashes[(1 << power) - 1] for power in range(13)]
    assert keys_of("", hashes[:100], "")[-1] == (PREFIX, hashes[99])


def test_a_conversation_is_its_tenants(memory):
    learnt(memory, on(1.0), session="1", tenant="a")
    learnt(memory, on(0, 1.0), session="1", tenant="b")
    assert shares(memory.predict(GEOMETRY, "1", [], "a")) == [1, 0, 0, 0]
    assert memory.predict(GEOMETRY, "1", [], "") is None


def test_tokens_weigh_and_the_latest_count_most(memory):
    learnt(memory, on(1.0, tokens=30), session="s", tenant="t")
    learnt(memory, on(0, 1.0, tokens=15), session="s", tenant="t")
    assert shares(memory.predict(GEOMETRY, "s", [], "t")) == pytest.approx(
        [0.5, 0.5, 0, 0], abs=1e-3
    )
    of_tenant = shares(memory.predict(GEOMETRY, "", [], "t"))
    assert of_tenant == pytest.approx([29.4 / 44.4, 15 / 44.4, 0, 0], abs=1e-3)


def test_more_of_the_same_request_is_added_to_it(memory):
    learnt(memory, on(1.0, tokens=30), session="s")
    learnt(memory, on(0, 1.0, tokens=30), session="s", more=True)
    assert shares(memory.predict(GEOMETRY, "s", [], "")) == pytest.approx(
        [0.5, 0.5, 0, 0], abs=1e-3
    )


def test_another_geometry_begins_anew(memory):
    other = ModelGeometry(3, 4, 1)
    learnt(memory, on(1.0), tenant="t")
    assert memory.predict(other, "", [], "t") is None
    memory.learn(keys_of("", [], "t"), on(1.0, geometry=other), other)
    assert memory.predict(GEOMETRY, "", [], "t") is None
    assert memory.predict(other, "", [], "t")


def test_a_layer_without_tokens_teaches_nothing(memory):
    counts = on(1.0)
    counts[1] = 0
    learnt(memory, counts, tenant="t")
    assert memory.predict(GEOMETRY, "", [], "t") is None


def test_each_kind_has_a_third_and_drops_what_was_not_met_for_longest():
    memory = SignatureMemory(3 * 3 * 516)  # three of each, of 8 counts and what is beside them
    learnt(memory, on(1.0), tenant="t")
    for number in range(50):
        learnt(memory, on(1.0), session=f"s{number}", tenant="t")
        memory.predict(GEOMETRY, "s0", [], "t")
    known = [n for n in range(50) if memory.predict(GEOMETRY, f"s{n}", [], "t")[0] is SESSION]
    assert known == [0, 48, 49]
    assert memory.nbytes == 4 * 516


def test_no_memory_keeps_nothing():
    memory = SignatureMemory(0)
    learnt(memory, on(1.0), tenant="t")
    assert len(memory) == 0
    assert memory.predict(GEOMETRY, "", [], "t") is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_rows_are_those_of_whole_tokens_whatever_was_learned(requests):
    memory = SignatureMemory()
    geometry = ModelGeometry(1, 4, 2)
    for picks, more in requests:
        second = [(pick + 1) % 4 for pick in picks]
        counts = np.bincount(picks + second, minlength=4)[None].astype(np.uint16)
        memory.learn(keys_of("", [], "t"), counts, geometry, more)
    _, predicted = memory.predict(geometry, "", [], "t")
    assert predicted.dtype == np.uint16
    assert predicted.sum(axis=1, dtype=np.int64).tolist() == [2 * TOKENS]
