"""A call of Route: what it asks for, and what is known about its request."""

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from eldr_service.core.activation import ActivationCounts, Counts
from eldr_service.core.signature_memory import Key, SignatureSource, keys_of


class RouteCall(NamedTuple):
    """A Route request in the domain's terms. Empty collections do not restrict.

    Attributes
    ----------
    insists : bool
        Whether it was decided before on a late view; this decision stands if it can.
    session : str
        The conversation that the request is a turn of; empty for none.
    prefix_hashes : tuple of int
        Hashes of the prompt's first block, its first two, and so on.
    prefix_block_tokens : int
        Tokens per block.
    cached_tokens : mapping of str to int
        By worker id: how many of the prompt's tokens the worker holds, according to the caller. If
        given, they replace what is believed from the hashes.
    movable : bool
        Whether the caller can move a running request to another worker.
    """

    model: str
    request_id: str
    attempt: int = 0
    counts: ActivationCounts | None = None
    num_sequences: int = 1
    prompt_tokens: int = 0
    expected_output_tokens: int = 0
    prefill_worker: str = ""
    candidate_workers: Collection[str] = ()
    exclude_workers: Collection[str] = ()
    worker_selector: Mapping[str, str] = MappingProxyType({})
    pinned_worker: str = ""
    dry_run: bool = False
    explain: bool = False
    lease_seconds: float | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    fingerprint: int = 0
    insists: bool = False
    session: str = ""
    prefix_hashes: tuple[int, ...] = ()
    prefix_block_tokens: int = 16
    cached_tokens: Mapping[str, int] = MappingProxyType({})

    @property
    def tenant(self) -> str:
        """The request's tenant, from the label `tenant`; empty if not given."""
        return self.labels.get("tenant", "")

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys under which its signature is remembered."""
        return keys_of(self.session, self.prefix_hashes, self.tenant)

    movable: bool = False

    def limits(self, group: str) -> Hashable:
        """Equal for calls that may go to the same workers; `group` is the prefill worker's."""
        return (
            group,
            self.pinned_worker,
            frozenset(self.candidate_workers),
            frozenset(self.exclude_workers),
            frozenset(self.worker_selector.items()),
        )


ANYWHERE = RouteCall("", "").limits("")
"""The limits of a call without restrictions."""


class Known(NamedTuple):
    """What the daemon knows about a request, from its call and from memory.

    Attributes
    ----------
    counts : ndarray of uint16 or uint32, shape [num_layers, num_experts], or None
        None if there are none that fit the model.
    top_k : int
        For the counts; 0 without.
    coverage : float
        Share of the prompt's tokens whose experts are known; 1 if they are predicted.
    source : SignatureSource
        Where the counts came from.
    tokens : (int, int)
        Known tokens, and the prompt's tokens seen so far; only for explanations.
    group : str
        The prefill worker's; empty does not restrict.
    earlier : str
        The worker of the previous attempt, which is tried last; empty for none.
    awaits_signature : bool
        The counts did not come with the call, and the registered signature is incomplete.
    declared : bool
        Whether the model's geometry is declared: counts alone never define it, and policies get
        none without it.
    other_groups : bool
        Whether workers of other groups than `group` may be taken if none of it can be.
    cached_tokens : mapping of str to int
        By worker id: prompt tokens whose KV the worker holds, as far as known or believed.
    """

    counts: Counts | None = None
    top_k: int = 0
    coverage: float = 0.0
    source: SignatureSource = SignatureSource.UNSPECIFIED
    tokens: tuple[int, int] = (0, 0)
    group: str = ""
    earlier: str = ""
    awaits_signature: bool = False
    declared: bool = True
    other_groups: bool = False
    cached_tokens: Mapping[str, int] = MappingProxyType({})
