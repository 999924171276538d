"""Signatures of one model's requests: captured by engines, complete, and there in time."""

from eldr.v1 import fleet_pb2 as pb

from eldr_service.cli.doctor.evidence import Evidence
from eldr_service.cli.doctor.finding import NO_METRICS, Result, fault, few, ok, unknown, warning
from eldr_service.cli.standing import Standing
from eldr_service.core.words import counted

MOST_UNKNOWN = 0.3
"""Share of prompt tokens whose experts are unknown; docs/metrics.md has the same as an alert."""
NOTED, MUCH = 0.05, 0.5
"""Shares of placements by load alone."""
FEW = 20
"""Fewer placements than this prove nothing."""
FAILED = "LEAST_LOADED_POLICY_ERROR"
LESSER = {
    "LEAST_LOADED_NO_SIGNATURE": (
        "had no signature",
        "see capture above; else raise the proxy's --signature-wait (wait_for_signature), and check"
        " that engine and proxy use the same request ids and model name",
    ),
    "LEAST_LOADED_LOW_COVERAGE": (
        "had a signature of less than half of the prompt",
        "prompts come from an offloaded or remote cache; locality-band:min_coverage sets the share"
        " that is needed",
    ),
    FAILED: (
        "met an error in the policy",
        "the daemon's log has the traceback: policy failed; eldr policy set locality-band",
    ),
}


def capture(seen: Evidence, of: Standing) -> Result:
    """Engines report which experts their prompts used."""
    told = [w for w in of.workers if w.HasField("capture")]
    said = [w for w in told if w.role == pb.WORKER_ROLE_PREFILL] or told
    stopped = [w for w in said if w.capture.state == pb.CAPTURE_STATE_STOPPED]
    probing = [w.worker_id for w in said if w.capture.state == pb.CAPTURE_STATE_PROBING]
    if not said:
        return ok("no engine reports capture: signatures, if any, come from elsewhere")
    if stopped:
        causes: dict[str, list[str]] = {}
        for worker in stopped:
            reason = " ".join(worker.capture.reason.split()) or "no reason was given"
            causes.setdefault(reason, []).append(worker.worker_id)
        words = "; ".join(f"no capture on {few(w)}: {why}" for why, w in causes.items())
        fix = "fix that and restart the engine; clients/vllm/README.md lists what is never captured"
        none = len(stopped) == len(said)
        return fault(f"{words}; all requests go by load", fix) if none else warning(words, fix)
    if probing:
        return warning(
            f"{few(probing)} still {'probes' if len(probing) == 1 else 'probe'} whether capture"
            " works: no signatures from there yet",
            "wait a minute and look again; if it stays so, does the engine answer at its own"
            " /health? The probe begins only then",
        )
    return ok(f"{counted(len(said), 'engine')} capture" + ("s" if len(said) == 1 else ""))


def coverage(seen: Evidence, of: Standing) -> Result:
    """The experts of most prompt tokens are known."""
    known = sum(w.capture.known_tokens for w in of.workers)
    tokens = known + sum(w.capture.unknown_tokens for w in of.workers)
    if not tokens:
        return unknown("no engine has reported a prompt yet")
    words = f"the experts of {100 * known // tokens}% of prompt tokens are known"
    if 1 - known / tokens > MOST_UNKNOWN:
        return warning(
            words,
            "the others come from a source that does not know them, such as an offloaded cache:"
            " eldr workers list shows which engine",
        )
    return ok(words)


def arriving(seen: Evidence, of: Standing) -> Result:
    """Placements had a signature, and the policy met no error."""
    if seen.metrics is None:
        return NO_METRICS
    reasons = seen.metrics.by("reason", PLACEMENTS, model=of.model)
    compares = by_signature(seen, of)
    lesser = {why: reasons.get(why, 0) for why in (LESSER if compares else (FAILED,))}
    worst = max(lesser, key=lambda why: lesser[why])
    if not (compares or lesser[worst]):
        return ok(f"{of.policy} places without signatures")
    placed = sum(reasons.values()) - reasons.get("PINNED", 0)
    if not placed:
        return unknown(f"nothing was placed {seen.period}", "send a request, or --watch 30")
    what = f"of {counted(int(placed), 'placement')} {seen.period}"
    share = lesser[worst] / placed
    why, fix = LESSER[worst]
    words = f"{share:.0%} {what} {why}: placed by load alone"
    if share >= MUCH and placed >= FEW:
        return fault(words, fix)
    if share >= NOTED:
        return warning(words, fix)
    if not compares:
        return ok(f"{of.policy} places without signatures")
    return ok(f"{1 - sum(lesser.values()) / placed:.0%} {what} had a signature")


PLACEMENTS = "eldr_placements_total"


def by_signature(seen: Evidence, of: Standing) -> bool:
    """The policy in force compares signatures."""
    policy = seen.policies.get(of.model)
    return policy is None or "min_coverage" in policy.parameters
