"""PartitionService: fits, stores, activates and rolls back partitions."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc
import numpy as np
from eldr.v1 import partition_pb2 as pb
from eldr.v1 import partition_pb2_grpc
from numpy.typing import NDArray

from eldr_service.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from eldr_service.core.geometry import ModelGeometry
from eldr_service.core.partition import Partition
from eldr_service.core.signature import TRANSFORMS
from eldr_service.core.worker import WorkerRole
from eldr_service.fitting import fit_partition
from eldr_service.fitting.process import FittingProcess, FittingProcessError
from eldr_service.refits import RefitMode, Refits
from eldr_service.routing.model import Model
from eldr_service.routing.partitions import Partitions
from eldr_service.routing.router import Router
from eldr_service.server.rpc import reading, writing
from eldr_service.server.rpc.agreement import Agreed, at_once
from eldr_service.server.rpc.caller import CALLER, own
from eldr_service.server.rpc.telemetry import Telemetry
from eldr_service.server.rpc.unary import unary
from eldr_service.stores.partition_file import dump_partition, load_partition

MAX_SLOTS = 4_096
MAX_ITERATIONS = 1_000
MAX_STARTS = 100
MAX_COUNTS_BYTES = 1 << 30  # of one fit's signatures, unpacked


class PartitionService(partition_pb2_grpc.PartitionServiceServicer):
    """Reads messages, stores partitions, writes answers. Fits run in a separate process."""

    def __init__(
        self,
        router: Router,
        partitions: Partitions,
        refits: Refits,
        process: FittingProcess,
        telemetry: Telemetry,
        agreed: Agreed = at_once,
    ) -> None:
        self.telemetry = telemetry
        self._router = router
        self._partitions = partitions
        self._refits = refits
        self._process = process
        self._agreed = agreed

    @unary
    async def FitPartition(  # noqa: N802
        self, request: pb.FitPartitionRequest, context: grpc.aio.ServicerContext
    ) -> pb.FitPartitionResponse:
        """Fit a partition, beside the decisions."""
        model = self._router.model(reading.model_name(request))
        counts, number, geometry = self._counts(request)
        model.check_geometry(geometry)
        slots = request.num_slots or sum(
            model.fleet.spec(row).role is WorkerRole.DECODE for row in model.fleet.rows()
        )
        if not 1 <= slots <= MAX_SLOTS:
            raise InvalidArgumentError("num_slots", f"1 to {MAX_SLOTS}", slots)
        if request.transform not in ("", "auto", *TRANSFORMS):
            expected = f"one of auto, {', '.join(TRANSFORMS)}"
            raise InvalidArgumentError("transform", expected, request.transform)
        for field, most in (("max_iter", MAX_ITERATIONS), ("n_init", MAX_STARTS)):
            if getattr(request, field) > most:
                raise InvalidArgumentError(field, f"at most {most}", getattr(request, field))
        layers = list(request.layers)
        if layers != sorted(set(layers)) or layers[-1:] >= [geometry.num_layers]:
            expected = f"ascending numbers below {geometry.num_layers}"
            raise InvalidArgumentError("layers", expected, str(layers))
        if number < slots:
            raise FailedPreconditionError(f"{number} signatures are too few for {slots} slots")
        fit = functools.partial(
            fit_partition,
            model.name,
            geometry=geometry,
            n_clusters=slots,
            transform=request.transform or "auto",
            layers=layers or None,
            max_iter=request.max_iter or 50,
            n_init=request.n_init or 1,
            random_state=request.random_state,
        )
        try:
            partition = await self._process.run(fit, counts)
        except ValueError as error:
            raise InvalidArgumentError("request", "what can be fitted", str(error)) from error
        except FittingProcessError as error:
            raise ResourceExhaustedError(
                "the fitting process could not be started or was ended from outside, perhaps"
                f" because memory ran out: {error}",
                1.0,
            ) from error
        return pb.FitPartitionResponse(partition=await self._keep(partition, request.activate))

    @unary
    async def ImportPartition(  # noqa: N802
        self, request: pb.ImportPartitionRequest, context: grpc.aio.ServicerContext
    ) -> pb.ImportPartitionResponse:
        """Import a partition."""
        reading.listed_model(request)
        partition = load_partition(request.data)
        if request.model:
            partition = replace(partition, model=request.model)
        own(reading.text("data.model", partition.model, reading.MAX_MODEL, required=True))
        return pb.ImportPartitionResponse(partition=await self._keep(partition, request.activate))

    @unary
    async def ExportPartition(  # noqa: N802
        self, request: pb.ExportPartitionRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExportPartitionResponse:
        """Export a partition."""
        partition = self._partitions.get(reading.model_name(request), request.version)
        return pb.ExportPartitionResponse(
            data=dump_partition(partition), partition=self._info(partition)
        )

    @unary
    async def ListPartitions(  # noqa: N802
        self, request: pb.ListPartitionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListPartitionsResponse:
        """Answer with the stored partitions."""
        name, may_touch = reading.listed_model(request), CALLER.get().may_touch
        named = [self._router.model(name)] if name else None
        models = named or [m for name, m in sorted(self._router.models.items()) if may_touch(name)]
        kept = [p for p in self._partitions.all(name) if may_touch(p.model)]
        return pb.ListPartitionsResponse(
            partitions=map(self._info, kept),
            refits=map(self._refit_status, models),
        )

    @unary
    async def ActivatePartition(  # noqa: N802
        self, request: pb.ActivatePartitionRequest, context: grpc.aio.ServicerContext
    ) -> pb.ActivatePartitionResponse:
        """Use a version from the next decision on."""
        model = reading.model_name(request)
        if not request.version:
            raise InvalidArgumentError("version", "the number of a partition, from 1", 0)
        async with self._agreed(model):
            partition = self._partitions.activate(model, request.version)
        return pb.ActivatePartitionResponse(partition=self._info(partition))

    @unary
    async def RollbackPartition(  # noqa: N802
        self, request: pb.RollbackPartitionRequest, context: grpc.aio.ServicerContext
    ) -> pb.RollbackPartitionResponse:
        """Go back to the previous version."""
        model = reading.model_name(request)
        async with self._agreed(model):
            partition = self._partitions.rollback(model)
        return pb.RollbackPartitionResponse(partition=self._info(partition))

    @unary
    async def SetRefit(  # noqa: N802
        self, request: pb.SetRefitRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetRefitResponse:
        """Set whether a model is refitted automatically."""
        model = self._router.model(reading.model_name(request))
        mode = reading.choice("mode", RefitMode, request.mode) if request.mode else None
        async with self._agreed(model.name):
            self._refits.set_mode(model, mode)
        return pb.SetRefitResponse(refit=self._refit_status(model))

    async def _keep(self, partition: Partition, activate: bool) -> pb.PartitionInfo:
        async with self._agreed(partition.model):
            kept = self._partitions.add(partition)
            if activate:
                kept = self._partitions.activate(kept.model, kept.version)
        return self._info(kept)

    def _counts(
        self, request: pb.FitPartitionRequest
    ) -> tuple[Callable[[], Sequence[NDArray[np.integer]]], int, ModelGeometry]:
        """The signatures to fit on, sent along or recent; their number and geometry."""
        model = self._router.model(request.model)
        if not request.counts:
            if model.geometry is None or not len(model.recent):
                raise FailedPreconditionError(f"model {model.name} has placed no signature yet")
            return model.recent.runs, len(model.recent), model.geometry
        with reading.inside("counts[0]"):
            geometry = reading.geometry(request.counts[0])
        most = MAX_COUNTS_BYTES // (geometry.size * 4)  # sparse ones unpack a thousandfold
        if len(request.counts) > most:
            raise InvalidArgumentError(
                "counts", f"at most {most} signatures of {geometry}", len(request.counts)
            )
        sent = np.empty((len(request.counts), geometry.num_layers, geometry.num_experts), np.uint32)
        for place, message in enumerate(request.counts):
            counts = reading.activation_counts(f"counts[{place}]", message)
            if counts.geometry != geometry or not counts.whole:
                raise InvalidArgumentError(
                    f"counts[{place}]", f"all layers of {geometry}", str(counts.geometry)
                )
            sent[place] = counts.counts
        return lambda: [sent], len(sent), geometry

    def _info(self, partition: Partition) -> pb.PartitionInfo:
        return writing.partition_info(partition, self._router.model(partition.model))

    def _refit_status(self, model: Model) -> pb.RefitStatus:
        return writing.refit_status(model, self._refits.status(model))
