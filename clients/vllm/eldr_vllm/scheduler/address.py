"""Where an engine is reached, and which of that server's data-parallel ranks it is."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm.config import ParallelConfig

from eldr_vllm.settings import URL_RANK, Settings


@dataclass(frozen=True, slots=True)
class Address:
    """The engine's id, empty where it has none; its url; the rank that it is there.

    `dp_rank` is what the server at `url` takes as X-data-parallel-rank for this engine.
    """

    worker_id: str
    url: str
    dp_rank: int

    @classmethod
    def of(cls, settings: Settings, parallel: ParallelConfig) -> "Address":
        """The address that the settings give to this engine core.

        Each data-parallel rank has an id of its own: the one that is set, or the host and port of
        the url, and the rank.
        """
        rank = parallel.data_parallel_index
        url = URL_RANK.sub(lambda found: _port(found, rank), settings.url)
        name = settings.worker_id or urlsplit(url).netloc
        several = parallel.data_parallel_size > 1 or rank > 0  # a dense model's ranks know of one
        return cls(f"{name}/dp{rank}" if name and several else name, url, served_rank(parallel))


def served_rank(parallel: ParallelConfig) -> int:
    """The number that this engine core has at the HTTP server before it.

    A server of vLLM knows its engines in the order of their ranks: all of them where it balances
    the load internally, those of its own machine in the hybrid mode, and only one behind an
    external load balancer.
    """
    if parallel.data_parallel_external_lb:
        return 0
    if parallel.data_parallel_hybrid_lb:
        return parallel.data_parallel_rank_local or 0
    return parallel.data_parallel_index


def _port(found: re.Match[str], rank: int) -> str:
    first, ranks = found.groups()
    return str(int(first or 0) + (rank % int(ranks) if ranks else rank))
