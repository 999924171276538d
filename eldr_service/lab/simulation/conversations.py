"""Traffic of conversations: each prompt is the previous one, its answer, and new text.

Conversations begin as a Poisson process, and some are under way when the arrivals begin. A request
comes some time after the previous one, answered or not, so that every policy gets the same traffic.
"""

from dataclasses import dataclass

import numpy as np

from eldr_service.lab.simulation.traffic import Prefixes, Requests

_HASHES = 1 << 20  # per conversation: more blocks than a prompt ever has


@dataclass(frozen=True, slots=True)
class Conversations:
    """How conversations are drawn; a seed always gives the same ones.

    Attributes
    ----------
    duration_s, rate_per_s : float
        Duration of the arrivals, and their mean rate.
    turns : float
        Mean requests per conversation; the number is geometric.
    pause_s, think_s : float
        Time from a request to the next: `pause_s` plus an exponential time of mean `think_s`.
    first_tokens, new_tokens : float
        Mean tokens of a first prompt, and of what a later prompt adds to the previous prompt and
        answer; both exponential.
    output_tokens : int
        Tokens of every answer.
    block_tokens : int
    """

    duration_s: float
    rate_per_s: float
    turns: float = 8.0
    pause_s: float = 3.0
    think_s: float = 5.0
    first_tokens: float = 3_000.0
    new_tokens: float = 500.0
    output_tokens: int = 256
    block_tokens: int = 64

    def draw(self, seed: int) -> Requests:
        """Draw requests; ValueError if none arrives within the duration."""
        rng = np.random.default_rng([seed, 5])
        before = 4 * self.turns * (self.pause_s + self.think_s)  # 2% last longer
        began = before + self.duration_s
        number = rng.poisson(began * self.rate_per_s / self.turns)
        times, prompts, conversations = [], [], []
        for conversation in range(number):
            turns = rng.geometric(1 / self.turns)
            gaps = self.pause_s + rng.exponential(self.think_s, turns - 1)
            new = rng.exponential(self.new_tokens, turns - 1) + self.output_tokens
            start = rng.uniform(-before, self.duration_s)
            times.append(start + np.concatenate([[0.0], np.cumsum(gaps)]))
            first = rng.exponential(self.first_tokens)
            prompts.append(np.concatenate([[first], first + np.cumsum(new)]).astype(np.int64) + 1)
            conversations.append(np.full(turns, conversation))
        every = np.concatenate(times) if times else np.empty(0)
        within = np.flatnonzero((every >= 0) & (every < self.duration_s))
        if not len(within):
            raise ValueError(f"no request arrives within {self.duration_s:g} s")
        order = within[np.argsort(every[within], kind="stable")]
        prompt, conversation_of = np.concatenate(prompts)[order], np.concatenate(conversations)
        return Requests(
            every[order],
            prompt,
            np.full(len(order), self.output_tokens),
            self._prefixes(prompt, conversation_of[order]),
        )

    def _prefixes(self, prompts: np.ndarray, conversations: np.ndarray) -> Prefixes:
        hashes = [
            tuple(
                range(conversation * _HASHES, conversation * _HASHES + tokens // self.block_tokens)
            )
            for conversation, tokens in zip(conversations.tolist(), prompts.tolist(), strict=True)
        ]
        return Prefixes(hashes, self.block_tokens, conversations)
