"""Joins requests whose prefill and decode were recorded by different engines, or by one."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings.engine_files import EngineFiles


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Joined:
    """Requests with both halves complete, in order of arrival.

    Attributes
    ----------
    arrival_s : ndarray of float64, shape [n]
        At the prefill engine, Unix seconds.
    prompt_tokens, output_tokens : ndarray of int64, shape [n]
    counts : ndarray of uint32, shape [m, L, E]
        Activation counts of the prefills, for the m requests whose experts are recorded too.
    experts : ndarray, shape [tokens, L, top_k]
        Of their answers' tokens, all requests end to end.
    offsets : ndarray of int64, shape [m + 1]
    lost : int
        Requests with only one half, or with tokens of the answer missing.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    counts: NDArray[np.uint32]
    experts: NDArray[np.integer]
    offsets: NDArray[np.int64]
    lost: int


@cache
def join(files: EngineFiles) -> Joined:
    """Join the halves by the requests' ids, once per process.

    If a request has several sequences or tries, the longest answer and the last prefill are taken.
    A prompt with more than half unknown has no experts here, as a router would then go by load. The
    last token of an answer passes no layer, so an answer of one token has no experts either.

    Raises
    ------
    ValueError
        A half is missing.
    """
    prefills, decodes = files["prefills.request"], files["decodes.request"]
    for half, other, found in (("prefill", "decode", prefills), ("decode", "prefill", decodes)):
        if not len(found):
            raise ValueError(
                f"{files.folder}: has no {half} half, only {other}s; {half} engines need the"
                " setting record too, and their files belong in the same folder"
            )
    longest = np.argsort(files["decodes.tokens"][:, 1], kind="stable")
    keys, of_prefill, of_decode = np.intersect1d(
        np.unique(prefills), np.unique(decodes), return_indices=True
    )
    if not len(keys):
        raise ValueError(
            f"{files.folder}: no request has both halves; do prefill and decode engines use the"
            " same request ids?"
        )
    prefill = _last(prefills)[of_prefill]
    decode = longest[_last(decodes[longest])][of_decode]
    in_order = np.argsort(files["prefills.times"][prefill, 0], kind="stable")
    keys, prefill, decode = keys[in_order], prefill[in_order], decode[in_order]

    signature = _find(files["signatures.request"], keys)
    order, first, after = _tokens(files, decode)
    wanted = files["decodes.tokens"][decode, 2]
    known = files["signatures.counts"][:, :1].sum(axis=(1, 2)) // files.top_k
    routed = np.append(known >= files["signatures.unknown"], False)  # the last where there is none
    whole = routed[signature] & (after - first == wanted) & (wanted > 0)
    rows = [order[a:b] for a, b in zip(first[whole], after[whole], strict=True)]
    missing = (after - first != wanted).sum()
    return Joined(
        arrival_s=files["prefills.times"][prefill, 0],
        prompt_tokens=files["prefills.tokens"][prefill].astype(np.int64),
        output_tokens=files["decodes.tokens"][decode, 1].astype(np.int64),
        counts=files["signatures.counts"][signature[whole]].astype(np.uint32),
        experts=files["tokens.experts"][np.concatenate([np.empty(0, np.int64), *rows])],
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]),
        lost=len(np.union1d(prefills, decodes)) - len(keys) + int(missing),
    )


def _last(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The last position of each distinct key, in key order."""
    return len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]


def _find(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The last position of each wanted key; -1 if absent."""
    distinct, places = np.unique(keys), _last(keys)
    if not len(distinct):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
    return np.where(distinct[at] == wanted, places[at], -1)


def _tokens(
    files: EngineFiles, decode: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `tokens` by sequence, and the range of each decode's rows in them."""
    sequences = files["tokens.sequence"]
    order = np.argsort(sequences, kind="stable")
    own = files["decodes.sequence"][decode]
    first, after = (
        np.searchsorted(sequences, own, side, sorter=order) for side in ("left", "right")
    )
    return order, first, after
