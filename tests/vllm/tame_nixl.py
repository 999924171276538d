"""vLLM's NixlConnector for machines with fewer cores than engines.

A NIXL agent's progress thread polls without a pause and takes a core even when nothing is moved.
Its pause is hard-coded; here it is a millisecond.
"""

import os

os.environ.setdefault("UCX_RCACHE_MAX_UNRELEASED", "1024")  # vLLM's; it must stand before nixl

from nixl import _api
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlConnector

__all__ = ["NixlConnector"]

_Config = _api.nixlBind.nixlAgentConfig


class _Patient(_Config):
    @property
    def pthrDelay(self):
        return _Config.pthrDelay.fget(self)

    @pthrDelay.setter
    def pthrDelay(self, value):
        _Config.pthrDelay.fset(self, 1_000)  # microseconds


_api.nixlBind.nixlAgentConfig = _Patient
