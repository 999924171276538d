"""A call of Route: what it asks, and what is known of its request."""

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
        Decided before on a view that was late; this decision stands if it can.
    session : str
        The conversation that the request is a turn of; empty for none.
    prefix_hashes : tuple of int
        Of the prompt's first block, its first two, and so on.
    prefix_block_tokens : int
        Tokens of a block.
    cached_tokens : mapping of str to int
        By worker id: how many of the prompt's tokens it holds, as the caller knows; where there are
        any, they stand instead of what is believed by the hashes.
    movable : bool
        The caller can have a running request go on at another worker.
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
        """Whose request it is, by the label `tenant`; empty where that is not said."""
        return self.labels.get("tenant", "")

    @property
    def keys(self) -> tuple[Key, ...]:
        """What its signature is remembered by."""
        return keys_of(self.session, self.prefix_hashes, self.tenant)

    movable: bool = False

    def limits(self, group: str) -> Hashable:
        """What calls have in common that may go to the same workers; `group` is the prefill's."""
        return (
            group,
            self.pinned_worker,
            frozenset(self.candidate_workers),
            frozenset(self.exclude_workers),
            frozenset(self.worker_selector.items()),
        )


ANYWHERE = RouteCall("", "").limits("")
"""The limits of a call that any worker may serve."""


class Known(NamedTuple):
    """What the daemon knows of a request, or its call brought along.

    Attributes
    ----------
    counts : ndarray of uint16 or uint32, shape [num_layers, num_experts], or None
        None where there are none that fit the model.
    top_k : int
        Theirs; 0 without.
    coverage : float
        Share of the prompt's tokens whose experts are known; 1 where they are predicted.
    source : SignatureSource
        Where the counts came from.
    tokens : (int, int)
        Those tokens, and the prompt's as far as it was seen; for explanations alone.
    group : str
        The prefill worker's; empty does not restrict.
    earlier : str
        The worker of the attempt before, which is tried last; empty for none.
    awaits_signature : bool
        The counts did not come with the call, and what is registered of them is not complete.
    declared : bool
        The model's geometry is: counts alone never define it, so policies get none without.
    other_groups : bool
        Workers of other groups than `group` may be taken where none of it can be.
    cached_tokens : mapping of str to int
        By worker id: prompt tokens whose KV it holds, as far as is known or believed.
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
