"""Which recording the demo drives, and its caveats."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shared_data import ACTIVATIONS
from eldr_service.core.errors import did_you_mean
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.sample import sample_recording

SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class Known:
    """What a file does not contain: its model's name, the nearest cost model, and a caveat."""

    model: str
    cost: str
    caveat: str


KNOWN = {
    "gpt-oss-20b-topics": Known(
        "gpt-oss-20b",
        "gpt-oss-120b-h200",
        "greedy decode tokens only: the first 30% of each request stand in for its prefill",
    ),
    "deepseek-v2-lite-tasks": Known(
        "DeepSeek-V2-Lite",
        "qwen3-30b-a3b-h200",
        "teacher-forced text: the first 60% of each request stand for its prefill",
    ),
    SAMPLE: Known(
        "the small model of benchmarks/engines/tiny_moe",
        "gpt-oss-120b-h200",
        "real requests to a byte-level Qwen3-MoE that the project trained on ten kinds of text",
    ),
}


def known(name: str) -> Known:
    """What is known about a recording, given by path or name."""
    stem = Path(name).stem
    return KNOWN.get(stem, Known(stem, "gpt-oss-120b-h200", "prefill and decode as the file says"))


def default_name(directory: Path = ACTIVATIONS) -> str:
    """The file with the most requests with recorded tokens; else the shipped sample."""
    sizes = {}
    for path in directory.glob("*.npz"):
        with np.load(path) as arrays:
            if "expert_ids" in arrays.files:
                sizes[path] = len(arrays["prefill_len"])
    return str(max(sizes, key=sizes.__getitem__)) if sizes else SAMPLE


def located(name: str) -> str:
    """The path of a recording, given by path or by the name of a shared one."""
    shared = ACTIVATIONS / f"{name}.npz"
    if name == SAMPLE:
        return SAMPLE
    path = shared if shared.exists() else Path(name)
    if not path.exists():
        names = [SAMPLE, *(found.stem for found in sorted(ACTIVATIONS.glob("*.npz")))]
        meant = did_you_mean(name, names)
        raise ValueError(f"{name}: neither a file nor one of {', '.join(names)}{meant}")
    return str(path.absolute())


def load(name: str) -> Recording:
    """Read a recording; raises OSError or ValueError if it is unusable."""
    recording = sample_recording() if name == SAMPLE else Recording.load(name)
    if recording.expert_ids is None:
        raise ValueError(f"{name}: expected a recording with tokens, found only counts")
    return recording
