"""Random lives of a model's books, against the contract in plain dicts.

`ELDR_FAULTS_OPERATIONS` says how many operations (20,000 by default, 1,000,000 in `make soak`),
`ELDR_FAULTS_SEED` which life is the first: a failure says its own, with which it comes again.
"""

import os
import time

import pytest
from books_in_process import InProcess
from books_over_socket import OverSocket
from life import Life

OPERATIONS = int(os.environ.get("ELDR_FAULTS_OPERATIONS", "20000"))
OVER_SOCKET = OPERATIONS // 20
SEED = int(os.environ.get("ELDR_FAULTS_SEED", "1"))
OF_A_LIFE = 10_000


@pytest.mark.timeout(120 + OPERATIONS // 200)
def test_the_router_keeps_its_books(tmp_path):
    began = time.monotonic()
    for life in range(OPERATIONS // OF_A_LIFE):
        folder = tmp_path / str(life)
        folder.mkdir()
        driver = InProcess(folder)
        Life(driver, SEED + life).run(OF_A_LIFE)
        driver.close()
    seconds = time.monotonic() - began
    print(f"\n{OPERATIONS} operations on the router in {seconds:.0f} s, seeds from {SEED}")


@pytest.mark.timeout(180 + OVER_SOCKET // 20)
def test_a_daemon_that_is_killed_keeps_its_books(tmp_path):
    began = time.monotonic()
    driver = OverSocket(tmp_path)
    life = Life(driver, SEED)
    life.run(OVER_SOCKET)
    driver.close()
    seconds = time.monotonic() - began
    print(f"\n{OVER_SOCKET} operations on a daemon, {life.restarts} kills, {seconds:.0f} s")
    assert life.restarts
