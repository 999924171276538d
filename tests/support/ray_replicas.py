"""Decode replicas for tests of the request router: ELDR workers without an engine."""

import asyncio

from eldr_client import LoadReport, WorkerSession
from eldr_ray import own_worker_id
from ray import serve

MODEL = "tiny"
GEOMETRY = (2, 4, 1)


@serve.deployment
class Decode:
    """Answers with its input after `seconds`; reports what it holds, as an engine does."""

    def __init__(self, target, capacity=16):
        self.name, self.held = own_worker_id(), []
        self.session = WorkerSession(
            self.name,
            MODEL,
            f"serve://{self.name}",
            lambda: LoadReport(batch_size=len(self.held), held=list(self.held)),
            max_sequences=capacity,
            geometry=GEOMETRY,
            time_to_live=3.0,
            target=target,
        )

    async def __call__(self, body):
        eldr = body["kv_transfer_params"].get("eldr")
        held = [(eldr["request_id"], eldr["attempt"])] if eldr else []
        self.held += held
        try:
            await asyncio.sleep(body.get("seconds", 0.0))
        finally:
            self.held = [each for each in self.held if each not in held]
        return {"worker": self.name, "eldr": eldr}
