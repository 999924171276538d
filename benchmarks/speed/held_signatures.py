"""Memory per registered signature, next to its bytes on the wire.

RegisterSignature messages of 48 layers x 128 experts, one chunk each, are parsed and held as the
daemon holds them until their placement is released. The baseline is the packed size, 2 bytes per
count; ours is the growth of the process. The memory for signatures is bounded
(`--signature-memory-bytes`) by the daemon's own estimate of their size, so that is shown too.

Prints a table and writes build/bench/held_signatures.json.
"""

import argparse
import gc
import time
from pathlib import Path
from typing import Any

from eldr.v1 import router_pb2
from eldr_client.counts import Counts

from benchmarks.speed import paired
from benchmarks.speed.signatures import GEOMETRY, TOKENS, drawn_counts
from eldr_service.core.signature_buffer import SignatureBuffer
from eldr_service.server.rpc import reading

MODEL = "m"
PAGE_BYTES = 4_096
GOALS = {"bytes per signature": 0.5, "bytes per signature, as estimated": 0.5}


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def fill(buffer: SignatureBuffer, signatures: int, bodies: list[bytes]) -> tuple[float, float]:
    """Bytes per held signature: measured, and as the buffer estimates them."""
    gc.collect()
    before = resident_bytes()
    for number in range(signatures):
        message = router_pb2.RegisterSignatureRequest.FromString(bodies[number % len(bodies)])
        buffer.add(
            MODEL,
            f"request-{number}",
            0,
            reading.activation_counts("counts", message.counts),
            sequence=0,
            total_chunks=1,
            prompt_tokens=TOKENS,
            fingerprint=reading.fingerprint(message.counts),
            now=time.monotonic(),
        )
    return (resident_bytes() - before) / signatures, buffer.nbytes / signatures


def measure(turns: int, signatures: int) -> dict[str, Any]:
    bodies = [
        router_pb2.RegisterSignatureRequest(
            counts=Counts(counts, GEOMETRY.top_k).to_proto()
        ).SerializeToString()
        for counts in drawn_counts(64)
    ]
    packed = float(2 * GEOMETRY.size)
    # All are kept, or the next would reuse memory that the process already has.
    buffers = [SignatureBuffer(max_bytes=1 << 40) for _ in range(turns)]
    seen = [fill(buffer, signatures, bodies) for buffer in buffers]
    return {
        "ratios": {
            name: paired.ratio([s[place] for s in seen], [packed] * turns, less=True)
            for place, name in enumerate(GOALS)
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--signatures", type=int, default=5_000)
    paired.add_options(parser, "held_signatures")
    options = parser.parse_args()
    result = measure(options.turns, options.signatures)
    paired.finish("Registered signatures in memory", result, GOALS, options)


if __name__ == "__main__":
    main()
