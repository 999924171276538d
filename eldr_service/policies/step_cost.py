"""What a decode step costs, learned from the workers' own reports by recursive least squares.

    step seconds = speed[worker] x (fixed + expert x experts per layer + sequence x batch size)

The three coefficients are the fleet's, from all reports, older ones forgotten by 0.2% a report.
They lean on a prior: a step without experts costs as much as 8 experts (6 to 9 on the GPUs that
were measured), a sequence as a tenth of one. Until the first report the unit is the expert, which
ranks workers by experts and load. `speed` is by how much a worker has reported longer steps than
the fleet's coefficients say, so that unlike hardware can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.worker import LoadReport
from eldr_service.policies.state import PolicyState, pack_texts, unpack_texts

PRIOR = np.array([8.0, 1.0, 0.1])
_KEEP = 0.998
# Of the prior, beside the reports. Experts and sequences grow together: without a lasting prior any
# error would be shared out between the two at will. Where a worker reports its experts as a mean
# over tokens alone, they agree with the other means, over steps, to about a tenth.
_TRUST = 0.01
_RECENT = 0.05  # weight of a worker's newest report in its speed; the first ones weigh more
_MOST_WORKERS = 4_096
_LEAST_SEQUENCE = 0.01  # of an expert: so that load decides where all experts are in use
# Of experts, sequences and seconds: no step has less of any.
_LEAST_MEASURED = np.array([1e-3, 1e-3, 1e-9])


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds of a step, for one more expert a layer, and for one more sequence."""

    fixed: float
    expert: float
    sequence: float


class LearnedStepCost:
    """Coefficients of a model's fleet, and how slow each worker is beside it."""

    def __init__(self) -> None:
        self._information = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._sums = np.zeros(5)  # of the weights, the three inputs and the seconds
        self._speed: dict[str, tuple[int, int, float]] = {}
        """Incarnation, reports and speed; who reported last comes last."""
        self._asked: tuple[Sequence[str], NDArray[np.float64]] = (), np.zeros(0)
        self.coefficients = Coefficients(*PRIOR.tolist())

    def learn(self, worker_id: str, report: LoadReport) -> None:
        """Take in a report; one without active experts, batch size or step time says nothing.

        Nor does one with less of them than any step can have.
        """
        active = report.step_active_experts or report.active_experts
        self.learn_step(worker_id, report.incarnation, active, report)

    def learn_step(
        self, worker_id: str, incarnation: int, active: float, report: LoadReport
    ) -> None:
        """The same, with the active experts said apart."""
        measured = np.array([active, report.batch_size, report.step_seconds])
        if not ((measured >= _LEAST_MEASURED) & np.isfinite(measured)).all():
            return
        inputs = np.array([1.0, active, report.batch_size])
        life, reports, speed = self._speed.pop(worker_id, (incarnation, 0, 1.0))
        if life != incarnation:
            reports, speed = 0, 1.0
        seconds = report.step_seconds / speed
        self._information = _KEEP * self._information + np.outer(inputs, inputs)
        self._products = _KEEP * self._products + inputs * seconds
        self._sums = _KEEP * self._sums + np.array([1.0, *inputs, seconds])
        fitted = self._solve()
        expected = float(fitted @ inputs)
        off = report.step_seconds / expected / speed
        speed = min(max(speed * off ** max(_RECENT, 1 / (reports + 2)), 0.1), 10.0)
        self._speed[worker_id] = incarnation, reports + 1, speed
        self._asked = (), np.zeros(0)
        if len(self._speed) > _MOST_WORKERS:
            del self._speed[next(iter(self._speed))]
        self.coefficients = Coefficients(*fitted.tolist())

    def speeds(self, worker_ids: Sequence[str]) -> NDArray[np.float64]:
        """Of each of these workers; 1 where nothing is known."""
        if self._asked[0] is not worker_ids:
            speeds = [self._speed.get(worker, (0, 0, 1.0))[2] for worker in worker_ids]
            self._asked = worker_ids, np.array(speeds)
        return self._asked[1]

    @property
    def learned(self) -> bool:
        """The coefficients are seconds, from reports; else the prior, in experts."""
        return bool(self._sums[0])

    def state(self) -> PolicyState:
        """What was learned, for `restore`."""
        fitted = self.coefficients
        return {
            "information": self._information.copy(),
            "products": self._products.copy(),
            "sums": self._sums.copy(),
            "coefficients": np.array([fitted.fixed, fitted.expert, fitted.sequence]),
            "workers": pack_texts(self._speed),
            "lives": np.array([life for life, _, _ in self._speed.values()], np.int64),
            "reports": np.array([reports for _, reports, _ in self._speed.values()], np.int64),
            "speeds": np.array([speed for _, _, speed in self._speed.values()]),
        }

    def restore(self, state: PolicyState) -> None:
        """Take over what `state` gave."""
        self._information, self._products = state["information"].copy(), state["products"].copy()
        self._sums = state["sums"].copy()
        self.coefficients = Coefficients(*state["coefficients"].tolist())
        columns = (state[name].tolist() for name in ("lives", "reports", "speeds"))
        self._speed = dict(
            zip(unpack_texts(state["workers"]), zip(*columns, strict=True), strict=True)
        )

    def _solve(self) -> NDArray[np.float64]:
        """Ridge regression towards the prior, scaled to what was measured.

        In multiples of the means the ridge is the same for all three, so that no reports, however
        far apart, make the system singular.
        """
        mean = self._sums[1:] / self._sums[0]
        scale = mean[:3]
        prior = PRIOR * (mean[3] / (PRIOR @ scale))
        ridge = _TRUST * self._sums[0]
        system = self._information / np.outer(scale, scale) + ridge * np.eye(3)
        fitted = np.linalg.solve(system, self._products / scale + ridge * prior * scale) / scale
        if fitted[1] <= 0:  # noise: more experts are not faster
            fitted = prior
        fitted[0] = max(fitted[0], 0.0)
        fitted[2] = max(fitted[2], _LEAST_SEQUENCE * fitted[1])
        return np.asarray(fitted)
