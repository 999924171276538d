"""What a replay uses instead of the logged policy and partition."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from eldr_service.core.partition import Partition
from eldr_service.policies.policy import Policy
from eldr_service.policies.registry import changed, create


@dataclass(frozen=True, slots=True)
class Instead:
    """A policy, some of its parameters, a partition; each as logged if not given.

    Attributes
    ----------
    policy : str or None
        In force for the whole log; None follows the log, where policies are set.
    parameters : mapping of str to str
        On top of the defaults of `policy`, or of the parameters in the log.
    partition : Partition or None
        In force for its model for the whole log.
    """

    policy: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    partition: Partition | None = None

    def make(self, name: str, parameters: Mapping[str, str]) -> Policy:
        """The policy in place of the logged one; `policies.registry.create` has the errors."""
        if self.policy is not None:
            return create(self.policy, self.parameters)
        return create(name, changed(name, parameters, self.parameters))

    def partition_of(self, model: str) -> Partition | None:
        """The partition of a model."""
        return self.partition if self.partition and self.partition.model == model else None
