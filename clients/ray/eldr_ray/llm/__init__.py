"""Prefill-decode deployments of Ray Serve LLM that decode where ELDR says."""

from eldr_ray.llm.builder import build_pd_openai_app

__all__ = ["build_pd_openai_app"]
