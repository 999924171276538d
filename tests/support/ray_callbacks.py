"""A callback that Ray Serve LLM runs when an engine starts."""

from ray.llm._internal.common.callbacks.base import CallbackBase


class NoDownload(CallbackBase):
    """Skip the download: the model is local, and a process looking elsewhere takes ten seconds."""

    async def on_before_node_init(self):
        self.ctx.run_init_node = False
