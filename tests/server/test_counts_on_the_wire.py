"""A signature is the same however it came: whole, chunk by chunk, by rank, in any encoding."""

import numpy as np
import pytest
from eldr.v1 import router_pb2
from wire import LAYERS, counts, drawn

ENCODINGS = ("u16", "u32", "sparse")
WHOLE = [drawn(kind, seed=50, tokens=20 + kind) for kind in range(4)]


def pieces(whole, number, rng):
    """Parts that add up to the counts, each of as many tokens as every row of it has."""
    tokens = int(whole[0].sum()) // 2
    cuts = np.sort(rng.choice(np.arange(1, tokens), number - 1, replace=False)) * 2
    parts = [np.zeros_like(whole) for _ in range(number)]
    for layer, row in enumerate(whole):
        picks = rng.permutation(np.repeat(np.arange(len(row)), row))
        for part, some in zip(parts, np.split(picks, cuts), strict=True):
            part[layer] = np.bincount(some, minlength=len(row))
    return parts


def scores(client, model, request_id, **fields):
    placement = client.route(model, request_id, dry_run=True, **fields)
    assert placement.coverage == 1.0
    return [(s.worker_id, s.similarity, s.load, s.in_band) for s in placement.scores], (
        placement.worker_id,
        placement.similarity,
        placement.reason,
    )


def send(client, model, message, **fields):
    request = router_pb2.RegisterSignatureRequest(
        model=model, request_id="r", counts=message, **fields
    )
    return client.router.RegisterSignature(request).complete


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("transform", ["counts", "sqrt", "counts-idf"])
def test_whole_in_any_encoding(client, fleet, kind, transform):
    client.fit(fleet, kinds=4, transform=transform)
    got = [scores(client, fleet, e, counts=counts(WHOLE[kind], encoding=e)) for e in ENCODINGS]
    assert got[0] == got[1] == got[2]
    assert len({score[1] for score in got[0][0]}) > 1


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", range(5))
def test_chunks_in_any_order(client, fleet, encoding, seed):
    rng = np.random.default_rng(seed)
    whole = WHOLE[seed % 4]
    parts = pieces(whole, 6, rng)
    for place, sequence in enumerate(rng.permutation(6).tolist()):
        message = counts(parts[sequence], encoding=encoding)
        ending = {"last": True, "prompt_tokens": 99} if sequence == 5 else {}
        done = send(client, fleet, message, sequence=sequence, **ending)
        assert done == (place == 5)
        assert send(client, fleet, message, sequence=sequence, **ending) == done  # again: ignored
    assert scores(client, fleet, "r") == scores(client, fleet, "s", counts=counts(whole))


def test_pipeline_ranks_send_their_own_layers(client, fleet):
    rng = np.random.default_rng(7)
    parts = pieces(WHOLE[2], 3, rng)
    ranks = [slice(0, 1), slice(1, LAYERS)]
    sent = [(rank, chunk) for rank in range(2) for chunk in range(3)]
    for rank, chunk in rng.permutation(sent).tolist():
        sequence = 2 * chunk + rank
        message = counts(
            parts[chunk][ranks[rank]],
            encoding=ENCODINGS[(rank + chunk) % 3],
            offset=ranks[rank].start,
        )
        done = send(client, fleet, message, sequence=sequence, last=sequence == 5)
    assert done
    assert scores(client, fleet, "r") == scores(client, fleet, "s", counts=counts(WHOLE[2]))


def test_counts_above_16_bits(client, fleet):
    large = WHOLE[1] * 8_000
    assert large.max() > 2**16
    assert scores(client, fleet, "r", counts=counts(large, encoding="u32")) == scores(
        client, fleet, "s", counts=counts(WHOLE[1])
    )
