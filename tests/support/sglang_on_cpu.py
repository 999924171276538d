"""What SGLang 0.5.23 lacks to serve a MoE model on a CPU; loaded as an SGLang plugin.

Its compiled CPU kernels are on no index, so it runs in plain torch. It asks CUDA for host memory
and tells NIXL that all KV caches are on a GPU; and a NIXL agent's idle thread takes a core.
"""

import nixl._api as nixl
import torch
from sglang.srt.mem_cache.pool_host import common

_Config = nixl.nixlBind.nixlAgentConfig


class _Patient(_Config):
    @property
    def pthrDelay(self):
        return _Config.pthrDelay.fget(self)

    @pthrDelay.setter
    def pthrDelay(self, value):
        _Config.pthrDelay.fset(self, 1_000)  # microseconds


class _Agent(nixl.nixl_agent):
    def register_memory(self, reg_list, mem_type=None, backends=()):
        return super().register_memory(reg_list, _here(mem_type), list(backends))

    def get_xfer_descs(self, descs, mem_type=None):
        return super().get_xfer_descs(descs, _here(mem_type))

    def get_reg_descs(self, descs, mem_type=None):
        return super().get_reg_descs(descs, _here(mem_type))

    def prep_xfer_dlist(self, agent_name, xfer_list, mem_type=None, backends=()):
        return super().prep_xfer_dlist(agent_name, xfer_list, _here(mem_type), list(backends))


def _here(mem_type):
    return "DRAM" if mem_type == "VRAM" else mem_type


def _memory(dims, dtype, **_):
    return torch.zeros(dims, dtype=dtype)


def register():
    common.ALLOC_MEMORY_FUNCS["cpu"] = _memory
    torch.cpu.is_current_stream_capturing = lambda: False
    nixl.nixl_agent = _Agent
    nixl.nixlBind.nixlAgentConfig = _Patient
