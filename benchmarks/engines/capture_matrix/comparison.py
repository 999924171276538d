"""Compares what the shim reported about requests with what the log saw computed."""

import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EXACT, NONE, UNKNOWN, DIFFERS = "exact", "no counts", "unknown tokens", "differs"


class Log:
    """The experts of tokens, keyed by the tokens before them.

    Rounding may send a prefix computed in two batches to different experts, and only the engine
    knows which of them a cached block stands for: then any of them is accepted.

    Parameters
    ----------
    folder : Path
        `StepLog`'s.
    requests : iterable of (str, sequence of int)
        Each request's name and all its tokens, of prompt and answer.
    """

    def __init__(self, folder: Path, requests: Iterable[tuple[str, Sequence[int]]]) -> None:
        self._nodes: dict[tuple[int, int], int] = {}  # (prefix, token) -> the longer prefix
        self._seen: dict[int, dict[bytes, NDArray[np.int64]]] = {}
        tokens = dict(requests)
        for name, before, drafts, experts in _entries(folder):
            said = tokens.get(name.rsplit("-", 1)[0])  # without what vLLM appends
            if said is None:
                continue
            prefixes = self._prefixes(said)
            first_draft = before + len(experts) - len(drafts)
            for position, picks in enumerate(experts, before):
                if position >= len(said):
                    break  # past the answer's end
                rejected = position >= first_draft and drafts[position - first_draft] not in (
                    said[position],
                    -1,
                )
                if not rejected:
                    picks = np.sort(picks.astype(np.int64), axis=1)
                    self._seen.setdefault(prefixes[position], {})[picks.tobytes()] = picks

    def agrees(
        self, counts: NDArray[np.int64], tokens: Sequence[int], first: int, end: int
    ) -> bool:
        """Whether `counts` [layers, experts] are those of tokens[first:end]."""
        low, high = np.zeros_like(counts), np.zeros_like(counts)
        for prefix in self._prefixes(tokens)[first:end]:
            seen = list(self._seen.get(prefix, {}).values())
            if not seen or len(seen[0]) != len(counts):
                return False
            picked = np.zeros((len(seen), *counts.shape), np.int64)
            for one, picks in zip(picked, seen, strict=True):
                np.put_along_axis(one, picks, 1, axis=1)
            low += picked.min(axis=0)
            high += picked.max(axis=0)
            top_k = seen[0].shape[1]
        if end > first and not (counts.sum(axis=1) == (end - first) * top_k).all():
            return False
        return bool((low <= counts).all() and (counts <= high).all())

    @property
    def rounded(self) -> int:
        """Prefixes that went to different experts in different batches."""
        return sum(len(seen) > 1 for seen in self._seen.values())

    @property
    def variety(self) -> int:
        """Distinct choices of experts, over all layers; too few would make the check vacuous."""
        return len({choice for seen in self._seen.values() for choice in seen})

    def __len__(self) -> int:
        return len(self._seen)

    def _prefixes(self, tokens: Sequence[int]) -> list[int]:
        """A number for each token and all before it, the same in every request."""
        node, found = 0, []
        for token in tokens:
            node = self._nodes.setdefault((node, token), len(self._nodes) + 1)
            found.append(node)
        return found


def _entries(folder: Path) -> Iterable[tuple]:
    for path in folder.glob("*.pickle"):
        with path.open("rb") as log:
            while log.peek(1):
                yield pickle.load(log)


def judge_prompt(log: Log, said, tokens: Sequence[int], prompt: int) -> str:
    """The verdict on `said`, (counts, ActivationCounts) of a request's answer, or None."""
    if said is None:
        return NONE
    counts, message = said
    if message.unknown_tokens:
        return UNKNOWN
    same = message.num_tokens == prompt and log.agrees(counts, tokens, 0, prompt)
    return EXACT if same else DIFFERS


def judge_release(log: Log, said, tokens: Sequence[int], prompt: int) -> str:
    """The verdict on a release's `decode_counts` of one answer.

    The answer's last token need not pass the layers, but may under asynchronous scheduling or as
    a draft.
    """
    if said is None:
        return NONE
    counts, message = said
    end = prompt + message.num_tokens
    same = end in (len(tokens) - 1, len(tokens)) and log.agrees(counts, tokens, prompt, end)
    return EXACT if same else DIFFERS


def summary(tallies: dict[str, Counter]) -> str:
    """`exact`, or a short list of everything else."""
    parts = [
        f"{what}: {', '.join(f'{count} {verdict}' for verdict, count in tally.most_common())}"
        for what, tally in tallies.items()
        if set(tally) != {EXACT}
    ]
    return "; ".join(parts) or EXACT
