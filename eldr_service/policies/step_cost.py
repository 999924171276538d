"""What a decode step costs, learned from the workers' own reports by recursive least squares.

    step seconds = speed[worker] x (fixed + expert x experts per layer + sequence x batch size)

The three coefficients are the fleet's, from all reports, older ones forgotten by 0.2% a report.
They lean on a prior: a step without experts costs as much as 8 experts (6 to 9 on the GPUs that
were measured), a sequence as a tenth of one. Until the first report the unit is the expert, which
ranks workers by experts and load. `speed` is by how much a worker has reported longer steps than
the fleet's coefficients say, so that unlike hardware can be compared: the mean logarithm of the
ratio, less that of all workers, as far as it is beyond chance. A step is flat in what a batch
holds, so an error of 5% in a speed would move a third of a worker's requests; and speeds and
coefficients can explain each other.

    speed    = exp(m (1 - (d / m)^4)) where |m| > d, else 1
    m        = mean of log(reported / expected) over 3 reports or more, less that of all workers
    d^2      = 0.1^2 + (3 standard errors of m)^2, by what a worker's reports in a row differ
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

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
_LEAST_LOG_SPEED = 0.1  # smaller ones are no matter of hardware
_ERRORS = 3.0  # standard errors: every report of every worker is another occasion for chance
_FEWEST_REPORTS = 3  # of a worker, so that it is known what reports differ by
_LOG_NOISE = 0.2  # of a report, before any; it counts as 4 reports
_NOISE_REPORTS = 300  # over which the noise and the mean of all forget
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


@dataclass(frozen=True, slots=True)
class _Pace:
    """Of one life of a worker: the mean of its logarithms, and what is needed to go on."""

    incarnation: int
    reports: int = 0
    mean: float = 0.0
    error: float = 0.0  # variance of the mean, in that of a report
    last: float = 0.0

    def following(self, value: float) -> "_Pace":
        """After another report. The first weighs half, the other half stays with no difference."""
        weight = max(_RECENT, 1 / (self.reports + 2))
        return _Pace(
            self.incarnation,
            self.reports + 1,
            self.mean + weight * (value - self.mean),
            (1 - weight) ** 2 * self.error + weight**2,
            value,
        )


class LearnedStepCost:
    """Coefficients of a model's fleet, and how slow each worker is beside it."""

    def __init__(self) -> None:
        self._information = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._sums = np.zeros(5)  # of the weights, the three inputs and the seconds
        self._noise = np.array([_LOG_NOISE**2, 4.0])  # variance of a report, and of how many
        self._centre = np.zeros(2)  # mean logarithm of all, and of how many
        self._paces: dict[str, _Pace] = {}
        """Who reported last comes last."""
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
        pace = self._paces.pop(worker_id, _Pace(incarnation))
        if pace.incarnation != incarnation:
            pace = _Pace(incarnation)
        seconds = report.step_seconds / self._speed(pace)
        self._information = _KEEP * self._information + np.outer(inputs, inputs)
        self._products = _KEEP * self._products + inputs * seconds
        self._sums = _KEEP * self._sums + np.array([1.0, *inputs, seconds])
        fitted = self._solve()
        expected = float(fitted @ inputs)
        value = math.log(min(max(report.step_seconds / expected, 0.1), 10.0))
        self._centre = _followed(self._centre, value)
        value -= float(self._centre[0])
        if pace.reports:
            # Half the squared difference of two in a row: whatever the worker's speed is.
            self._noise = _followed(self._noise, (value - pace.last) ** 2 / 2)
        self._paces[worker_id] = pace.following(value)
        self._asked = (), np.zeros(0)
        if len(self._paces) > _MOST_WORKERS:
            del self._paces[next(iter(self._paces))]
        self.coefficients = Coefficients(*fitted.tolist())

    def speeds(self, worker_ids: Sequence[str]) -> NDArray[np.float64]:
        """Of each of these workers; 1 where nothing is known."""
        if self._asked[0] is not worker_ids:
            paces = map(self._paces.get, worker_ids)
            self._asked = worker_ids, np.array([self._speed(p) if p else 1.0 for p in paces])
        return self._asked[1]

    def _speed(self, pace: _Pace) -> float:
        if pace.reports < _FEWEST_REPORTS:
            return 1.0
        chance = _LEAST_LOG_SPEED**2 + _ERRORS**2 * pace.error * float(self._noise[0])
        square = pace.mean**2
        return math.exp(pace.mean * (1 - (chance / square) ** 2)) if square > chance else 1.0

    @property
    def learned(self) -> bool:
        """The coefficients are seconds, from reports; else the prior, in experts."""
        return bool(self._sums[0])

    def state(self) -> PolicyState:
        """What was learned, for `restore`."""
        fitted, paces = self.coefficients, self._paces.values()
        return {
            "information": self._information.copy(),
            "products": self._products.copy(),
            "sums": self._sums.copy(),
            "coefficients": np.array([fitted.fixed, fitted.expert, fitted.sequence]),
            "noise": self._noise.copy(),
            "centre": self._centre.copy(),
            "workers": pack_texts(self._paces),
            "lives": np.array([pace.incarnation for pace in paces], np.int64),
            "paces": np.array([astuple(pace)[1:] for pace in paces]).reshape(-1, 4),
        }

    def restore(self, state: PolicyState) -> None:
        """Take over what `state` gave."""
        self._information, self._products = state["information"].copy(), state["products"].copy()
        self._sums = state["sums"].copy()
        self._noise, self._centre = state["noise"].copy(), state["centre"].copy()
        self.coefficients = Coefficients(*state["coefficients"].tolist())
        columns = unpack_texts(state["workers"]), state["lives"].tolist(), state["paces"].tolist()
        self._paces = {
            worker: _Pace(life, int(reports), *rest)
            for worker, life, (reports, *rest) in zip(*columns, strict=True)
        }

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


def _followed(mean: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """A mean, and of how many values, after another one."""
    number = min(mean[1] + 1, _NOISE_REPORTS)
    return np.array([mean[0] + (value - mean[0]) / number, number])
