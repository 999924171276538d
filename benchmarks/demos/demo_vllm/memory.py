"""How many engines the machine holds."""

from pathlib import Path

ENGINE_GB = 1.7
"""What a vLLM process for the CPU takes before its weights: libraries, API server, KV cache."""

RESERVE_GB = 1.5
"""For the daemon, the proxy, the demo, and other processes."""


def available_gb() -> float:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError("/proc/meminfo does not say how much memory is available")


def engines_that_fit(weights_gb: float, available: float) -> int:
    """Engines with so large weights each."""
    return max(int((available - RESERVE_GB) / (ENGINE_GB + weights_gb)), 0)
