"""Random lives of a model's books, against the contract in plain dicts.

`ELDR_FAULTS_OPERATIONS` says how many operations (10,000 by default, 1,000,000 in `make soak`),
`ELDR_FAULTS_SEED` which life is the first: a failure says its own, with which it comes again.
"""

import os
import time
from contextlib import closing

import pytest
from books_in_process import InProcess
from books_over_replicas import OverReplicas
from books_over_socket import OverSocket
from life import Life
from life_of_replicas import LifeOfReplicas
from redis_server import needs_redis

OPERATIONS = int(os.environ.get("ELDR_FAULTS_OPERATIONS", "10000"))
OVER_SOCKET = max(1_000, OPERATIONS // 20)  # fewer have no kill among them
OVER_REPLICAS = OPERATIONS // 40
SEED = int(os.environ.get("ELDR_FAULTS_SEED", "1"))
OF_A_LIFE = 10_000
OF_REPLICAS = 500


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


@needs_redis
@pytest.mark.timeout(180 + OVER_REPLICAS // 10)
def test_replicas_keep_one_set_of_books(tmp_path):
    began, kills, losses = time.monotonic(), 0, 0
    for life in range(max(1, OVER_REPLICAS // OF_REPLICAS)):
        folder = tmp_path / str(life)
        folder.mkdir()
        with closing(OverReplicas(folder, SEED + life)) as driver:
            its = LifeOfReplicas(driver, SEED + life)
            its.run(OF_REPLICAS // 2)
            its.kill()
            its.lose_redis()
            its.run(OF_REPLICAS // 2)
            kills, losses = kills + its.restarts, losses + its.losses
    seconds = time.monotonic() - began
    print(
        f"\n{OVER_REPLICAS} operations on three replicas, {kills} kills, {losses} losses of Redis,"
        f" {seconds:.0f} s"
    )
