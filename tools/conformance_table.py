"""Run every case with every client of this repository; write the table in clients/conformance."""

import asyncio
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

from eldr_conformance.runner import cases, run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "clients/conformance/README.md"
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("support", "conformance")]
WHERE = {
    "Python, asyncio": "python -m eldr_conformance.python_driver",
    "Python, threads": "python -m eldr_conformance.python_driver --sync",
    "Go": "clients/go/conformance",
    "Rust": "clients/rust/examples/conformance",
    "Node": "clients/node/conformance",
    "Java": "eldr.conformance.Program, in clients/java/src/test",
    "C++": "clients/cpp/conformance",
}


async def row(client: str, command: list[str]) -> str:
    outcomes = await run(command, cases())
    for outcome in outcomes:
        if outcome.wrong:
            print(f"{client}: {outcome.case}: {outcome.wrong}")
    lacks = Counter(outcome.lacks for outcome in outcomes if outcome.lacks)
    passed = sum(not outcome.wrong and not outcome.lacks for outcome in outcomes)
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    words = ", ".join(f"{count} of `{lack}`" for lack, count in lacks.most_common())
    return f"| {client} | `{WHERE[client]}` | {passed} | {failed} | {words} |"


async def main() -> None:
    from programs import PROGRAMS

    tools = ("go", "cargo", "npm", "mvn", "cmake")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        sys.exit(f"expected all clients' tools, missing: {', '.join(missing)}")
    rows = ["| client | program | passed | failed | not offered |", "|---|---|---|---|---|"]
    for client in WHERE:
        rows.append(await row(client, PROGRAMS[client][1]()))
        print(rows[-1], flush=True)
    text = PAGE.read_text()
    changed = re.sub(r"\| client \| program .*?\n\n", "\n".join(rows) + "\n\n", text, flags=re.S)
    PAGE.write_text(changed)


if __name__ == "__main__":
    asyncio.run(main())
