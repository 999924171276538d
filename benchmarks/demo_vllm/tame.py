"""vLLM's NixlConnector for engines that share fewer processors than they have processes.

vLLM's engine core and its worker wait for each other by asking again and again for up to a second:
five engines would keep ten processors busy with waiting. Here they sleep between two questions.
Which experts are read, and how long that takes, is as before. `tame_nixl` does the like for NIXL.
"""

import time

from tame_nixl import NixlConnector
from vllm.distributed.device_communicators import shm_broadcast

__all__ = ["NixlConnector"]

PAUSE_SECONDS = 0.0003

shm_broadcast.sched_yield = lambda: time.sleep(PAUSE_SECONDS)
