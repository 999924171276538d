"""A policy as given to the lab: NAME[:key=value,…], with two keys of the lab's own.

transform=NAME    the signature transform of its partition; by default auto
width=tuned       of locality-band: the transform and the width are chosen inside the fitted
                  part of the recording (see `tuning`)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eldr_service.core.errors import InvalidArgumentError, did_you_mean
from eldr_service.core.signature import TRANSFORMS
from eldr_service.lab.simulation.comparison import LOAD_ONLY
from eldr_service.policies import Policy
from eldr_service.policies.registry import create, parse

AUTO, TUNED = "auto", "tuned"
BAND = "locality-band"
PAPERS_BAND = f"{BAND}:transform=counts-idf,tau=0.1"
TUNED_BAND = f"{BAND}:width={TUNED}"
BY_DEFAULT = (*LOAD_ONLY, PAPERS_BAND, TUNED_BAND, BAND, "marginal-cost")
_NAMES = {PAPERS_BAND: "the paper's band", TUNED_BAND: "band, tuned", BAND: "band, auto"}


@dataclass(frozen=True)
class Contender:
    """A policy to simulate.

    Attributes
    ----------
    name : str
    parameters : mapping of str to str
        The policy's own parameters.
    transform : str
        Signature transform of its partition; "auto" takes the one that the fit finds best.
    tuned : bool
        Its width is to be chosen and, if the transform is "auto", the transform too.
    """

    name: str
    parameters: Mapping[str, str]
    transform: str = AUTO
    tuned: bool = False

    @classmethod
    def read(cls, written: str) -> "Contender":
        """Parse it; InvalidArgumentError as from `policies.registry`, also for the lab's keys."""
        name, parameters = parse(written)
        transform = parameters.pop("transform", None)
        tuned = name == BAND and parameters.get("width") == TUNED
        if tuned:
            del parameters["width"]
        contender = cls(name, parameters, transform or AUTO, tuned)
        made = contender.create(1.0 if tuned else None)
        if transform is not None:
            if not made.needs_signature:
                expected = f"no transform with {name}, which reads no partition"
                raise InvalidArgumentError("parameters.transform", expected, transform)
            if transform not in (known := (AUTO, *TRANSFORMS)):
                expected, hint = f"one of {', '.join(known)}", did_you_mean(transform, known)
                raise InvalidArgumentError("parameters.transform", expected, transform, hint)
        return contender

    @property
    def transforms(self) -> tuple[str, ...]:
        """The transforms tried in tuning."""
        return TRANSFORMS if self.transform == AUTO else (self.transform,)

    def create(self, width: float | None = None) -> Policy:
        """Create a fresh policy, with the width chosen in tuning if it is tuned."""
        chosen = {} if width is None else {"width": f"{width:g}"}
        return create(self.name, {**self.parameters, **chosen})


def names(policies: Iterable[str]) -> dict[str, str]:
    """Names of policies in tables and figures: as written, or what they are.

    If several of the bands compared by default are present, a word distinguishes them.
    """
    given = list(policies)
    several = sum(policy.partition(":")[0] == BAND for policy in given) > 1
    return {policy: _NAMES.get(policy, policy) if several else policy for policy in given}
