"""vLLM's NixlConnector for engines that share fewer processors than they have processes.

vLLM's engine core and its worker wait for each other by polling for up to a second: five engines
would keep ten processors busy with waiting. Here they sleep between two polls. A prefill engine
also steps continuously while a decode engine has yet to fetch from it; it sleeps longer. Which
experts are read, and how long that takes, does not change. `tame_nixl` does the same for NIXL.
"""

import os
import time

from tame_nixl import NixlConnector
from vllm.distributed.device_communicators import shm_broadcast

__all__ = ["NixlConnector"]

PAUSE_SECONDS = float(os.environ.get("ELDR_DEMO_PAUSE_SECONDS", 0.0003))

shm_broadcast.sched_yield = lambda: time.sleep(PAUSE_SECONDS)
