"""How often completions from separate prefill and decode engines equal those of one engine.

Greedy decoding with several requests in flight, so that batches differ from run to run; beside it,
how often one engine equals itself. One prefill and two decode engines of vLLM, NIXL over loopback,
a daemon.

    ELDR_DAEMON_PYTHON=.venv/bin/python .venv-vllm/bin/python -m benchmarks.engines.equal_outputs
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PATHS = [CHECKOUT, *(CHECKOUT / p for p in ("tests/vllm", "clients/vllm", "clients/python"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("build/bench/equal_outputs.json"))
    options = parser.parse_args()

    sys.path[:0] = map(str, PATHS)
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
    from rig import equal_shares, running_apart

    from benchmarks.engines.tiny_moe.checkpoint import CHECKPOINT

    result = {}
    for dtype in options.dtypes:
        with (
            tempfile.TemporaryDirectory() as folder,
            running_apart(CHECKPOINT, Path(folder), dtype=dtype) as rig,
            rig.client() as client,
        ):
            rig.await_workers()
            for in_flight in options.in_flight:
                shares = equal_shares(rig, client, options.prompts, options.tokens, in_flight)
                names = ("apart equals one engine", "one engine equals itself")
                result[f"{dtype}, {in_flight} in flight"] = dict(zip(names, shares, strict=True))
    print(json.dumps(result, indent=2))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
