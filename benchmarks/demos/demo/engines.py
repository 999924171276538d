"""A process of simulated decode engines, one per data-parallel rank, that speak only gRPC.

They register with the daemon and report their loads to it like real ones. What they decode is
recorded, and time is virtual, also between reports: it stands still until the driver calls
`Advance`. So a policy that learns from reports gets the same ones in every run. The process serves
until its standard input closes, so it cannot outlive its parent.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Hashable
from dataclasses import asdict

import grpc
from eldr.v1 import activation_pb2, fleet_pb2, fleet_pb2_grpc

from benchmarks.demos.demo import data
from benchmarks.demos.demo.decode_api import Json, handler
from benchmarks.demos.demo.run import Figures
from eldr_service.lab.recordings import Recording
from eldr_service.lab.simulation.cost import StepCost, built_in_costs
from eldr_service.lab.simulation.decode_pool import DecodePool
from eldr_service.lab.simulation.engine import Engine

CAPACITY = 256


class Engines:
    """The engines of one model, and what they hold."""

    def __init__(self, recording: Recording, cost: StepCost, labels: list[str]) -> None:
        self._recording = recording
        self._cost = cost
        self._labels = labels
        self._reports = 0
        self._lives: list[int] = []
        self._begin(math.inf)
        self.methods = {
            "Advance": self._advance,
            "Figures": self._figures,
            "Reset": self._reset,
        }

    async def _advance(self, request: Json) -> Json:
        for start in request["starts"]:
            self._pool.start(
                start["now_s"],
                start["dp_rank"],
                start["request_id"],
                self._recording.decode(start["recording"]),
                prompt_tokens=self._recording.prefill_tokens(start["recording"]),
            )
            self._held[start["dp_rank"]].add(start["request_id"])
        finished = self._pool.advance(request["until_s"])
        for f in finished:
            self._held[f.worker].remove(f.request_key)
        if request["until_s"] >= self._next_report_s:
            self._next_report_s += self._report_interval_s
            await self._report_all()
        return {
            "finished": [
                {
                    "request_id": f.request_key,
                    "first_token_s": f.first_token_s,
                    "end_s": f.end_s,
                    "tokens": f.tokens,
                }
                for f in finished
            ]
        }

    async def _figures(self, request: Json) -> Json:
        return asdict(Figures.of(self._pool.statistics()))

    async def _reset(self, request: Json) -> Json:
        self._begin(request["report_interval_s"])
        return {}

    def _begin(self, report_interval_s: float) -> None:
        ids = self._recording.expert_ids
        assert ids is not None
        num_experts = self._recording.geometry.num_experts
        self._pool = DecodePool(ids, num_experts, [Engine(self._cost)] * len(self._labels))
        self._held: list[set[Hashable]] = [set() for _ in self._labels]
        self._report_interval_s = self._next_report_s = report_interval_s

    async def register(self, channel: grpc.aio.Channel, model: str, url: str) -> None:
        """Register every engine; each reports once, and then as virtual time advances."""
        self._model, self._fleet = model, fleet_pb2_grpc.FleetServiceStub(channel)
        g = self._recording.geometry
        geometry = activation_pb2.ModelGeometry(
            num_layers=g.num_layers, num_experts=g.num_experts, top_k=g.top_k
        )
        for rank, label in enumerate(self._labels):
            worker = fleet_pb2.RegisterWorkerRequest(
                worker_id=f"decode-{rank}",
                model=model,
                url=url,
                dp_rank=rank,
                labels={"domain": label},
                capacity=fleet_pb2.WorkerCapacity(sequences=CAPACITY),
                geometry=geometry,
            )
            self._lives.append((await self._fleet.RegisterWorker(worker)).incarnation)
        await self._report_all()

    async def _report_all(self) -> None:
        self._reports += 1
        for rank, incarnation in enumerate(self._lives):
            await self._fleet.ReportLoad(self._report(rank, incarnation))

    def _report(self, rank: int, incarnation: int) -> fleet_pb2.ReportLoadRequest:
        recent = self._pool.recent(rank)
        report = fleet_pb2.ReportLoadRequest(
            worker_id=f"decode-{rank}",
            model=self._model,
            incarnation=incarnation,
            report_number=self._reports,
            running_sequences=self._pool.held(rank),
            held=[fleet_pb2.HeldRequest(request_id=str(r)) for r in self._held[rank]],
        )
        if not math.isnan(recent.batch_size):
            report.active_experts = recent.active_experts
            report.step_active_experts = recent.step_active_experts
            report.batch_size = recent.batch_size
            report.step_time.FromNanoseconds(round(recent.step_seconds * 1e9))
        return report


async def _serve(options: argparse.Namespace) -> None:
    recording = data.load(options.recording)
    engines = Engines(recording, built_in_costs()[options.cost], json.loads(options.labels))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([handler(engines.methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(options.daemon) as channel:
        await engines.register(channel, options.model, f"http://127.0.0.1:{port}")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


def main() -> None:
    """Run `python -m benchmarks.demos.demo.engines`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demos.demo.engines")
    parser.add_argument("--daemon", required=True, metavar="HOST:PORT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--recording", required=True, metavar=f"FILE.npz|{data.SAMPLE}")
    parser.add_argument("--cost", required=True, choices=built_in_costs())
    parser.add_argument("--labels", required=True, help="JSON list: each engine's label `domain`")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
