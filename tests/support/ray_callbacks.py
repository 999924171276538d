"""What Ray Serve LLM calls as an engine starts."""

from ray.llm._internal.common.callbacks.base import CallbackBase


class NoDownload(CallbackBase):
    """The model is on this machine; a process that looks for it elsewhere takes ten seconds."""

    async def on_before_node_init(self):
        self.ctx.run_init_node = False
