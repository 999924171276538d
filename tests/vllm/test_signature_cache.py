"""The signature cache against a plain dictionary of token rows, its code, and its memory."""

from collections import defaultdict

import numpy as np
import pytest
from eldr_vllm.worker import signature_cache
from eldr_vllm.worker.block_code import decode, encode, row_lanes
from eldr_vllm.worker.signature_cache import BLOCKS_A_ROW, BLOCKS_A_SUM, SignatureCache
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

NUM_BLOCKS = 12
BLOCK_IDS = st.integers(0, NUM_BLOCKS - 1)


class Machine(RuleBasedStateMachine):
    """Each block holds a list of its tokens' experts, or None where they are not to be trusted."""

    block_size, num_layers, num_experts, top_k = 4, 2, 40, 3
    chains = Bundle("chains")

    @initialize(blocks_a_sum=st.integers(1, 3), blocks_a_row=st.sampled_from([3, 12]))
    def start(self, blocks_a_sum: int, blocks_a_row: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(signature_cache, "BLOCKS_A_SUM", blocks_a_sum)
        self.patch.setattr(signature_cache, "BLOCKS_A_ROW", blocks_a_row)
        self.cache = SignatureCache(
            NUM_BLOCKS, self.block_size, self.num_layers, self.num_experts, self.top_k
        )
        self.rng = np.random.default_rng(0)
        self.held: dict[int, list[np.ndarray] | None] = defaultdict(list)

    def teardown(self) -> None:
        self.patch.undo()

    def one_pass(self, tokens: list[tuple[int, int]], padding: int = 0, bad: int = 0) -> None:
        """Write (block, offset) tokens in random order; expected: whole or not at all."""
        experts = self.rng.integers(
            0, self.num_experts, (len(tokens) + padding, self.num_layers, self.top_k)
        )
        experts[:bad, -1, -1] = self.num_experts
        by_block: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
        offsets: dict[int, list[int]] = defaultdict(list)
        for (block, offset), row in zip(tokens, experts, strict=False):
            by_block[block][offset] = row
            offsets[block].append(offset)
        for block, written in offsets.items():
            before = [] if 0 in written else self.held[block]
            if before is not None:
                rows = [by_block[block][offset] for offset in sorted(written)]
                follows = range(len(before), len(before) + len(written))
                sound = sorted(written) == list(follows) and np.max(rows) < self.num_experts
                before = before + rows if sound else None
            self.held[block] = before
        slots = [block * self.block_size + offset for block, offset in tokens] + [-1] * padding
        order = self.rng.permutation(len(slots))
        self.cache.add(np.array(slots, np.int64)[order], experts[order])

    @rule(target=chains, blocks=st.lists(BLOCK_IDS, min_size=1, max_size=9, unique=True))
    def prompt(self, blocks: list[int]) -> list[int]:
        return blocks

    @rule(target=chains, chain=chains, kept=st.integers(1, 6), others=st.permutations(range(12)))
    def shared_prefix(self, chain: list[int], kept: int, others: list[int]) -> list[int]:
        return chain[:kept] + [block for block in others if block not in chain[:kept]][:4]

    @rule(chain=chains, hit=st.integers(0, 5), chunk=st.integers(1, 14), data=st.data())
    def prefill(self, chain: list[int], hit: int, chunk: int, data: st.DataObject) -> None:
        """Compute what follows a prefix hit, chunk by chunk; so does a preempted request."""
        first = min(hit, len(chain) - 1) * self.block_size
        stop = data.draw(st.integers(first + 1, len(chain) * self.block_size))
        tokens = [(chain[i // self.block_size], i % self.block_size) for i in range(first, stop)]
        for start in range(0, len(tokens), chunk):
            self.one_pass(tokens[start : start + chunk], padding=chunk % 3)
        self.total(chain[: -(-stop // self.block_size)], stop)

    @rule(blocks=st.sets(BLOCK_IDS, min_size=1))
    def decode_step(self, blocks: set[int]) -> None:
        self.one_pass([(block, len(self.held[block] or []) % self.block_size) for block in blocks])

    @rule(
        tokens=st.lists(st.tuples(BLOCK_IDS, st.integers(0, 3)), min_size=1, max_size=5),
        bad=st.integers(0, 1),
    )
    def stray_writes(self, tokens: list[tuple[int, int]], bad: int) -> None:
        self.one_pass(tokens, bad=bad)

    @rule(blocks=st.sets(BLOCK_IDS, max_size=3))
    def filled_from_outside(self, blocks: set[int]) -> None:
        self.cache.mark_unknown(list(blocks))
        self.held.update(dict.fromkeys(blocks))

    @rule(chain=consumes(chains), last=st.integers(1, 4))
    def finish(self, chain: list[int], last: int) -> None:
        self.total(chain, (len(chain) - 1) * self.block_size + last)

    @rule(chain=chains)
    def hit(self, chain: list[int]) -> None:
        self.total(chain, len(chain) * self.block_size)

    @rule()
    def reset(self) -> None:
        self.cache.reset()
        self.held.clear()

    def total(self, chain: list[int], num_tokens: int) -> None:
        counts = np.zeros((self.num_layers, self.num_experts), np.int64)
        known = 0
        for i, block in enumerate(chain):
            rows = self.held[block] or []
            if len(rows) <= num_tokens - i * self.block_size:
                known += len(rows)
                for row in rows:
                    np.add.at(counts, (np.arange(self.num_layers)[:, None], row), 1)
        total = self.cache.total(chain, num_tokens)
        np.testing.assert_array_equal(total.counts, counts)
        assert total.counts.dtype == np.uint32
        assert (total.num_tokens, total.unknown_tokens) == (known, num_tokens - known)


class WideMachine(Machine):
    """More than 255 picks a block: counts of two bytes, codes of many words."""

    num_layers, num_experts, top_k = 2, 90, 70


class PlainMachine(Machine):
    """So few experts that no code is smaller."""

    num_layers, num_experts, top_k = 3, 4, 2


for machine in (Machine, WideMachine, PlainMachine):
    machine.TestCase.settings = settings(
        max_examples=80,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
TestCoded, TestWide, TestPlain = Machine.TestCase, WideMachine.TestCase, PlainMachine.TestCase


def round_trip(counts: np.ndarray, most_picks: int) -> None:
    layers, experts = counts.shape
    words = -(-(most_picks + experts - 1) // 64)
    row = np.zeros(row_lanes(layers, experts, words), np.uint8 if most_picks < 256 else np.uint16)
    row[: counts.size] = counts.ravel()
    code = np.full(layers * words, 0xDEAD, np.uint64)
    encode(row, layers, experts, words, code)
    back = np.full_like(row, 99)
    decode(code, layers, experts, words, back)
    np.testing.assert_array_equal(back[: counts.size].reshape(counts.shape), counts)


@settings(max_examples=200, deadline=None)
@given(
    layers=st.integers(1, 4),
    experts=st.integers(1, 300),
    most_picks=st.sampled_from([1, 8, 64, 128, 255, 256, 1_000, 65_535]),
    share=st.sampled_from([0, 0.3, 1]),
    skew=st.sampled_from([0.01, 0.3, 100]),
    seed=st.integers(0, 2**32 - 1),
)
@example(layers=2, experts=64, most_picks=1, share=1, skew=0.01, seed=0)  # fills its words
def test_code_keeps_any_counts(
    layers: int, experts: int, most_picks: int, share: float, skew: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    likely = rng.gamma(skew, size=(layers, experts)) + 1e-12
    counts = rng.multinomial(int(share * most_picks), likely / likely.sum(1, keepdims=True))
    round_trip(counts, most_picks)


@pytest.mark.parametrize("most_picks", [128, 255, 65_535])
@pytest.mark.parametrize("expert", [0, 1, 63, 64, 127])
def test_code_keeps_all_picks_on_one_expert(most_picks: int, expert: int) -> None:
    counts = np.zeros((3, 128), np.int64)
    counts[:, expert] = most_picks
    round_trip(counts, most_picks)


@pytest.mark.parametrize("num_blocks", [500, 8_000, 30_000])
def test_memory_is_within_its_share_of_the_kv_cache(num_blocks: int) -> None:
    cache = SignatureCache(num_blocks, 16, num_layers=48, num_experts=128, top_k=8)
    kv_cache = num_blocks * 16 * 48 * 2 * 4 * 128 * 2  # bf16 keys and values, 4 heads of 128
    assert cache.nbytes <= 0.0012 * kv_cache


def test_no_old_sum_serves_a_block_that_changed() -> None:
    num_blocks = 3 * BLOCKS_A_SUM
    cache = SignatureCache(num_blocks, 2, num_layers=1, num_experts=64, top_k=1)
    slots = np.arange(2 * num_blocks)
    cache.add(slots, np.full((len(slots), 1, 1), 7))
    assert cache.total(range(num_blocks), len(slots)).counts[0, 7] == len(slots)
    cache.add([9 * 2, 9 * 2 + 1], np.full((2, 1, 1), 8))
    after = cache.total(range(num_blocks), len(slots)).counts[0]
    assert (after[7], after[8]) == (len(slots) - 2, 2)
    cache.mark_unknown([300])
    assert cache.total(range(num_blocks), len(slots)).unknown_tokens == 2


def test_a_token_written_twice_in_one_pass_makes_its_block_unknown() -> None:
    cache = SignatureCache(4, 2, num_layers=1, num_experts=64, top_k=1)
    cache.add([0, 2, 0], np.array([5, 6, 7]).reshape(3, 1, 1))
    assert cache.total([0], 1).unknown_tokens == 1
    assert cache.total([1], 1).num_tokens == 1


def test_a_block_marked_unknown_gives_its_row_back() -> None:
    cache = SignatureCache(4 * BLOCKS_A_ROW, 2, num_layers=1, num_experts=64, top_k=1)
    one = np.full((1, 1, 1), 5)
    cache.add([0], one)
    cache.mark_unknown([0])
    for block in (0, 1, 2, 3):  # the last one takes the row that block 0 had at first
        cache.add([2 * block], one)
    assert cache.total([0], 1).counts[0, 5] == 1


def test_wrong_input_says_what_was_expected_and_counts_nothing() -> None:
    cache = SignatureCache(4, 2, num_layers=1, num_experts=64, top_k=2)
    with pytest.raises(ValueError, match=r"\(2, 1, 2\)"):
        cache.add([0, 1], np.zeros((2, 2, 2), np.int32))
    with pytest.raises(ValueError, match="slot 8 is beyond 4 blocks"):
        cache.add([0, 8], np.zeros((2, 1, 2), np.int32))
    assert cache.total([0], 1).unknown_tokens == 1
    with pytest.raises(ValueError, match="3 tokens are not 1 blocks of 2"):
        cache.total([0], 3)
    for call in (lambda: cache.total([4], 1), lambda: cache.mark_unknown([-1])):
        with pytest.raises(ValueError, match="ids from 0 to 3"):
            call()
    with pytest.raises(ValueError, match="at most 65535"):
        SignatureCache(4, 65_536, num_layers=1, num_experts=64, top_k=1)
    with pytest.raises(ValueError, match="must be positive"):
        SignatureCache(4, 16, num_layers=0, num_experts=64, top_k=1)
