"""Makes a recording from engines' output: answers with their tokens' experts, or SGLang's dumps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eldr_service.core.geometry import ModelGeometry
from eldr_service.lab.recordings.answer_files import Logged, Malformed, read_answers
from eldr_service.lab.recordings.moe_layers import lacking, moe_layers, repeated
from eldr_service.lab.recordings.recording import Recording
from eldr_service.lab.recordings.returned_experts import Returned, field, moment, returned
from eldr_service.lab.recordings.sglang_dumps import read_dump
from eldr_service.lab.recordings.torch_file import is_torch_file

LONGEST_DOMAIN = 200  # each takes as many characters in the file as the longest


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """The result of importing files of answers.

    Attributes
    ----------
    recording : Recording
    layers : tuple of int
        The hidden layers that it contains, in the engine's numbering.
    hidden_layers : int
    malformed : tuple of Malformed
        Left out, like the answers counted below.
    without_experts, one_token, cut_short : int
        Answers without experts; answers of one token, which decoded nothing; answers with more than
        half of their prompt unknown, since it begins later, or was prefilled on a server whose
        answer is missing.
    without_domain, without_time : int
        Answers in the recording that lack the field.
    arrivals : list of (float, int, int)
        Unix seconds, tokens of the prompt and of the answer, ascending. If all times are whole
        seconds, those within a second are spread evenly over it.
    """

    recording: Recording
    layers: tuple[int, ...]
    hidden_layers: int
    malformed: tuple[Malformed, ...]
    without_experts: int
    one_token: int
    cut_short: int
    without_domain: int
    without_time: int
    arrivals: list[tuple[float, int, int]]


def import_answers(
    paths: Sequence[Path],
    num_experts: int,
    shape: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    domain_field: str | None = None,
    time_field: str | None = None,
) -> Imported:
    """Import files of answers, or dumps of SGLang's expert distribution recorder.

    Parameters
    ----------
    paths : sequence of Path
    num_experts : int
        Routed experts per layer.
    shape : (int, int), optional
        Hidden layers and top_k of the returned arrays; required only for SGLang's.
    layers : sequence of int, optional
        The hidden layers to keep. By default all except those whose picks are 0 in every answer:
        they are dense, as no token picks one expert twice.
    domain_field, time_field : str, optional
        Fields of a logged answer with its domain and its arrival time.

    Raises
    ------
    ValueError
        No answer can be used, or it cannot be determined which layers are MoE.
    """
    reader = _Reader(num_experts, shape, domain_field, time_field)
    for path in paths:
        if is_torch_file(path):
            for request in read_dump(path, num_experts):
                reader.keep(request)
        else:
            for logged in read_answers(path):
                reader.take(logged)
    return reader.imported(layers)


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    answer: Returned
    domain: str
    time: float | None

    @property
    def experts(self) -> NDArray[np.integer]:
        return self.answer.experts


class _Reader:
    def __init__(
        self,
        num_experts: int,
        shape: tuple[int, int] | None,
        domain_field: str | None,
        time_field: str | None,
    ) -> None:
        self._num_experts, self._shape = num_experts, shape
        self._domain_field, self._time_field = domain_field, time_field
        self._dtype = np.min_scalar_type(num_experts - 1)
        self._kept: list[_Kept] = []
        self._prefills: dict[str, Returned] = {}
        self._malformed: list[Malformed] = []
        self._without_experts = self._one_token = self._cut_short = 0

    def take(self, logged: Logged | Malformed) -> None:
        if isinstance(logged, Malformed):
            self._malformed.append(logged)
            return
        try:
            found = list(returned(logged, self._shape))
            domain = self._domain(logged)
            time = self._time(logged)
            for one in found:
                self._check_ids(one.experts)
        except ValueError as error:
            self._malformed.append(Malformed(logged.place, str(error)))
            return
        if not found:
            self._without_experts += 1
        for one in found:
            self.keep(one, domain, time)

    def keep(self, one: Returned | Malformed, domain: str = "", time: float | None = None) -> None:
        """Keep a request, if enough of it is known."""
        if isinstance(one, Malformed):
            self._malformed.append(one)
            return
        _, *shape = one.experts.shape
        self._shape = shape[0], shape[1]
        if one.output_tokens < 2:
            self._one_token += 1
            self._prefills[one.name] = one
        elif 2 * one.start > one.prompt_tokens:
            self._cut_short += 1
        else:
            narrow = replace(one, experts=one.experts.astype(self._dtype))
            self._kept.append(_Kept(narrow, domain, time))

    def imported(self, chosen: Sequence[int] | None) -> Imported:
        kept = self._sound(
            self._with_prompts(self._kept), lambda one: repeated(one.experts, chosen)
        )
        hidden = kept[0].experts.shape[1]
        layers = moe_layers([one.experts for one in kept], chosen)
        if chosen is None:
            kept = self._sound(kept, lambda one: lacking(one.experts, layers))
        answers = [one.answer for one in kept]
        experts = [one.experts for one in kept]
        domains = [one.domain for one in kept]
        times = [one.time for one in kept]
        recording = Recording(
            ModelGeometry(len(layers), self._num_experts, experts[0].shape[2]),
            np.array(domains),
            expert_ids=np.concatenate([one[:, layers] for one in experts]),
            offsets=np.cumsum([0, *map(len, experts)]),
            prefill_len=np.array([one.prompt_tokens - one.start for one in answers]),
        )
        arrivals = [
            (time, one.prompt_tokens, one.output_tokens)
            for one, time in zip(answers, times, strict=True)
            if time is not None
        ]
        return Imported(
            recording=recording,
            layers=tuple(layers),
            hidden_layers=hidden,
            malformed=tuple(self._malformed),
            without_experts=self._without_experts,
            one_token=self._one_token,
            cut_short=self._cut_short,
            without_domain=sum(not domain for domain in domains),
            without_time=sum(time is None for time in times),
            arrivals=_spread(sorted(arrivals, key=itemgetter(0))),
        )

    def _with_prompts(self, kept: list[_Kept]) -> list[_Kept]:
        """Add the experts of prompts prefilled on other servers, if those answers are here.

        SGLang's decode servers return other requests' experts for a prompt whose KV cache they
        received. So if any pair of both answers is found, answers without their prefill's are left
        out.
        """
        names = {one.answer.name for one in kept} & self._prefills.keys() - {""}
        if not names:
            return kept
        whole = []
        for one in kept:
            answer, prefill = one.answer, self._prefills.get(one.answer.name)
            if answer.name not in names or prefill is None or not _same_prompt(answer, prefill):
                self._cut_short += 1
                continue
            self._one_token -= 1
            decoded = answer.experts[len(prefill.experts) :]
            experts = np.concatenate((prefill.experts.astype(self._dtype), decoded))
            whole.append(replace(one, answer=replace(answer, experts=experts)))
        return whole

    def _domain(self, logged: Logged) -> str:
        value = field(logged.record, self._domain_field) if self._domain_field else None
        domain = "" if value is None else str(value)
        if isinstance(value, dict | list) or len(domain) > LONGEST_DOMAIN:
            raise ValueError(
                f"{self._domain_field} must be a name of up to {LONGEST_DOMAIN} characters,"
                f" found {domain[:40]}"
            )
        return domain

    def _time(self, logged: Logged) -> float | None:
        if self._time_field is None:
            return None
        value = field(logged.record, self._time_field)
        if value is None:
            value = field(logged.body, self._time_field)
        try:
            return None if value is None else moment(value)
        except ValueError as error:
            raise ValueError(f"{self._time_field}: {error}") from error

    def _check_ids(self, experts: NDArray[np.integer]) -> None:
        if experts.size and not 0 <= experts.min() <= experts.max() < self._num_experts:
            raise ValueError(
                f"routed_experts is from {experts.min()} to {experts.max()}, expected experts"
                f" from 0 to {self._num_experts - 1}"
            )

    def _sound(self, found: list[_Kept], fault: Callable[[_Kept], str]) -> list[_Kept]:
        """Those without a fault; the others are malformed."""
        sound = []
        for one in found:
            if why := fault(one):
                self._malformed.append(Malformed(one.answer.place, why))
            else:
                sound.append(one)
        if not sound:
            raise ValueError(self._why_none())
        return sound

    def _why_none(self) -> str:
        counts = (
            (len(self._malformed), "malformed"),
            (self._without_experts, "without routed_experts"),
            (self._one_token, "of one token"),
            (self._cut_short, "whose prompts begin later"),
        )
        said = ", ".join(f"{number:,} {what}" for number, what in counts if number)
        first = f"; {self._malformed[0]}" if self._malformed else ""
        return f"no answer can be used: {said or 'the files have none'}{first}"


def _same_prompt(one: Returned, other: Returned) -> bool:
    return (one.prompt_tokens, one.start) == (other.prompt_tokens, other.start)


def _spread(arrivals: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    if not all(time.is_integer() for time, *_ in arrivals):
        return arrivals
    spread = []
    for _, group in groupby(arrivals, key=itemgetter(0)):
        together = list(group)
        step = 1 / len(together)
        spread += [(t + n * step, prompt, out) for n, (t, prompt, out) in enumerate(together)]
    return spread
