"""Partitions follow the traffic: a real daemon, real fits, over the socket."""

import os
import signal
import urllib.request
from contextlib import contextmanager
from itertools import count

import pytest
from children import alive, fitting_processes, linux, open_files
from daemon import running_daemon
from eldr.v1 import fleet_pb2
from eldr.v1 import partition_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families
from wire import Client, Refused, counts, drawn, eventually

NUMBER = count()
OFTEN = "--log-format", "json", "--refit-interval", "0.2", "--refit-signatures", "8"


class Served:
    """One daemon with the model m."""

    def __init__(self, daemon, client):
        self.daemon = daemon
        self.client = client
        self.incarnations = {}
        self.reports = count(1)

    def join(self, *workers):
        for worker in workers:
            self.incarnations[worker] = self.client.register("m", worker)

    def leave(self, worker):
        self.client.fleet.RemoveWorker(fleet_pb2.RemoveWorkerRequest(model="m", worker_id=worker))

    def send(self, *kinds, rounds=1):
        """Requests of these kinds in turn, one after the other; the workers that they went to."""
        workers = {}
        for _ in range(rounds):
            for kind in kinds:
                request = f"r{next(NUMBER)}"
                placed = self.client.route("m", request, counts=counts(drawn(kind, next(NUMBER))))
                self.client.release("m", request)
                workers.setdefault(kind, set()).add(placed.worker_id)
        return workers

    def report(self, active_experts, rounds=1):
        for _ in range(rounds):
            for worker, incarnation in self.incarnations.items():
                report = fleet_pb2.ReportLoadRequest(
                    model="m",
                    worker_id=worker,
                    incarnation=incarnation,
                    report_number=next(self.reports),
                    batch_size=8,
                    active_experts=active_experts + next(NUMBER) % 5 / 10,
                )
                assert self.client.fleet.ReportLoad(report).accepted

    def listed(self):
        return self.client.partition.ListPartitions(pb.ListPartitionsRequest(model="m"))

    def active(self):
        """The active partition, or None."""
        return next((one for one in self.listed().partitions if one.active), None)

    def active_by(self, reason):
        return (active := self.active()) and active.metadata.get("refit_reason") == reason

    def status(self):
        (status,) = self.listed().refits
        return status

    def metric(self, name, **labels):
        text = urllib.request.urlopen(f"http://{self.daemon.http}/metrics", timeout=10).read()
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    def logged(self, event):
        return [line for line in self.daemon.logs if line["event"] == event]

    def switch(self, mode):
        self.client.partition.SetRefit(pb.SetRefitRequest(model="m", mode=f"REFIT_MODE_{mode}"))


@contextmanager
def served(*flags, workers=2):
    with running_daemon(*OFTEN, *flags) as daemon, Client(daemon.grpc) as client:
        served = Served(daemon, client)
        served.join(*(f"w{number}" for number in range(workers)))
        yield served


@pytest.fixture
def fitted():
    """A daemon that has fitted its first partition by itself, to kinds 0 and 1 on two workers."""
    with served() as here:
        assert here.active() is None
        here.send(0, 1, rounds=8)
        eventually(here.active)
        yield here


def keeps_sending(here, is_so, *kinds):
    """Wait for what the daemon does by itself, with traffic going on."""

    def sent_and_so():
        here.send(*kinds, rounds=2)
        return is_so()

    eventually(sent_and_so, seconds=60)


def test_the_first_partition_comes_by_itself(fitted):
    first = fitted.active()
    assert (first.version, first.num_slots) == (1, 2)
    assert first.metadata["refit_reason"] == "first"
    workers = fitted.send(0, 1, rounds=4)
    assert {len(where) for where in workers.values()} <= {1, 2}
    assert all(binding.worker_ids for binding in first.bindings)
    assert fitted.status().last_outcome == "first: installed"
    assert fitted.metric("eldr_refits_total", outcome="installed") == 1
    assert fitted.metric("eldr_window_signatures") == fitted.status().window_signatures


def test_a_shift_of_the_traffic_leads_to_drift_and_a_better_partition(fitted):
    keeps_sending(fitted, lambda: fitted.metric("eldr_refits_total", outcome="kept"), 0, 1)
    assert fitted.active().version == 1  # the traffic is the same, and none is better
    fitted.switch("MANUAL")  # or a refit could end the drift before it is seen
    keeps_sending(fitted, lambda: fitted.metric("eldr_partition_drift") > 1.2, 2, 3)
    fitted.switch("AUTO")
    keeps_sending(fitted, lambda: fitted.active_by("traffic"), 2, 3)
    told = fitted.active().metadata
    assert float(told["refit_experts"]) < float(told["refit_experts_before"])
    assert 0 <= float(told["refit_moved"]) <= 1
    assert any(line["better"] and (line["drift"] or 0) > 1 for line in fitted.logged("refitted"))


def test_a_refit_that_makes_steps_worse_is_taken_back(fitted):
    fitted.report(6.0, rounds=40)
    keeps_sending(fitted, lambda: fitted.active_by("traffic"), 2, 3)
    worse_one = fitted.active().version

    def taken_back():
        fitted.send(2, 3)
        fitted.report(9.0, rounds=2)
        return fitted.logged("partition rolled back")

    eventually(taken_back, seconds=60)
    (line,) = fitted.logged("partition rolled back")
    assert (line["worse"], line["level"]) == ("active experts", "warning")
    assert line["version"] < worse_one
    assert fitted.metric("eldr_refits_total", outcome="rolled_back") == 1


def test_slots_follow_workers_that_join_and_leave(fitted):
    fitted.join("w2")
    eventually(lambda: fitted.active().num_slots == 3)
    assert all(len(binding.worker_ids) == 1 for binding in fitted.active().bindings)
    assert fitted.active().metadata["refit_reason"] == "membership"
    keeps_sending(
        fitted,
        lambda: any(line.get("refit_reason") == "membership" for line in fitted.logged("refitted")),
        *(0, 1, 2),
    )
    fitted.leave("w0")  # and a refit to the traffic must not make that forgotten
    keeps_sending(fitted, lambda: fitted.active().num_slots == 2, 0, 1, 2)
    assert {w for binding in fitted.active().bindings for w in binding.worker_ids} == {"w1", "w2"}


def test_off_keeps_nothing_and_manual_waits_for_somebody():
    with served("--refit", "manual") as here:
        here.send(0, 1, rounds=20)
        assert here.status().window_signatures == 40
        assert here.status().mode == pb.REFIT_MODE_MANUAL
        fit = pb.FitPartitionRequest(model="m")
        assert here.client.partition.FitPartition(fit).partition.metadata["signatures"] == "40"
        here.switch("OFF")
        eventually(lambda: here.status().window_signatures == 0)
        here.send(0, 1, rounds=20)
        assert here.status().window_signatures == 0
        with Refused("FAILED_PRECONDITION"):
            here.client.partition.FitPartition(fit)
        assert not here.logged("refit")
        here.switch("AUTO")
        keeps_sending(here, lambda: here.active_by("first"), 0, 1)
        here.switch("UNSPECIFIED")
        assert here.status().mode == pb.REFIT_MODE_MANUAL


def test_a_choice_made_by_hand_is_left_alone_for_a_window():
    with served("--refit-window", "4") as here:
        here.client.fit("m", kinds=2)
        eventually(lambda: here.status().held.ToTimedelta())

        def over():
            version, held = here.active().version, here.status().held.ToTimedelta()
            assert version == 1 or not held
            return not held

        keeps_sending(here, over, 2, 3)
        keeps_sending(here, lambda: here.active_by("traffic"), 2, 3)
        rollback = pb.RollbackPartitionRequest(model="m")
        assert here.client.partition.RollbackPartition(rollback).partition.version == 1
        eventually(lambda: here.status().held.ToTimedelta())


@linux
def test_a_killed_fit_is_told_and_the_next_one_succeeds(fitted):
    (process,) = fitting_processes(fitted.daemon.process.pid)
    files = open_files(fitted.daemon.process.pid)
    os.kill(process, signal.SIGSTOP)  # a fit that takes its time
    keeps_sending(fitted, lambda: fitted.status().running, 0, 1)
    os.kill(process, signal.SIGKILL)
    keeps_sending(fitted, lambda: fitted.metric("eldr_refits_total", outcome="failed"), 0, 1)
    keeps_sending(fitted, lambda: fitted.metric("eldr_refits_total", outcome="kept"), 0, 1)
    assert fitting_processes(fitted.daemon.process.pid) - {process}
    eventually(lambda: open_files(fitted.daemon.process.pid) <= files + 2)  # metrics' sockets


@linux
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_fitting_process_goes_with_the_daemon(fitted, how):
    (process,) = fitting_processes(fitted.daemon.process.pid)
    fitted.daemon.process.send_signal(how)
    eventually(lambda: not alive(process))
    fitted.daemon.process.wait(20)


def test_modes_and_versions_survive_a_restart(tmp_path):
    with served("--state", str(tmp_path)) as here:
        here.send(0, 1, rounds=8)
        eventually(here.active)
        here.switch("MANUAL")
    with served("--state", str(tmp_path)) as here:
        assert here.active().metadata["refit_reason"] == "first"
        assert here.status().mode == pb.REFIT_MODE_MANUAL
        assert not here.status().held.ToTimedelta()  # nobody chose it by hand
