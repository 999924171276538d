"""The setting of each row of the demo: policy, parameters, partition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.demos.demo.workload import Workload
from eldr_service.core.partition import Partition
from eldr_service.lab.simulation.contender import AUTO, Contender
from eldr_service.lab.simulation.deployment import Deployment
from eldr_service.lab.simulation.engine import Engine
from eldr_service.lab.simulation.fit import fit
from eldr_service.lab.simulation.traffic import Traffic
from eldr_service.lab.simulation.tuning import tune


@dataclass(frozen=True)
class Setting:
    """The setting that a row is driven with.

    Attributes
    ----------
    policy : str
        Its name.
    partition : Partition
    parameters : mapping of str to str
        As text; those left out have their defaults.
    """

    policy: str
    partition: Partition
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """Policy, parameters and transform."""
        written = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        policy = f"{self.policy}:{written}" if written else self.policy
        return f"{policy}, signature transform {self.partition.transform.name}"


def settings(
    rows: Sequence[str],
    work: Workload,
    model: str,
    partition: Partition,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Setting]:
    """The settings of rows NAME[:key=value,…], see `Contender.read`; `done` is called for each.

    Rows that name no transform share the partition. A row whose transform gives no partition is
    left out. Tuning sees only the fitted half.
    """
    found = {}
    for row in rows:
        contender, own, parameters = Contender.read(row), partition, {}
        transform = contender.transform
        if contender.tuned:
            choice = tune(
                contender,
                work.recording,
                work.fitted,
                Traffic(float(work.arrivals[-1]), work.rate),
                Deployment((Engine(work.cost),) * work.workers),
                work.seed,
            )
            transform, parameters = choice.transform, {"width": f"{choice.width:g}"}
        if transform != AUTO:
            fitted = fit(work.recording, work.fitted, transform, work.workers, seed=0)
            own = replace(fitted, model=model) if fitted else None
        if own is not None:
            parameters = {**contender.parameters, **parameters}
            found[row] = Setting(contender.name, own, parameters)
        done()
    return found
