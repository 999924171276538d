"""Jobs for the fitting process; a separate module, as the process imports it."""

import os
import time


def sleep(counts):
    time.sleep(600)


def die(counts):
    os._exit(3)


def surroundings(counts):
    return os.getpid(), os.nice(0), os.environ["OPENBLAS_NUM_THREADS"], counts.copy()
