"""Everything that can happen to models, several at once, over a real socket."""

import asyncio
import itertools
import random

import grpc
import numpy as np
from eldr.v1 import fleet_pb2, partition_pb2, policy_pb2, router_pb2
from google.protobuf.duration_pb2 import Duration
from wire import Client, counts, drawn

LAYERS, EXPERTS, TOP_K = 8, 32, 2
IN_FLIGHT = 12
MODELS = {
    "round-robin": "round-robin",
    "random": "random:seed=3",
    "jsq": "join-shortest-queue:load=tokens,seed=5",
    "p2c": "power-of-two-choices:load=kv",
    "locality": "locality:min_coverage=0.2",
    "band": "locality-band:tau=0.05",
    "marginal": "marginal-cost:token_transfer_us=100",
    "oracle": "domain-oracle",
    "switched": "random",
}


def drawn_counts(kind, seed, tokens=30):
    array = drawn(kind, seed, tokens, LAYERS, EXPERTS, TOP_K)
    return counts(array, num_layers=LAYERS)


class Traffic:
    """Drives a daemon that does not know any of `MODELS` yet."""

    def __init__(self, address, requests=160):
        self._requests = requests
        self._address = address
        self._answers = {}
        self._reports = itertools.count(1)

    async def run(self):
        with Client(self._address) as client:
            for model in MODELS:
                for number in range(4):
                    self._register(client, model, number)
                self._set_policy(client, model, MODELS[model])
        self._client = Client(self._address, asynchronous=True)
        try:
            await asyncio.gather(*(self._drive(model, i) for i, model in enumerate(MODELS)))
        finally:
            await self._client.channel.close()
        return self._answers

    def _register(self, client, model, number):
        request = self._registration(model, number)
        client.fleet.RegisterWorker(request)

    def _registration(self, model, number):
        request = fleet_pb2.RegisterWorkerRequest(
            model=model, worker_id=f"w{number}", url="http://w",
            labels={"domain": f"{number % 3}", "zone": "ab"[number % 2]},
        )  # fmt: skip
        request.capacity.sequences = 4 + number
        request.capacity.kv_tokens = 10_000
        return request

    def _set_policy(self, client, model, policy):
        name, _, rest = policy.partition(":")
        parameters = dict(pair.split("=") for pair in rest.split(",") if pair)
        return client.policy.SetPolicy(
            policy_pb2.SetPolicyRequest(model=model, name=name, parameters=parameters)
        )

    async def _drive(self, model, seed):
        """Drive concurrent requests; between them, the fleet and the partition change."""
        chance = random.Random(seed)
        numbers = iter(range(self._requests))
        held = {}  # what the workers report, not always correctly
        if model == "band":  # the others have none at first
            await self._install(model, 2)

        async def one_after_another():
            for number in numbers:
                await self._request(model, number, chance, held)
                if number % 20 == 0:
                    await self._change(model, number // 20, chance, held)

        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))

    async def _request(self, model, number, chance, held):
        request_id = f"{model}-{number}"
        kind = chance.randrange(4)
        fields = {"labels": {"domain": str(kind % 3)}, "prompt_tokens": chance.randrange(200)}
        signature = drawn_counts(kind, number, chance.choice((10, 30, 3_000)))
        if chance.random() < 0.1:
            signature.unknown_tokens = 60  # too little is known
        rest = None
        if chance.random() < 0.3:
            last = chance.random() < 0.8  # else it is only a part
            await self._client.router.RegisterSignature(
                router_pb2.RegisterSignatureRequest(
                    model=model, request_id=request_id, counts=signature, last=last,
                    prompt_tokens=100 if last else 0,
                )
            )  # fmt: skip
            if not last and chance.random() < 0.7:  # the rest comes after the placement
                rest = router_pb2.RegisterSignatureRequest(
                    model=model, request_id=request_id, sequence=1, last=True,
                    counts=drawn_counts((kind + 1) % 4, number, 300),
                )  # fmt: skip
        elif chance.random() < 0.9:
            fields["counts"] = signature
        if chance.random() < 0.5:
            fields["session"] = str(kind)  # predicts the experts of requests without counts
        if chance.random() < 0.1:
            fields["worker_selector"] = {"zone": "a"}
        if chance.random() < 0.1:
            fields["exclude_workers"] = ["w1"]
        if chance.random() < 0.05:
            fields["pinned_worker"] = "w2"
        if chance.random() < 0.05:
            fields["lease_ttl"] = Duration(seconds=1)  # and never released
        if chance.random() < 0.5:
            of = 1_000 * chance.randrange(6)
            fields["prefix_hashes"] = range(of, of + chance.randrange(16))
        if chance.random() < 0.1:
            fields["cached_tokens"] = {"w1": 100, "w9": 100}
        fields["num_sequences"] = chance.choice((1, 1, 2))
        fields["expected_output_tokens"] = chance.choice((0, 50))
        await self._route(model, request_id, 0, fields)
        if rest:
            await self._client.router.RegisterSignature(rest)
        await asyncio.sleep(chance.random() * 0.05)
        if chance.random() < 0.1:  # it failed, and is retried without a release
            await self._route(model, request_id, 1, fields)
        if "lease_ttl" in fields:
            return
        attempt = int((model, request_id, 1) in self._answers)
        if worker := self._answers.get((model, request_id, attempt)):
            held.setdefault(worker, []).append((request_id, attempt))
        await asyncio.sleep(chance.random() * 0.1)
        release = router_pb2.ReleaseRequest(
            model=model, request_id=request_id,
            attempt=attempt, output_tokens=chance.randrange(1, 99),
        )  # fmt: skip
        if chance.random() < 0.5:
            release.decode_counts.CopyFrom(drawn_counts(kind, number + 1_000, 20))
        await self._client.router.Release(release)

    async def _route(self, model, request_id, attempt, fields):
        request = router_pb2.RouteRequest(
            model=model, request_id=request_id, attempt=attempt, **fields
        )
        try:
            placement = (await self._client.router.Route(request)).placement
        except grpc.RpcError as error:
            assert error.code().name in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")  # noqa: PT017
        else:
            self._answers[model, request_id, attempt] = placement.worker_id

    async def _change(self, model, step, chance, held):
        """Change the fleet or partition while requests run."""
        fleet = self._client.fleet
        try:
            match step % 6:
                case 0:
                    await fleet.RegisterWorker(self._registration(model, 4 + step % 3))
                case 1:
                    await fleet.DrainWorker(
                        fleet_pb2.DrainWorkerRequest(model=model, worker_id="w1")
                    )
                case 2:
                    await self._install(model, step)
                case 3:
                    await fleet.RegisterWorker(self._registration(model, 1))  # a new life
                case 4:
                    await fleet.RemoveWorker(
                        fleet_pb2.RemoveWorkerRequest(model=model, worker_id="w0")
                    )
                case 5:
                    await fleet.RegisterWorker(self._registration(model, 0))
                    if model == "switched":
                        # It continues with what it had learned before.
                        for policy in ("random", "marginal-cost:tail=0.3"):
                            await self._set_policy(self._client, model, policy)
        except grpc.RpcError as error:
            assert error.code().name == "NOT_FOUND"  # noqa: PT017 - it was removed before
        await self._report(model, chance, held)

    async def _install(self, model, step):
        request = partition_pb2.FitPartitionRequest(
            model=model, num_slots=3, activate=True, transform=("counts", "sqrt")[step % 4 // 2],
            counts=[drawn_counts(kind, 10_000 + step + i) for kind in range(4) for i in range(3)],
        )  # fmt: skip
        await self._client.partition.FitPartition(request)

    async def _report(self, model, chance, held):
        listed = await self._client.fleet.ListWorkers(fleet_pb2.ListWorkersRequest(model=model))
        for worker in listed.workers:
            steps = np.array([chance.uniform(2, 9), chance.uniform(1, 4)])
            report = fleet_pb2.ReportLoadRequest(
                model=model, worker_id=worker.worker_id, incarnation=worker.incarnation,
                report_number=next(self._reports), kv_tokens_used=chance.randrange(9_000),
                kv_tokens_total=10_000, foreign_sequences=chance.randrange(3),
                active_experts=steps[0], batch_size=steps[1], step_active_experts=steps[0] - 0.5,
            )  # fmt: skip
            report.step_time.FromNanoseconds(int(steps @ (2e5, 1e5)))
            for request_id, attempt in held.get(worker.worker_id, ())[-4:]:
                report.held.add(request_id=request_id, attempt=attempt)
            await self._client.fleet.ReportLoad(report)
