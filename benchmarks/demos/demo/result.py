"""All results of the demo."""

from dataclasses import dataclass

from benchmarks.demos.demo.run import Figures, Run
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.workload import Workload
from eldr_service.lab.simulation.contender import names


@dataclass(frozen=True, kw_only=True)
class Result:
    """All results.

    Attributes
    ----------
    name : str
        The recording's file, or `data.SAMPLE`.
    subject : str
        The policy that the verdict is about.
    settings : dict of policy to Setting
    runs, plain : dict of policy to Run
        Over gRPC, and by the plain loop in one process.
    other_seeds : dict of seed to float
        The relative change in active experts with other seeds; see `chance`.
    seconds : float
        Duration of the whole demo without setup.
    """

    name: str
    subject: str
    work: Workload
    settings: dict[str, Setting]
    runs: dict[str, Run]
    plain: dict[str, Run]
    other_seeds: dict[int, float]
    seconds: float

    @property
    def differing(self) -> list[str]:
        """Policies under which the plain loop's result differs; there should be none."""
        return [
            policy for policy, run in self.runs.items() if run.outcome != self.plain[policy].outcome
        ]

    @property
    def names(self) -> dict[str, str]:
        """Each policy's name in the report."""
        return names(self.runs)

    @property
    def figures(self) -> dict[str, Figures]:
        """Each policy's figures."""
        return {policy: run.finished for policy, run in self.runs.items()}
