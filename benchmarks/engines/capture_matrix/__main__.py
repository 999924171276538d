"""`python -m benchmarks.engines.capture_matrix`, with an environment's Python that has vLLM."""

import argparse
import sys

from benchmarks.engines.capture_matrix.cell import CHECKOUT, PATHS, TIMEOUT, Nurseries
from benchmarks.engines.capture_matrix.configurations import CONFIGURATIONS
from benchmarks.engines.capture_matrix.table import add, markdown, put_into


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=[], metavar="NAME")
    parser.add_argument(
        "--configurations", nargs="+", default=["eager"], choices=[*CONFIGURATIONS, "all"]
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds a cell may take")
    parser.add_argument("--json", default="capture_matrix", help="build/bench/NAME.json")
    parser.add_argument(
        "--readme", action="store_true", help="write the table into clients/vllm/README.md"
    )
    arguments = parser.parse_args()

    sys.path[:0] = map(str, PATHS)
    from zoo import ARCHITECTURES

    unknown = set(arguments.architectures) - set(ARCHITECTURES)
    if unknown:
        parser.error(f"unknown architectures: {unknown}; expected of {[*ARCHITECTURES]}")
    chosen = arguments.configurations
    good, cells = True, []
    with Nurseries(sys.executable) as nurseries:
        for name in CONFIGURATIONS if "all" in chosen else chosen:
            configuration = CONFIGURATIONS[name]
            nursery = nurseries.of(configuration)
            for architecture in (
                arguments.architectures or configuration.architectures or ARCHITECTURES
            ):
                outcome = nursery.run(architecture, configuration, arguments.timeout)
                good &= outcome.verdict not in ("differs", "fails")
                cell = {
                    "vllm": nursery.version,
                    "configuration": name,
                    "architecture": architecture,
                }
                cells = add(arguments.json, cell | vars(outcome))
                what = f"{architecture:16} {name:16}"
                print(f"{what} {outcome.seconds:5.0f} s  {outcome}", flush=True)
    if arguments.readme:
        put_into(CHECKOUT / "clients/vllm/README.md", markdown(cells))
    return not good


if __name__ == "__main__":
    sys.exit(main())
