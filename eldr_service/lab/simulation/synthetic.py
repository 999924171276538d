"""Synthetic recorded routing, of any size.

A token's experts are drawn from their popularity in the layer, its domain's preferences, its
request's deviation from the domain, and independent noise::

    logits[token, layer, expert] = popularity + (domain + request) @ directions + Gumbel noise
    experts of the token = the top_k largest

Gumbel noise makes the top-k a draw without replacement by the softmax of the rest. Popularity is
skewed: most experts are about equally popular, some are rarely picked. Domains and requests move
along the same few directions; without them requests would differ as much, but form no groups, and
no router could gain. (In real routing, too, one direction explains more than a third of the
difference between requests.) The defaults bring `locality_statistics` near those of gpt-oss-20b on
mixed topics; run this module to see how near. Tokens are independent here; in real text they are
not.
"""

import argparse
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path

import numpy as np

from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.locality import LocalityStatistics, locality_statistics

GPT_OSS_20B_TOPICS = LocalityStatistics(
    own=0.944,
    same_domain=0.806,
    other_domain=0.772,
    active_experts_6=15.5,
    active_experts_12=21.2,
    alike_6=14.2,
    alike_12=19.1,
)
"""Statistics of greedy decodes recorded by AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting
(Apache-2.0): 328 requests of 11 topics; their first 30% stood for the prefill. `alike_6` and
`alike_12` were measured on them with `locality_statistics`."""


@dataclass(frozen=True, slots=True)
class SyntheticRouting:
    """Parameters of synthetic routing; the defaults are about as local as `GPT_OSS_20B_TOPICS`.

    Attributes
    ----------
    layers, experts, top_k : int
        The geometry; at most 65,536 experts.
    domains, requests : int
        Requests take the domains in turn.
    prefill_tokens, decode_tokens : int
        Mean lengths; each request's is drawn from 0.5 to 1.5 times the mean.
    popularity, domain, request : float
        Standard deviations of the logits per model, domain and request.
    directions : int
        Directions in which domains and requests differ.
    decay : float
        The j-th direction's share of the variance is proportional to ``j ** -decay``.
    seed : int
    """

    layers: int = 12
    experts: int = 32
    top_k: int = 4
    _: KW_ONLY
    domains: int = 8
    requests: int = 128
    prefill_tokens: int = 28
    decode_tokens: int = 100
    popularity: float = 1.28
    domain: float = 0.53
    request: float = 0.97
    directions: int = 16
    decay: float = 2.2
    seed: int = 0

    def generate(self) -> Recording:
        """Draw the recording; the same parameters give the same recording."""
        rng = np.random.default_rng(self.seed)
        shape = (self.layers, self.experts)
        popularity = -self.popularity * rng.standard_exponential(shape)
        variance = np.arange(1.0, self.directions + 1) ** -self.decay
        spread = np.sqrt(variance / variance.sum())
        directions = spread[:, None, None] * rng.standard_normal((self.directions, *shape))
        domains = self.domain * rng.standard_normal((self.domains, self.directions))
        domain_of = np.arange(self.requests) % self.domains
        prefill_len = self._lengths(rng, self.prefill_tokens)
        lengths = prefill_len + self._lengths(rng, self.decode_tokens)
        dtype = np.uint8 if self.experts <= 256 else np.uint16
        parts = []
        for domain, length in zip(domain_of, lengths, strict=True):
            place = domains[domain] + self.request * rng.standard_normal(self.directions)
            logits = popularity + np.tensordot(place, directions, axes=1)
            drawn = logits + rng.gumbel(size=(length, *shape))
            parts.append(np.argsort(-drawn, axis=-1)[..., : self.top_k].astype(dtype))
        return Recording(
            ModelGeometry(self.layers, self.experts, self.top_k),
            np.array([f"domain-{d}" for d in domain_of]),
            expert_ids=np.concatenate(parts),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            prefill_len=prefill_len,
        )

    def _lengths(self, rng: np.random.Generator, mean: int) -> np.ndarray:
        return rng.integers(max(1, mean // 2), mean + mean // 2, size=self.requests, endpoint=True)


def main() -> None:
    """Write a recording and print its locality next to the real one's."""
    parser = argparse.ArgumentParser(
        prog="python -m eldr_service.lab.simulation.synthetic",
        description="Generate recorded routing; by default about as local as gpt-oss-20b's.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    for name, default in asdict(SyntheticRouting()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=type(default), default=default, metavar="N", help=f"default {default}"
        )
    options = vars(parser.parse_args())
    path = options.pop("out")
    recording = SyntheticRouting(**options).generate()
    recording.save(path)
    print(f"{path}: {recording.num_requests} requests")
    real = asdict(GPT_OSS_20B_TOPICS)
    for name, value in asdict(locality_statistics(recording)).items():
        print(f"  {name:18} {value:7.3f}   gpt-oss-20b on topics {real[name]:7.3f}")


if __name__ == "__main__":
    main()
