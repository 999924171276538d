"""`eldr doctor`: refits that fail, or are taken back."""

import resource
from itertools import count

import pytest
from children import limits_files
from daemon import running_daemon
from deployment import PATIENT, report, worker
from eldr.v1 import partition_pb2
from wire import Client, counts, drawn, eventually

OFTEN = "--refit-interval", "0.2", "--refit-signatures", "8"


class Refitted:
    """A daemon that refits often, its two workers, and requests."""

    def __init__(self, daemon, client, url):
        self.daemon, self._client = daemon, client
        self._numbers, self._reports = count(), count(2)
        self._lives = {name: worker(client, name, url) for name in ("w0", "w1")}

    def serve(self, *kinds):
        for kind in kinds:
            number = next(self._numbers)
            self._client.route("m", f"r{number}", counts=counts(drawn(kind, number)))
            self._client.release("m", f"r{number}")

    def report(self, active_experts):
        number = next(self._reports)
        for name, life in self._lives.items():
            experts = active_experts + number % 5 / 10
            report(self._client, name, life, number, batch_size=8, active_experts=experts)

    def status(self):
        """How refits stand, and why the partition in force was fitted."""
        listed = self._client.partition.ListPartitions(
            partition_pb2.ListPartitionsRequest(model="m")
        )
        reasons = [p.metadata.get("refit_reason", "") for p in listed.partitions if p.active]
        return (listed.refits or [partition_pb2.RefitStatus()])[0], "".join(reasons)

    def refit_to(self, reason, *kinds):
        """Serve these kinds until a refit for this reason is in force, and nothing beyond it."""

        def is_so():
            status, why = self.status()
            if why != reason and not status.running:
                self.serve(*kinds)
            return why == reason

        eventually(is_so)


@pytest.fixture
def refitted(url):
    with running_daemon(*PATIENT, *OFTEN) as daemon, Client(daemon.grpc) as client:
        yield Refitted(daemon, client, url)


@limits_files
def test_a_refit_that_fails_and_one_that_does_not(refitted, becomes):
    """Its process needs a file, which it cannot have."""
    pid = refitted.daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, -1))
    for _ in range(16):
        refitted.serve(0, 1)
    found = becomes("warning", "refits", refitted.daemon, "m")
    assert "the last one failed" in found["words"]
    assert "eldr fit --activate --model m" in found["fix"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    refitted.refit_to("first", 0, 1)
    assert "1 installed" in becomes("ok", "refits", refitted.daemon, "m")["words"]


def test_a_refit_that_is_taken_back(refitted, becomes):
    refitted.refit_to("first", 0, 1)
    for _ in range(40):
        refitted.report(6.0)
    refitted.refit_to("traffic", 2, 3)

    def taken_back():
        refitted.report(9.0)
        return refitted.status()[0].last_outcome.startswith("rolled back")

    eventually(taken_back)
    found = becomes("warning", "refits", refitted.daemon, "m")
    assert "the last one was rolled back to 1: active experts got worse" in found["words"]
    assert "eldr partition refit manual --model m" in found["fix"]
