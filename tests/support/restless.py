"""A policy that moves whatever may move, and a daemon with it."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from daemon import Daemon, running_daemon

from eldr_service.core.booking import Booking
from eldr_service.core.decision import FleetSnapshot
from eldr_service.policies.policy import Move
from eldr_service.policies.round_robin import RoundRobin


class Restless(RoundRobin):
    """Places in turn; after each booking and each end, moves a request that may move."""

    name = "restless"
    description = "moves whatever may move"

    def move(self, candidates: Sequence[Booking], fleet: FleetSnapshot) -> Move | None:
        """The first candidate, to the other eligible worker with the fewest sequences."""
        for booking in candidates:
            others = fleet.eligible & (np.array(fleet.worker_ids) != booking.worker_id)
            if others.any():
                least = np.where(others, fleet.sequences, np.inf)
                return Move(booking, int(least.argmin()), 1.0)
        return None


@contextmanager
def restless_daemon(*flags: str) -> Iterator[Daemon]:
    """A daemon started with the policy, as if it had been installed."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder) / "restless-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: restless\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[eldr.policies]\nrestless = restless:Restless\n")
        paths = [folder, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        env = {"PYTHONPATH": os.pathsep.join(paths)}
        with running_daemon("--policy", "restless", *flags, env=env) as daemon:
            yield daemon
