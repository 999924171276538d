"""One model's partition: there is one, its workers are bound to it, and it fits the traffic."""

import time

from eldr.v1 import partition_pb2 as pb

from eldr_service.cli.doctor.evidence import Evidence
from eldr_service.cli.doctor.finding import NO_METRICS, Result, fault, few, ok, unknown, warning
from eldr_service.cli.doctor.signatures import PLACEMENTS, by_signature
from eldr_service.cli.standing import Standing
from eldr_service.cli.tables import span
from eldr_service.core.words import counted

MUCH_DRIFT = 1.3
FEW = 64
"""Drift over fewer signatures than this proves nothing."""
OLD_SECONDS = 30 * 86_400.0


def fitted(seen: Evidence, of: Standing) -> Result:
    """There is one."""
    partition, refit = of.partition, of.refit
    if partition:
        layers = len(partition.layers) or partition.geometry.num_layers
        shape = partition.geometry
        return ok(
            f"version {partition.version}, {counted(partition.num_slots, 'slot')}, {layers} of"
            f" {shape.num_layers} layers x {shape.num_experts} experts, top_k {shape.top_k}"
        )
    if not by_signature(seen, of):
        return ok(f"none, and {of.policy} needs none")
    kept = refit.window_signatures if refit else 0
    if refit and refit.mode == pb.REFIT_MODE_AUTO:
        why = (
            f"{counted(kept, 'signature')} so far, about 32 per worker are needed"
            if kept
            else "no signature has come to fit on"
        )
        words = f"none yet: requests go by load; {why}"
        if len(of.decode) < 2:
            return ok("none, and with one decode worker there is nothing to choose")
        fix = f"wait, or eldr fit FILE.npz --import --activate {of.option}"
        if not kept and seen.metrics and seen.metrics.total(PLACEMENTS, model=of.model):
            return fault(words, "see signatures above first")
        return warning(words, fix)
    return fault(
        "none, and none will be fitted automatically: requests go by load",
        f"eldr partition refit auto {of.option}, or eldr fit --activate {of.option}",
    )


def bound(seen: Evidence, of: Standing) -> Result:
    """Each slot has a worker."""
    if of.partition is None:
        return unknown("no partition")
    bindings = of.partition.bindings
    vacant = [str(b.slot) for b in bindings if not b.worker_ids]
    if vacant:
        return warning(
            f"no worker has slot {few(vacant)}: its requests go to workers of other slots",
            "bring the missing worker back, or fit for the workers that are left:"
            f" eldr fit --activate {of.option} --slots {max(1, len(of.ready))}",
        )
    workers = sum(len(b.worker_ids) for b in bindings)
    return ok(f"{counted(len(bindings), 'slot')}, {counted(workers, 'worker')}: none is vacant")


def fresh(seen: Evidence, of: Standing) -> Result:
    """It fits the current traffic."""
    partition, refit = of.partition, of.refit
    if partition is None or refit is None:
        return unknown("no partition")
    age = time.time() - partition.create_time.ToNanoseconds() / 1e9
    automatic = refit.mode == pb.REFIT_MODE_AUTO
    by_hand = f"eldr fit --activate {of.option}"
    if not automatic:
        by_hand += f", or eldr partition refit auto {of.option}"
    if refit.drift > MUCH_DRIFT and refit.window_signatures >= FEW:
        words = f"traffic is {refit.drift:.1f} times as far from it as at its fit, {span(age)} ago"
        held = refit.held.ToNanoseconds() / 1e9
        later = f"; refits begin again in {span(held)}" if automatic and held else ""
        alone = automatic and not held
        return warning(words + later, "wait: the daemon refits it" if alone else by_hand)
    if age > OLD_SECONDS and not automatic:
        return warning(f"it is {span(age)} old, and is not refitted automatically", by_hand)
    drift = f", drift {refit.drift:.2f}" if refit.drift else ""
    return ok(f"fitted {span(max(0.0, age))} ago{drift}")


def refits(seen: Evidence, of: Standing) -> Result:
    """Refits succeed."""
    if seen.metrics is None or of.refit is None:
        return NO_METRICS
    outcomes = seen.metrics.by("outcome", REFITS, model=of.model)
    done = ", ".join(f"{int(n)} {name.replace('_', ' ')}" for name, n in sorted(outcomes.items()))
    last = of.refit.last_outcome if of.refit.mode == pb.REFIT_MODE_AUTO else ""
    if last.endswith(": failed"):
        return warning(
            f"the last one failed, so no partition follows the traffic; {seen.period}: {done}",
            "the daemon's log says why (refit failed); does it lack memory or disk space? It tries"
            f" again later, or at once with eldr fit --activate {of.option}",
        )
    if last.startswith("rolled back"):
        return warning(
            f"the last one was {last}; {seen.period}: {done}",
            "nothing: the partition before is in force; if it happens repeatedly:"
            f" eldr partition refit manual {of.option}",
        )
    mode = pb.RefitMode.Name(of.refit.mode).removeprefix("REFIT_MODE_").lower()
    return ok(f"{mode}; {done or 'none'} {seen.period}")


REFITS = "eldr_refits_total"
