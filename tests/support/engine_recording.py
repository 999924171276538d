"""A recording as engines write it: one prefill engine, and some decode engines."""

import numpy as np
from eldr_vllm.recording.files import RecordingFiles
from eldr_vllm.recording.recorder import Recorder
from eldr_vllm.recording.tables import request_key
from routed import separable

STEP_US = 300.0, 20.0, 4.0  # per step, sequence, expert
ABOUT = {"model": "m", "share": "1", "num_experts": "16", "top_k": "2"}


def recorder(folder, role, engine="", **about):
    engine = f"{engine or role}.{role}"
    files = RecordingFiles(folder, engine, 1 << 30)
    return Recorder(files, {**ABOUT, "role": role, "engine": engine, **about})


def write_prefills(folder, drawn, rate=50.0, **about):
    """Write the prefills of all requests, with counts after the timings."""
    written = recorder(folder, "prefill", **about)
    counts = drawn.prefill_counts()
    for r in range(drawn.num_requests):
        arrival = 1e9 + r / rate
        tokens = int(drawn.prefill_len[r])
        times = arrival, arrival + 0.001, arrival + 0.02
        written.put("prefills", [request_key(str(r))], [times], [tokens])
        written.put("signatures", [request_key(str(r))], [0], counts[r][None])
    written.close()


def write_decodes(folder, drawn, engines=2, rate=50.0, **about):
    """Write the decodes; each engine runs four requests at a time."""
    rng = np.random.default_rng(0)
    for engine in range(engines):
        written = recorder(folder, "decode", f"decode-{engine}", **about)
        own = list(range(engine, drawn.num_requests, engines))
        for sequence, r in enumerate(own):
            tokens = drawn.decode(r)
            recorded = tokens.stop - tokens.start
            arrival = 1e9 + r / rate + 0.03
            times = arrival, arrival + 0.01, arrival + 0.5
            sizes = int(drawn.prefill_len[r]), recorded + 1, recorded
            written.put("decodes", [request_key(str(r))], [sequence], [times], [sizes])
        for start in range(0, len(own), 4):
            batch = own[start : start + 4]
            for step in range(30):
                rows = [drawn.decode(r).start + step for r in batch]
                experts = drawn.expert_ids[rows].astype(np.uint8)
                sequences = np.arange(start, start + len(batch), dtype=np.uint32)
                written.put("tokens", sequences, experts)
                active = sum(len(set(layer.ravel())) for layer in experts.transpose(1, 0, 2))
                us = STEP_US[0] + STEP_US[1] * len(batch) + STEP_US[2] * active
                seconds = us * 1e-6 * rng.normal(1, 0.01)
                sizes = len(batch), len(batch), 40 * len(batch), active
                written.put("steps", [(1e9 + step, seconds)], [sizes])
        written.close()


def write(folder, drawn=None, **about):
    """Write prefills and decodes of the same requests; returns these as a Recording."""
    drawn = drawn or separable(3, 40)
    write_prefills(folder, drawn, **about)
    write_decodes(folder, drawn, **about)
    return drawn
