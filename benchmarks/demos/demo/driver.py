"""Drives requests through the daemon to the engines, as a scheduler with a prefill stage would."""

import time
from collections.abc import Callable
from itertools import chain, count
from typing import Any

import grpc
from eldr.v1 import (
    activation_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)

from benchmarks.demos.demo.decode_api import DecodeClient, Json
from benchmarks.demos.demo.processes import DemoError
from benchmarks.demos.demo.run import Figures, Run
from benchmarks.demos.demo.settings import Setting
from benchmarks.demos.demo.workload import Workload
from eldr_service.core.partition import Partition
from eldr_service.lab.simulation.arrivals import RecordingPicker
from eldr_service.stores.partition_file import dump_partition


class Driver:
    """One model's traffic. Virtual time moves in lockstep with the engines, so runs are exact.

    Parameters
    ----------
    daemon, engines : str
        Addresses.
    model : str
    work : Workload
    """

    def __init__(self, daemon: str, engines: str, model: str, work: Workload) -> None:
        self._channel = grpc.insecure_channel(daemon)
        self._router = router_pb2_grpc.RouterServiceStub(self._channel)
        self._fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)
        self._engines = DecodeClient(engines)
        self._model = model
        self._work = work
        self._runs = 0
        self._partition: Partition | None = None  # the one in force in the daemon
        self._starts: list[Json] = []  # placed, but not yet sent to the engines
        self._prefills = [self._chunks(r) for r in work.driven.tolist()]
        self._decodes = [self._counts(work.recording.decode(r)) for r in work.driven.tolist()]
        self._domains = [str(d) for d in work.recording.domains[work.driven]]

    def close(self) -> None:
        """End the connections."""
        self._engines.close()
        self._channel.close()

    def drive(self, setting: Setting, placed: Callable[[], None] = lambda: None) -> Run:
        """Set policy and partition, and drive all requests; `placed` is called for each.

        Raises
        ------
        DemoError
            The daemon's counts are wrong.
        grpc.RpcError
        """
        policies = policy_pb2_grpc.PolicyServiceStub(self._channel)
        policies.SetPolicy(
            policy_pb2.SetPolicyRequest(
                model=self._model, name=setting.policy, parameters=setting.parameters
            )
        )
        self._activate(setting.partition)
        self._engines("Reset", report_interval_s=self._work.report_interval_s)
        self._runs += 1
        self._starts = []
        run = Run(setting.policy)
        picker = RecordingPicker(len(self._prefills), self._work.seed)
        waiting = 0
        times = self._work.arrivals.tolist()
        pause = 1 / self._work.rate
        # After the last arrival, time advances until all that wait have found a free recording.
        for n, now in enumerate(chain(times, count(times[-1] + pause, pause))):
            self._advance(now, run, picker)
            arrived = n < len(times)
            waiting += arrived
            while waiting and (recording := picker.take()) is not None:
                waiting -= 1
                self._place(now, recording, run)
                placed()
            run.waited += arrived and waiting > 0
            run.most_in_flight = max(run.most_in_flight, picker.in_flight)
            if n + 1 >= len(times) and not waiting:
                break
        self._advance(now, run, picker)
        under_load = Figures(**self._engines("Figures"))
        self._advance(float("inf"), run, picker)
        run.figures = Figures(**self._engines("Figures")).with_imbalance_of(under_load)
        self._check_empty()
        return run

    def _activate(self, partition: Partition) -> None:
        """Give a partition to the daemon, unless it is already in force."""
        if partition is self._partition:
            return
        stub = partition_pb2_grpc.PartitionServiceStub(self._channel)
        stub.ImportPartition(
            partition_pb2.ImportPartitionRequest(data=dump_partition(partition), activate=True)
        )
        self._partition = partition

    def _advance(self, until: float, run: Run, picker: RecordingPicker) -> None:
        """Start what was placed, let the engines run, and release what they finish."""
        finished = self._engines("Advance", starts=self._starts, until_s=until)["finished"]
        self._starts = []
        for done in finished:
            recording, _ = run.placements[int(done["request_id"].rpartition("/")[2])]
            release = router_pb2.ReleaseRequest(
                model=self._model,
                request_id=done["request_id"],
                outcome=router_pb2.RELEASE_OUTCOME_COMPLETED,
                output_tokens=done["tokens"],
                decode_counts=self._decodes[recording],
            )
            release.decode_duration.FromNanoseconds(
                round((done["end_s"] - done["first_token_s"]) * 1e9)
            )
            if self._router.Release(release).result != router_pb2.RELEASE_RESULT_RELEASED:
                raise DemoError(f"{done['request_id']} was released, but not booked")
            picker.give_back(recording)

    def _place(self, now: float, recording: int, run: Run) -> None:
        """Register a request's signature as its prefill ends, route it, start its decode."""
        request_id = f"{run.policy}-{self._runs}/{len(run.placements)}"
        for sequence, counts in enumerate(self._prefills[recording]):
            self._router.RegisterSignature(
                router_pb2.RegisterSignatureRequest(
                    model=self._model,
                    request_id=request_id,
                    sequence=sequence,
                    last=sequence == 1,
                    counts=counts,
                )
            )
        request = router_pb2.RouteRequest(
            model=self._model,
            request_id=request_id,
            labels={"domain": self._domains[recording]},  # read only by domain-oracle
        )
        begun = time.perf_counter()
        placement = self._router.Route(request).placement
        run.route_s.append(time.perf_counter() - begun)
        run.reasons[_reason(placement)] += 1
        run.placements.append((recording, placement.dp_rank))
        self._starts.append(
            {
                "now_s": now,
                "request_id": request_id,
                "recording": int(self._work.driven[recording]),
                "dp_rank": placement.dp_rank,
            }
        )

    def _check_empty(self) -> None:
        """Check that every booking is released: the daemon counts nothing on any worker."""
        workers = self._fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=self._model)).workers
        if left := {w.worker_id: w.booked_sequences for w in workers if w.booked_sequences}:
            raise DemoError(f"all requests are released, yet the daemon still counts {left}")

    def _chunks(self, request: int) -> list[activation_pb2.ActivationCounts]:
        """The counts of a prefill in two chunks."""
        tokens = self._work.recording.prefill(request)
        middle = (tokens.start + tokens.stop) // 2
        halves = slice(tokens.start, middle), slice(middle, tokens.stop)
        return [self._counts(half) for half in halves]

    def _counts(self, tokens: slice) -> activation_pb2.ActivationCounts:
        counts = self._work.recording.counts_of(tokens)
        g = self._work.recording.geometry
        wide: dict[str, Any] = (
            {"dense_u16": counts.astype("<u2").tobytes()}
            if counts.max() < 2**16
            else {"dense_u32": counts.astype("<u4").tobytes()}
        )
        return activation_pb2.ActivationCounts(
            num_layers=g.num_layers,
            num_experts=g.num_experts,
            top_k=g.top_k,
            num_tokens=tokens.stop - tokens.start,
            **wide,
        )


def _reason(placement: router_pb2.Placement) -> str:
    name: str = router_pb2.PlacementReason.Name(placement.reason)
    return name.removeprefix("PLACEMENT_REASON_")
