"""ELDR in Ray Serve; `eldr_ray.llm` has the deployments of Ray Serve LLM, and needs vLLM."""

from eldr_ray.identity import own_worker_id, worker_id
from eldr_ray.router import EldrRequestRouter

__all__ = ["EldrRequestRouter", "own_worker_id", "worker_id"]
