"""The interpreter's driver: always available, with the CPU as its device."""

import time

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase


class InterpretedDriver(DriverBase):
    @classmethod
    def is_active(cls):
        return True

    def map_python_to_cpp_type(self, ty):
        return ty

    def get_current_target(self):
        return GPUTarget("cpu", 0, 1)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        """Median milliseconds of a few calls, regardless of the quantiles requested."""

        def benchmark(call, *, quantiles=(0.5,), **_):
            turns = []
            for _ in range(3):
                start = time.perf_counter()
                call()
                turns.append(1e3 * (time.perf_counter() - start))
            return [sorted(turns)[1]] * len(quantiles)

        return benchmark
