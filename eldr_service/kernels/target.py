"""What kernels are compiled for."""

from llvmlite.binding import get_host_cpu_name
from numba import config


def target() -> str:
    """The processor whose instructions kernels use, by LLVM's name for it."""
    return str(config.CPU_NAME or get_host_cpu_name())
