"""Processes, as seen in Linux's /proc."""

import os
import resource
from pathlib import Path

import pytest

linux = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(),
    reason="reads memory and children of a process from /proc, which only Linux has",
)
limits_files = pytest.mark.skipif(
    not hasattr(resource, "prlimit"),
    reason="only Linux lets one process limit the files of another",
)


def fitting_processes(pid: int) -> set[int]:
    """Pids of a process's fitting processes; it may have other children."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(after_name[1]) == pid and after_name[0] != "Z" and b"fitting.job" in command:
            found.add(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
