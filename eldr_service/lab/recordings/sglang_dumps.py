"""Turns dumps of SGLang's expert distribution recorder, in mode `per_token`, into requests.

A dump has the tokens of each forward pass, with their positions, but not their requests. Requests
are told apart by what SGLang's scheduler does (0.5.23):

- A pass of prompts says how many tokens each of its prompts has there (`extend_seq_lens`).
- Only a pass's last prompt can be a chunk, and its next chunk comes first in the next such pass: if
 the positions continue there, it is the same prompt.
- Requests whose prompts are complete are appended to the running ones, in the pass's order; each
 decode pass has one token of each that still runs, in that order. So its positions show which ones
 have ended: those left out. Of two at the same position it cannot always be told which one ended;
 then neither is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eldr_service.lab.recordings.answer_files import Malformed
from eldr_service.lab.recordings.returned_experts import Returned
from eldr_service.lab.recordings.torch_file import load

_EXTEND, _DECODE, _IDLE = 1, 2, 4  # of SGLang's ForwardMode


@dataclass(slots=True, eq=False)
class _Request:
    """A request being followed.

    Attributes
    ----------
    start : int
        Position of the first token that passed: earlier ones came from the prefix cache.
    prompt_end : int
        Position after the last token of the prompt so far; 0 if the prompt is not in the dump.
    end : int
        Position of the next token.
    experts : list of ndarray [tokens, hidden layers, top_k]
    doubtful : bool
        Whether a token may be another request's.
    """

    start: int
    prompt_end: int = 0
    end: int = 0
    experts: list[NDArray[np.integer]] = field(default_factory=list)
    doubtful: bool = False

    def add(self, experts: NDArray[np.integer]) -> None:
        self.experts.append(experts)
        self.end += len(experts)


def read_dump(path: Path, num_experts: int) -> Iterator[Returned | Malformed]:
    """The requests of one rank's dump whose prompts it has, in the order of their prompts.

    Raises
    ------
    ValueError
        Says what in the file is invalid.
    """
    passes, to_logical = _passes(path)
    if int(to_logical.max(initial=-1)) + 1 != num_experts:
        raise ValueError(
            f"{path}: of a model of {int(to_logical.max(initial=-1)) + 1} experts per layer,"
            f" expected {num_experts}"
        )
    top_k = max((_top_k(one["topk_ids_of_layer"]) for one in passes), default=0)
    found: list[_Request] = []
    running: list[_Request] = []
    prompts: list[_Request] = []  # of the last pass of prompts, not yet running
    for number, one in enumerate(passes):
        experts = _logical(one["topk_ids_of_layer"][:, :, :top_k], to_logical)
        positions = one["positions"]
        if one["forward_mode"] == _EXTEND:
            before = prompts[-1] if prompts else None
            cut = np.split(np.arange(len(positions)), np.cumsum(one["extend_seq_lens"]))
            batch = [rows for rows in cut if len(rows)]
            goes_on = before is not None and batch and positions[batch[0][0]] == before.end > 0
            running += prompts[:-1] if goes_on else prompts
            prompts = []
            for rows in batch:
                if goes_on and not prompts and before is not None:
                    request = before
                else:
                    start = positions[rows[0]]
                    request = _Request(start, end=start)
                    found.append(request)
                request.add(experts[rows])
                request.prompt_end = request.end
                prompts.append(request)
        elif one["forward_mode"] == _DECODE:
            running = _decoded(running + prompts, positions, experts)
            prompts = []
        elif one["forward_mode"] != _IDLE:
            raise ValueError(
                f"{path}: pass {number} is of forward mode {one['forward_mode']}, expected prompts"
                " (1) or decodes (2): mixed chunks and speculative decoding are not read"
            )
    for number, request in enumerate(found):
        place, decoded = f"{path} request {number}", request.end - request.prompt_end
        if request.doubtful:
            yield Malformed(place, "ran at the same position as another when one of them ended")
            continue
        yield Returned(
            place=place,
            experts=np.concatenate(request.experts),
            prompt_tokens=request.prompt_end,
            output_tokens=decoded + 1,
            start=request.start,
        )


def _decoded(
    running: list[_Request], positions: list[int], experts: NDArray[np.integer]
) -> list[_Request]:
    """The `running` requests that a decode pass has, each with its token; others have ended."""
    first, last = _matches(running, positions)
    on = []
    for row, position in enumerate(positions):
        if first[row] < 0:  # its prompt was computed before the recorder started, or elsewhere
            request = _Request(position, end=position)
        else:
            request = running[first[row]]
            alike = [n for n in range(first[row], last[row] + 1) if running[n].end == position]
            for n in alike if len(alike) > 1 else ():
                running[n].doubtful = True
        on.append(request)
    for row, request in enumerate(on):
        request.add(experts[row : row + 1])
    return on


def _matches(running: list[_Request], positions: list[int]) -> tuple[list[int], list[int]]:
    """The first and the last of `running` that each row can be, in order; -1 if none."""
    first, place = [], 0
    for position in positions:
        ahead = range(place, len(running))
        found = next((n for n in ahead if running[n].end == position), -1)
        first.append(found)
        place = found + 1 if found >= 0 else place
    last, place = [-1] * len(positions), len(running) - 1
    for row in reversed(range(len(positions))):
        if first[row] >= 0:
            last[row] = next(n for n in range(place, -1, -1) if running[n].end == positions[row])
            place = last[row] - 1
    return first, last


def _passes(path: Path) -> tuple[list[dict[str, Any]], NDArray[np.integer]]:
    """The passes in order, and the logical expert of each physical one, by layer."""
    dump = load(path)
    records = dump.get("records") if isinstance(dump, dict) else None
    to_logical = dump.get("last_physical_to_logical_map") if isinstance(dump, dict) else None
    if not isinstance(records, list) or not isinstance(to_logical, np.ndarray):
        raise ValueError(
            f"{path}: expected a dump of SGLang's --expert-distribution-recorder-mode per_token,"
            " with records and last_physical_to_logical_map"
        )
    if to_logical.ndim != 2 or int(to_logical.min(initial=0)) < 0:
        raise ValueError(f"{path}: last_physical_to_logical_map must be [layers, experts] from 0")
    for number, one in enumerate(records):
        _check(path, number, one, to_logical)
    return sorted(records, key=lambda one: int(one["forward_pass_id"])), to_logical


def _check(path: Path, number: int, one: Any, to_logical: NDArray[np.integer]) -> None:
    try:
        ids, positions = one["topk_ids_of_layer"], one["positions"]
        layers, tokens, _ = ids.shape
        lengths = one["extend_seq_lens"] if one["forward_mode"] == _EXTEND else [tokens]
        whole = [*positions, *lengths, one["forward_pass_id"]]
        well = (
            layers == len(to_logical)
            and tokens == len(positions)
            and -1 <= int(ids.min(initial=-1)) <= int(ids.max(initial=-1)) < to_logical.shape[1]
            and all(isinstance(value, int) and value >= 0 for value in whole)
            and sum(lengths) == tokens
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: record {number} is not SGLang's: {error!r}") from error
    if not well:
        raise ValueError(
            f"{path}: record {number} has experts {list(ids.shape)} for {len(positions)} positions;"
            f" expected {len(to_logical)} layers of as many tokens, in prompts that add up to them"
        )


def _top_k(ids: NDArray[np.integer]) -> int:
    """The number of columns that the model uses: SGLang leaves the others at -1."""
    return int((ids >= 0).any(axis=(0, 1)).sum()) if ids.size else 0


def _logical(ids: NDArray[np.integer], to_logical: NDArray[np.integer]) -> NDArray[np.integer]:
    """[layers, tokens, top_k] of physical experts -> [tokens, layers, top_k] of logical ones.

    A layer that is not MoE is all 0, as in returned experts.
    """
    layer = np.arange(len(ids))[:, None, None]
    logical = np.where(ids >= 0, to_logical[layer, np.maximum(ids, 0)], 0)
    return logical.transpose(1, 0, 2)
