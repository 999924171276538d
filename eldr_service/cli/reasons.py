"""Why a placement is what it is, in words, and what would make it better."""

from eldr.v1 import router_pb2 as pb

LESSER = {
    pb.PLACEMENT_REASON_LEAST_LOADED_NO_SIGNATURE: "the request has no signature; --counts gives"
    " one, or the --request-id of one that the daemon holds",
    pb.PLACEMENT_REASON_LEAST_LOADED_LOW_COVERAGE: "too few of the prompt's tokens have known"
    " experts ({coverage:.0%})",
    pb.PLACEMENT_REASON_LEAST_LOADED_NO_PARTITION: "{model} has no partition; eldr fit --import"
    " --activate makes one",
    pb.PLACEMENT_REASON_LEAST_LOADED_POLICY_ERROR: "the policy failed; its"
    " error is in the daemon's log",
}


def in_words(model: str, placement: pb.Placement) -> str:
    """One sentence on why this worker was taken."""
    worker = placement.worker_id
    if placement.reason == pb.PLACEMENT_REASON_LOCALITY_BAND:
        return f"{worker} is {_in_band(placement)}"
    if placement.reason == pb.PLACEMENT_REASON_PINNED:
        return f"{worker} is pinned"
    lesser = LESSER.get(placement.reason)
    if lesser is None:
        return f"{worker} is the choice of the policy {placement.policy}"
    return f"{worker} is the least loaded: " + lesser.format(
        model=model, coverage=placement.coverage
    )


def _in_band(placement: pb.Placement) -> str:
    band = [score.similarity for score in placement.scores if score.in_band]
    if len(band) < 2:
        return "the most similar: no other is in the locality band"
    return (
        f"the least loaded of the {len(band)} workers in the locality band"
        f" (similarity {min(band):.4f} to {max(band):.4f})"
    )
