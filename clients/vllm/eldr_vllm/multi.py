"""EldrConnector under the name of vLLM's MultiConnector.

vLLM decides some things by a connector's name before it builds it, and looks at the `connectors`
inside one named MultiConnector: whether all of them support its hybrid KV cache manager (which it
turns off otherwise), and whether NIXL or a CPU offload is among them.
"""

from eldr_vllm.connector import EldrConnector as MultiConnector

__all__ = ["MultiConnector"]
