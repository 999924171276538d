"""`eldr-conformance -- PROGRAM [ARGUMENT …]`: tests whether a client does what a client must."""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from eldr_conformance.runner import cases, run


def main() -> None:
    """Exit with 0 if every case passed, or needs a call that the client lacks; else 1."""
    parser = argparse.ArgumentParser(prog="eldr-conformance", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name or topic contains this")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    parser.add_argument("program", nargs="+", help="the client's program and its arguments")
    given = parser.parse_args()
    chosen = [c for c in cases() if given.only in c["name"] or given.only in c["topic"]]
    if not chosen:
        parser.error(f"--only: expected a part of a case's name or topic, found {given.only!r}")
    outcomes = asyncio.run(run(given.program, chosen))
    for outcome in outcomes:
        said = f"- lacks {outcome.lacks}" if outcome.lacks else outcome.wrong or "ok"
        print(f"{outcome.case}: {said}")
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    lacking = sum(bool(outcome.lacks) for outcome in outcomes)
    print(f"{len(outcomes) - wrong - lacking} passed, {wrong} failed, {lacking} not offered")
    if given.json:
        given.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
