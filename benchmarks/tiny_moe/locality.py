"""How much locality recordings have: a row of a table for each."""

import argparse
from pathlib import Path

from eldr_service.fitting import Recording
from eldr_service.simulation.locality import locality_statistics

HEAD = (
    "| recording | geometry | own / same kind / other kind"
    " | batch of 6: any, alike | batch of 12: any, alike |\n|---|---|---|---|---|"
)


def row(name: str, recording: Recording) -> str:
    """A line of the table; percentages are what alike requests save of the active experts."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiny_moe.locality", description=__doc__
    )
    parser.add_argument("file", type=Path, nargs="+", metavar="FILE.npz")
    print(HEAD)
    for path in parser.parse_args().file:
        print(row(path.stem, Recording.load(path)))


if __name__ == "__main__":
    main()
