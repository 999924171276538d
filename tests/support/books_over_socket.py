"""Executes the operations of `books` on the real daemon, over a socket; a restart is kill -9."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import grpc
from books import COUNTS, GEOMETRY, MODEL, PARTITIONS, WORKERS, Answered, Chances, Refusing, Sums
from daemon import running_daemon
from eldr.v1 import activation_pb2, fleet_pb2, partition_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client

SECONDS = 30.0  # for an answer, on a busy machine


def answering(method):
    def answer(*what):
        try:
            return method(*what)
        except grpc.RpcError as error:
            raise Refusing(error.code().name) from error

    return answer


def message_of(counts) -> activation_pb2.ActivationCounts:
    return activation_pb2.ActivationCounts(
        num_layers=GEOMETRY.num_layers,
        layers_present=len(counts.counts),
        num_experts=GEOMETRY.num_experts,
        top_k=GEOMETRY.top_k,
        num_tokens=counts.num_tokens,
        dense_u16=counts.counts.astype("<u2").tobytes(),
    )


COUNTS_OF = {id(counts): message_of(counts) for counts in COUNTS}


class OverSocket:
    """A daemon on a state directory. Its clock is the machine's; short leases are rare."""

    chances = Chances(
        report_limit=3_600.0,
        leases=(None, 900.0, 86_400.0) * 200 + (3.0,),
        steps=(0.0, 0.01),
        restart=0.004,
        margin=1.0,
    )

    def __init__(self, folder: Path, *flags: str) -> None:
        # Suspects, flapping workers and slow ones have their own tests.
        alike = ("--suspect-after", "1e9", "--hold-down", "0", "--relief", "1")
        self._flags = ("--state", str(folder), "--report-limit", "3600", *alike, *flags)
        self._begin()
        self._client.register(MODEL, WORKERS[0], geometry=None)  # it makes the model known
        for slots in range(1, PARTITIONS + 1):
            request = partition_pb2.FitPartitionRequest(model=MODEL, num_slots=slots)
            request.counts.extend(COUNTS_OF.values())
            self._client.partition.FitPartition(request)

    def _begin(self) -> None:
        self._open = ExitStack()
        self._daemon = self._open.enter_context(running_daemon(*self._flags))
        self._client = self._open.enter_context(Client(self._daemon.grpc))

    def close(self) -> None:
        self._open.close()

    def restart(self) -> None:
        self._daemon.process.send_signal(signal.SIGKILL)
        self._daemon.process.wait()
        self._open.close()
        self._begin()

    def now(self) -> float:
        return time.monotonic()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    @answering
    def route(self, call) -> Answered:
        request = router_pb2.RouteRequest(
            **{
                name: getattr(call, name)
                for name in (
                    *("request_id", "attempt", "num_sequences", "prompt_tokens", "prefill_worker"),
                    *("expected_output_tokens", "worker_selector", "pinned_worker"),
                )
            },
            model=MODEL,
            candidate_workers=sorted(call.candidate_workers),
            exclude_workers=sorted(call.exclude_workers),
        )
        if call.counts:
            request.counts.CopyFrom(COUNTS_OF[id(call.counts)])
        if call.lease_seconds:
            request.lease_ttl.CopyFrom(Duration(seconds=int(call.lease_seconds)))
        placement = self._client.router.Route(request, timeout=SECONDS).placement
        assert not placement.unsaved
        return Answered(
            placement.worker_id,
            placement.lease_id,
            reason=router_pb2.PlacementReason.Name(placement.reason)[len("PLACEMENT_REASON_") :],
            policy=placement.policy,
            partition=placement.partition_version,
            repeated=placement.repeated,
            early=placement.early,
        )

    def release(self, request_id, attempt, lease_id) -> str:
        return self._client.release(
            MODEL, request_id, attempt=attempt, lease_id=lease_id, output_tokens=5
        )

    def renew(self, leases):
        request = router_pb2.RenewLeasesRequest(model=MODEL)
        for request_id, attempt, lease_id in leases:
            request.leases.add(request_id=request_id, attempt=attempt, lease_id=lease_id)
        unknown = self._client.router.RenewLeases(request, timeout=SECONDS).unknown
        return [(lease.request_id, lease.attempt, lease.lease_id) for lease in unknown]

    def register(self, spec, state) -> int:
        return self._client.register(
            MODEL,
            spec.worker_id,
            geometry=None,
            role=int(spec.role),
            group=spec.group,
            labels=spec.labels,
            capacity=fleet_pb2.WorkerCapacity(sequences=spec.capacity_sequences),
            state=int(state),
        )

    @answering
    def drain(self, worker) -> int:
        request = fleet_pb2.DrainWorkerRequest(model=MODEL, worker_id=worker)
        return self._client.fleet.DrainWorker(request, timeout=SECONDS).booked_sequences

    @answering
    def remove(self, worker, incarnation) -> int:
        request = fleet_pb2.RemoveWorkerRequest(
            model=MODEL, worker_id=worker, incarnation=incarnation
        )
        return self._client.fleet.RemoveWorker(request, timeout=SECONDS).ended_bookings

    @answering
    def report(self, worker, report):
        request = fleet_pb2.ReportLoadRequest(
            model=MODEL,
            worker_id=worker,
            incarnation=report.incarnation,
            report_number=report.number,
            foreign_sequences=report.foreign_sequences,
            active_experts=report.active_experts,
            batch_size=report.batch_size,
            step_time=Duration(nanos=int(report.step_seconds * 1e9)),
            state=int(report.state),
        )
        for request_id, attempt in report.held:
            request.held.add(request_id=request_id, attempt=attempt)
        said = self._client.fleet.ReportLoad(request, timeout=SECONDS)
        return said.accepted, [(held.request_id, held.attempt) for held in said.unknown]

    @answering
    def signature(self, request_id, epoch, sequence, last, counts) -> bool:
        request = router_pb2.RegisterSignatureRequest(
            model=MODEL,
            request_id=request_id,
            epoch=epoch,
            sequence=sequence,
            last=last,
            counts=COUNTS_OF[id(counts)],
        )
        return self._client.router.RegisterSignature(request, timeout=SECONDS).complete

    def set_policy(self, name) -> None:
        request = policy_pb2.SetPolicyRequest(model=MODEL, name=name)
        self._client.policy.SetPolicy(request, timeout=SECONDS)

    def activate(self, version) -> None:
        request = partition_pb2.ActivatePartitionRequest(model=MODEL, version=version)
        self._client.partition.ActivatePartition(request, timeout=SECONDS)

    def sums(self) -> dict[str, Sums]:
        return {
            name: Sums(
                fleet_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_"),
                worker.incarnation,
                sequences=worker.booked_sequences,
                tokens=-1,
                load=worker.load,
            )
            for name, worker in self._client.workers(MODEL).items()
        }

    def check(self, living) -> None:
        """Check the number of bookings in the metrics."""
        with urlopen(f"http://{self._daemon.http}/metrics", timeout=SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        (said,) = [line for line in lines if line.startswith(f'eldr_leases{{model="{MODEL}"}}')]
        assert float(said.split()[-1]) == len(living)
