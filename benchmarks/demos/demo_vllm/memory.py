"""How many engines fit on the machine."""

from pathlib import Path

ENGINE_GB = 1.7
"""Memory of a vLLM engine on the CPU without weights: libraries, API server, KV cache."""

RESERVE_GB = 1.5
"""For the daemon, the proxy, the demo, and other processes."""


def available_gb() -> float:
    """Memory available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError("/proc/meminfo does not say how much memory is available")


def engines_that_fit(weights_gb: float, available: float) -> int:
    """Number of engines with weights of this size each."""
    return max(int((available - RESERVE_GB) / (ENGINE_GB + weights_gb)), 0)
