"""What workers are believed to hold: as engines with an LRU cache of blocks do, within bounds."""

import random

import pytest

from eldr_service.core.held_prefixes import GRAIN, HeldPrefixes

BLOCK = 16
EVERY = GRAIN // BLOCK


def prompt(name, blocks):
    """Hashes of a prompt; those of the same name begin alike."""
    drawn = random.Random(name)
    return [drawn.getrandbits(64) for _ in range(blocks)]


def test_each_worker_holds_what_was_booked_on_it():
    held = HeldPrefixes()
    held.hold(3, prompt("a", 100), BLOCK, 0)
    held.hold(5, prompt("a", 40), BLOCK, 0)
    held.hold(7, prompt("b", 100), BLOCK, 0)
    assert held.of(prompt("a", 200), BLOCK) == {3: 96 * BLOCK, 5: 40 * BLOCK}
    assert held.of(prompt("a", 50), BLOCK) == {3: 48 * BLOCK, 5: 40 * BLOCK}
    assert held.of(prompt("c", 200), BLOCK) == {}


def test_a_prompt_that_parts_from_another_shares_its_beginning():
    held = HeldPrefixes()
    held.hold(0, prompt("a", 100), BLOCK, 0)
    parted = prompt("a", 64) + prompt("b", 100)
    assert held.of(parted, BLOCK) == {0: 64 * BLOCK}


def test_prompts_shorter_than_the_grain_are_not_kept():
    held = HeldPrefixes()
    held.hold(0, prompt("a", EVERY - 1), BLOCK, 0)
    assert (len(held), held.of(prompt("a", EVERY), BLOCK)) == (0, {})


def test_blocks_larger_than_the_grain_are_all_kept():
    held = HeldPrefixes()
    held.hold(0, prompt("a", 3), 2 * GRAIN, 0)
    assert held.of(prompt("a", 9), 2 * GRAIN) == {0: 6 * GRAIN}


def test_a_full_worker_forgets_the_prefix_used_longest_ago_and_its_end_first():
    held, capacity = HeldPrefixes(), 10 * GRAIN
    first, second, third = (prompt(name, 4 * EVERY) for name in "abc")
    held.hold(0, first, BLOCK, capacity)
    held.hold(0, second, BLOCK, capacity)
    held.hold(0, first, BLOCK, capacity)  # used again
    held.hold(0, third, BLOCK, capacity)
    assert held.of(second, BLOCK) == {0: 2 * GRAIN}
    assert held.of(first, BLOCK) == held.of(third, BLOCK) == {0: 4 * GRAIN}


def test_a_life_that_ends_takes_its_cache_along():
    held = HeldPrefixes()
    for row in (0, 1):
        held.hold(row, prompt("a", 80), BLOCK, 0)
    held.forget(0)
    held.forget(2)  # never held any
    assert held.of(prompt("a", 80), BLOCK) == {1: 80 * BLOCK}
    assert len(held) == 80 // EVERY


@pytest.mark.parametrize("capacity", [0, 1, GRAIN, 50 * GRAIN, 1 << 48])
def test_no_caller_makes_it_grow_without_bound(capacity):
    held = HeldPrefixes(max_hashes=100)
    for number in range(60):
        held.hold(number % 7, prompt(str(number), 20 * EVERY), BLOCK, capacity)
        assert len(held) <= min(100, 7 * (capacity // GRAIN or 100))
        by_worker = held.of(prompt(str(number), 20 * EVERY), BLOCK)
        expected = min(20, capacity // GRAIN) if capacity else 20
        assert by_worker == ({number % 7: expected * GRAIN} if expected else {})


def test_it_holds_what_a_cache_of_blocks_would():
    """Against a list of blocks in order of their use."""
    draw, blocks = random.Random(1), 30
    held, lists = HeldPrefixes(), {row: [] for row in range(3)}
    family = {name: prompt(name, 12 * EVERY) for name in "abcdef"}
    for _ in range(400):
        row, name = draw.randrange(3), draw.choice("abcdef")
        hashes = family[name][: draw.randrange(1, 13) * EVERY]
        held.hold(row, hashes, BLOCK, blocks * GRAIN)
        kept = hashes[EVERY - 1 :: EVERY]
        lists[row] = ([h for h in lists[row] if h not in kept] + kept[::-1])[-blocks:]
        asked = family[draw.choice("abcdef")]
        expected = {}
        for row, cached in lists.items():
            found = [h in cached for h in asked[EVERY - 1 :: EVERY]] + [False]
            if found[0]:
                expected[row] = found.index(False) * GRAIN
        assert held.of(asked, BLOCK) == expected
