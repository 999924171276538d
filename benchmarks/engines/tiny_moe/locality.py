"""How much locality recordings have: a row in each of two tables per recording."""

import argparse
from pathlib import Path

import numpy as np

from eldr_service.fitting import BalancedKMeans
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.locality import locality_statistics

HEAD = (
    "| recording | geometry | own / same kind / other kind"
    " | batch of 6: any, alike | batch of 12: any, alike |\n|---|---|---|---|---|"
)
CLUSTERS = (2, 4, 8, 16)
CLUSTERS_HEAD = (
    f"| recording | B | mixed | {' | '.join(f'K={k}' for k in CLUSTERS)} |\n|{'---|' * 7}"
)


def row(name: str, recording: Recording) -> str:
    """A line of the first table; percentages are the change if a batch's requests are alike."""
    _, layers, top_k = recording.expert_ids.shape
    found = locality_statistics(recording)
    batches = (
        f"{any_:.1f}, {alike:.1f} ({alike / any_ - 1:+.0%})"
        for any_, alike in (
            (found.active_experts_6, found.alike_6),
            (found.active_experts_12, found.alike_12),
        )
    )
    cells = (
        name,
        f"{layers} layers x top-{top_k} of {recording.geometry.num_experts}",
        f"{found.own:.3f} / {found.same_domain:.3f} / {found.other_domain:.3f}",
        *batches,
    )
    return f"| {' | '.join(cells)} |"


def clusters_rows(name: str, recording: Recording) -> list[str]:
    """Active experts per layer of B decode tokens of different requests: drawn from all requests,
    and the change if drawn from one cluster of a balanced k-means on the prefills (in sample).
    """
    prefills = recording.prefill_counts()
    members = {1: [np.arange(recording.num_requests)]}
    for k in CLUSTERS:
        labels = BalancedKMeans(k, transform="sqrt").fit(prefills).labels_
        members[k] = [np.flatnonzero(labels == cluster) for cluster in range(k)]
    rows = []
    for batch in (6, 12):
        mixed = active_experts(recording, members[1], batch)
        saved = []
        for k in CLUSTERS:
            enough = [cluster for cluster in members[k] if len(cluster) >= batch]
            if enough:
                saved.append(f"{active_experts(recording, enough, batch) / mixed - 1:+.0%}")
            else:
                saved.append("too few")
        rows.append(f"| {name} | {batch} | {mixed:.1f} | {' | '.join(saved)} |")
    return rows


def active_experts(
    recording: Recording, groups: list[np.ndarray], batch: int, draws: int = 4000
) -> float:
    """Mean distinct experts per layer of batches drawn from one group each, groups in turn."""
    rng = np.random.default_rng(0)
    layers = np.arange(recording.expert_ids.shape[1])[:, None]
    starts = recording.offsets[:-1] + recording.prefill_len
    total = 0.0
    for draw in range(draws):
        requests = rng.choice(groups[draw % len(groups)], batch, replace=False)
        tokens = rng.integers(starts[requests], recording.offsets[requests + 1])
        touched = np.zeros((len(layers), recording.num_experts), dtype=bool)
        touched[layers, recording.expert_ids[tokens]] = True
        total += touched.sum(axis=1).mean()
    return total / draws


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.tiny_moe.locality", description=__doc__
    )
    parser.add_argument("file", type=Path, nargs="+", metavar="FILE.npz")
    recordings = {path.stem: Recording.load(path) for path in parser.parse_args().file}
    print(HEAD)
    for name, recording in recordings.items():
        print(row(name, recording))
    print(f"\n{CLUSTERS_HEAD}")
    for name, recording in recordings.items():
        print("\n".join(clusters_rows(name, recording)))


if __name__ == "__main__":
    main()
