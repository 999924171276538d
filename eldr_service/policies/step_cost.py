"""Learns what a decode step costs from workers' own reports, by recursive least squares.

    step seconds = speed[worker] x (fixed + expert x experts per layer + sequence x batch size)

The three coefficients are the fleet's, from all reports; older ones are forgotten by 0.2% per
report. They lean on a prior: a step without experts costs as much as 8 experts (6 to 9 on the GPUs
measured), a sequence a tenth of one. Until the first report the unit is the expert, which ranks
workers by experts and load. `speed` is how much longer a worker's reported steps are than the
fleet's coefficients say, so that unlike hardware can be compared: the mean logarithm of the ratio,
less that of all workers, as far as it exceeds chance. A step's time varies little with what a batch
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
# Of the prior, relative to the reports. Experts and sequences grow together: without a lasting
# prior any error would be split between the two arbitrarily. If a worker reports its experts only
# as a mean over tokens, they agree with the other means, over steps, to about a tenth.
_TRUST = 0.01
_RECENT = 0.05  # weight of a worker's latest report in its speed; the first ones weigh more
_LEAST_LOG_SPEED = 0.1  # smaller ones are not due to hardware
_ERRORS = 3.0  # standard errors: with every report of every worker, chance gets another try
_FEWEST_REPORTS = 3  # of a worker, so that the noise between reports is known
_LOG_NOISE = 0.2  # of a report, a prior that counts as 4 reports
_NOISE_REPORTS = 300  # over which the noise and the overall mean decay
_MOST_WORKERS = 4_096
_LEAST_SEQUENCE = 0.01  # of an expert: load decides once all experts are in use
# Least experts, sequences and seconds of any step.
_LEAST_MEASURED = np.array([1e-3, 1e-3, 1e-9])


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds of a step without experts or sequences, per expert of a layer, and per sequence."""

    fixed: float
    expert: float
    sequence: float


@dataclass(frozen=True, slots=True)
class _Pace:
    """One life of a worker: the mean of its logarithms, and what is needed to update it."""

    incarnation: int
    reports: int = 0
    mean: float = 0.0
    error: float = 0.0  # variance of the mean, relative to that of a report
    last: float = 0.0

    def following(self, value: float) -> "_Pace":
        """The pace after another report. The first weighs half, against no difference."""
        weight = max(_RECENT, 1 / (self.reports + 2))
        return _Pace(
            self.incarnation,
            self.reports + 1,
            self.mean + weight * (value - self.mean),
            (1 - weight) ** 2 * self.error + weight**2,
            value,
        )


class LearnedStepCost:
    """Coefficients of a model's fleet, and how slow each worker is relative to it."""

    def __init__(self) -> None:
        self._information = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._sums = np.zeros(5)  # of weights, the three inputs, seconds
        self._noise = np.array([_LOG_NOISE**2, 4.0])  # a report's variance, its sample count
        self._centre = np.zeros(2)  # mean logarithm of all, and how many reports it is from
        self._paces: dict[str, _Pace] = {}
        """The worker that reported last comes last."""
        self._asked: tuple[Sequence[str], NDArray[np.float64]] = (), np.zeros(0)
        self.coefficients = Coefficients(*PRIOR.tolist())

    def learn(self, worker_id: str, report: LoadReport) -> None:
        """Learn from a report; one without active experts, batch size or step time is ignored.

        So is one whose values are below those of any possible step.
        """
        active = report.step_active_experts or report.active_experts
        self.learn_step(worker_id, report.incarnation, active, report)

    def learn_step(
        self, worker_id: str, incarnation: int, active: float, report: LoadReport
    ) -> None:
        """The same, with the active experts given separately."""
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
            # Half the squared difference of two in a row: independent of the worker's speed.
            self._noise = _followed(self._noise, (value - pace.last) ** 2 / 2)
        self._paces[worker_id] = pace.following(value)
        self._asked = (), np.zeros(0)
        if len(self._paces) > _MOST_WORKERS:
            del self._paces[next(iter(self._paces))]
        self.coefficients = Coefficients(*fitted.tolist())

    def speeds(self, worker_ids: Sequence[str]) -> NDArray[np.float64]:
        """Speed of each of these workers; 1 if unknown."""
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
        """Whether the coefficients are seconds, from reports; else the prior, in experts."""
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
        """Restore what `state` returned."""
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
        """Ridge regression towards the prior, scaled to the measurements.

        In multiples of the means the ridge is equal for all three, so that the system is never
        singular, however far apart the reports are.
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
    """The mean, and its number of values, after another value."""
    number = min(mean[1] + 1, _NOISE_REPORTS)
    return np.array([mean[0] + (value - mean[0]) / number, number])
