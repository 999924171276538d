"""vLLM's NixlConnector for engines that share fewer processors than they have processes.

vLLM's engine core and its worker wait for each other by asking again and again for up to a second:
five engines would keep ten processors busy with waiting. Here they sleep between two questions. A
prefill engine also steps without end while a decode engine has yet to fetch from it; it sleeps
longer. Which experts are read, and how long that takes, is as before. `tame_nixl` does the like for
NIXL.
"""

import os
import time

from tame_nixl import NixlConnector
from vllm.distributed.device_communicators import shm_broadcast

__all__ = ["NixlConnector"]

PAUSE_SECONDS = float(os.environ.get("ELDR_DEMO_PAUSE_SECONDS", 0.0003))

shm_broadcast.sched_yield = lambda: time.sleep(PAUSE_SECONDS)
