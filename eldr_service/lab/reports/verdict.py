"""Which policy to use, as far as the runs can tell; every figure is also in the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from eldr_service.lab.reports.findings import TPOT, Findings
from eldr_service.lab.reports.load import TELLING
from eldr_service.lab.reports.plan import EVALUATION_ONLY, name_of
from eldr_service.lab.simulation.comparison import Change, Margin

P50, P99, MEAN = TPOT
SEEDS, REQUESTS = 5, 200
"""With fewer seeds, or fewer requests each, another draw may change the advice."""
WORTHWHILE = 0.01
"""A gain that may be larger deserves more seeds before it is given up."""


class Advice(StrEnum):
    """What the runs allow to conclude."""

    USE = "use"
    STAY = "stay"
    UNDECIDED = "undecided"
    LIGHT = "light"  # workers hold too few requests for any choice to matter
    ALONE = "alone"  # no load-only policy to measure a gain against


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The advice, and its basis.

    Attributes
    ----------
    advice : Advice
    policy : str
        To use, or to stay with. If undecided, the one that would be used if the runs were enough;
        if no figure favours one, the best load-only policy.
    rests_on : Change or None
        The deciding mean TPOT, against the load-only policy that is best by it: of `policy`, or of
        the one that comes nearest if no policy gains. None if nothing was compared.
    tail : Change or None
        The same policy's p99.
    level : dict of policy to Margin
        Policies that gain as well and are not distinguishable from `policy`: its mean TPOT relative
        to theirs.
    rival, against_rival : str and Margin, or None
        The strongest of all others by mean TPOT, and the mean TPOT of `policy` relative to it.
    seeds, requests : int
        Per policy; requests are of the seed with the fewest.
    held : float
        Mean requests per worker under the best load-only policy.
    lacking : tuple of str
        What keeps it undecided.
    """

    advice: Advice
    policy: str
    rests_on: Change | None
    tail: Change | None
    level: dict[str, Margin]
    rival: str | None
    against_rival: Margin | None
    seeds: int
    requests: int
    held: float
    lacking: tuple[str, ...]

    @property
    def favours(self) -> bool:
        """Whether the figures favour a policy that sees more than load, significant or not."""
        return self.rests_on is not None and self.rests_on.policy == self.policy

    @property
    def gains(self) -> bool:
        """Whether the advice is to use such a policy."""
        return self.advice is Advice.USE


def verdict(findings: Findings) -> Verdict:
    """Evaluate the base study.

    A policy gains if its mean TPOT is lower than that of the load-only policy that is best by it,
    beyond chance, and its p99 is not higher beyond chance. Of those, the one with the lowest mean
    TPOT is recommended.
    """
    known = [p for p in findings.base if name_of(p) != EVALUATION_ONLY] or list(findings.base)
    own = [p for p in known if p in findings.others]
    compared = bool(findings.load_only)
    gaining = [p for p in own if _gains(p, findings)] if compared else own
    stays = findings.load_only or known
    policy = _lowest(gaining or stays, findings)
    nearest = policy if gaining else _lowest(own, findings) if own else None
    level = {
        other: margin
        for other in gaining
        if other != policy and not lower(margin := against(policy, other, findings))
    }
    rival = _lowest([p for p in known if p != policy], findings) if len(known) > 1 else None
    runs = [run for of_seed in findings.base.values() for run in of_seed]
    held = findings.mean(_lowest(stays, findings), "in_flight")
    requests = int(min(run.figures["requests"] for run in runs))
    seeds = len(findings.plan.base.seeds)
    lacking = _lacking(findings, own if compared and not gaining else [], seeds, requests)
    return Verdict(
        advice=_advice(compared, held, bool(own), bool(lacking), bool(gaining)),
        policy=policy,
        rests_on=findings.changes.get((nearest, MEAN)) if nearest else None,
        tail=findings.changes.get((nearest, P99)) if nearest else None,
        level=level if compared else {},
        rival=rival,
        against_rival=against(policy, rival, findings) if rival else None,
        seeds=seeds,
        requests=requests,
        held=held,
        lacking=lacking,
    )


def against(policy: str, other: str, findings: Findings) -> Margin:
    """The mean TPOT of one policy relative to another's, over paired seeds."""
    own, theirs = ([run.figures[MEAN] for run in findings.base[p]] for p in (policy, other))
    return Margin.of(own, theirs)


def _advice(compared: bool, held: float, any_own: bool, lacking: bool, gaining: bool) -> Advice:
    if not compared:
        return Advice.ALONE
    if not any_own:
        return Advice.STAY
    if held < TELLING and not gaining:
        return Advice.LIGHT
    if lacking:
        return Advice.UNDECIDED
    return Advice.USE if gaining else Advice.STAY


def _lacking(
    findings: Findings, hopeful: Sequence[str], seeds: int, requests: int
) -> tuple[str, ...]:
    """What it takes to decide; `hopeful` are policies that do not gain, as far as known."""
    lacking = []
    if seeds < SEEDS:
        lacking.append(f"{seeds} seed{'s' * (seeds > 1)}, {SEEDS} needed")
    if requests < REQUESTS:
        lacking.append(f"{requests} requests per seed, {REQUESTS} needed")
    for policy in hopeful:
        mean, tail = (findings.changes[policy, figure] for figure in (MEAN, P99))
        low, high = mean.interval or (mean.relative, mean.relative)
        if low < -WORTHWHILE and high >= 0 and not higher(tail):
            lacking.append(f"the interval of {findings.names[policy]} is too wide")
    return tuple(lacking)


def _gains(policy: str, findings: Findings) -> bool:
    mean, tail = (findings.changes[policy, figure] for figure in (MEAN, P99))
    return lower(mean) and not higher(tail)


def lower(found: Change | Margin) -> bool:
    """Whether it is lower beyond chance, if its interval is known."""
    return (found.interval or (found.relative, found.relative))[1] < 0


def higher(found: Change | Margin) -> bool:
    """Whether it is higher beyond chance."""
    return (found.interval or (found.relative, found.relative))[0] > 0


def _lowest(policies: Sequence[str], findings: Findings) -> str:
    return min(policies, key=lambda policy: findings.mean(policy, MEAN))
