"""Where an engine is reached, and which of the server's data-parallel ranks it is."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm.config import ParallelConfig

from eldr_vllm.settings import URL_RANK, Settings


@dataclass(frozen=True, slots=True)
class Address:
    """The engine's id, empty if it has none; its url; its rank there.

    `dp_rank` is what the server at `url` takes as X-data-parallel-rank for this engine.
    """

    worker_id: str
    url: str
    dp_rank: int

    @classmethod
    def of(cls, settings: Settings, parallel: ParallelConfig) -> "Address":
        """The address that the settings give this engine core.

        Each data-parallel rank has its own id: the configured one, or host and port of the url,
        followed by the rank.
        """
        rank = parallel.data_parallel_index
        url = URL_RANK.sub(lambda found: _port(found, rank), settings.url)
        name = settings.worker_id or urlsplit(url).netloc
        several = parallel.data_parallel_size > 1 or rank > 0  # a dense model's ranks see only one
        return cls(f"{name}/dp{rank}" if name and several else name, url, served_rank(parallel))


def served_rank(parallel: ParallelConfig) -> int:
    """The number of this engine core at the HTTP server in front of it.

    A vLLM server numbers its engines in rank order: all of them with internal load balancing,
    those of its own machine in hybrid mode, and only one behind an external load balancer.
    """
    if parallel.data_parallel_external_lb:
        return 0
    if parallel.data_parallel_hybrid_lb:
        return parallel.data_parallel_rank_local or 0
    return parallel.data_parallel_index


def _port(found: re.Match[str], rank: int) -> str:
    first, ranks = found.groups()
    return str(int(first or 0) + (rank % int(ranks) if ranks else rank))
