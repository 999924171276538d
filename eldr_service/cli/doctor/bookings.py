"""How one model's bookings end."""

from eldr_service.cli.doctor.evidence import Evidence
from eldr_service.cli.doctor.finding import NO_METRICS, Result, fault, ok, unknown, warning
from eldr_service.cli.standing import Standing
from eldr_service.core.words import counted

NOTED, MUCH = 0.02, 0.5
"""Shares of ends by a lease that ran out."""
FEW = 10
"""Fewer ends than this prove nothing."""
FIX = (
    "let callers call Release when an answer ends, fails or is cancelled, and renew leases that"
    " answers outlive (lease_ttl, RenewLeases)"
)


def releases(seen: Evidence, of: Standing) -> Result:
    """Callers release; a booking whose lease must run out counts as load until then."""
    if seen.metrics is None:
        return NO_METRICS
    ends = seen.metrics.by("how", "eldr_bookings_ended_total", model=of.model)
    everything = sum(ends.values())
    if not everything:
        return unknown(f"no booking ended {seen.period}")
    what = f"of {counted(int(everything), 'booking')} that ended {seen.period}"
    ran_out = ends.get("EXPIRED", 0) / everything
    if ran_out >= NOTED:
        words = f"{ran_out:.0%} {what} expired: no caller released them within the lease"
        much = ran_out >= MUCH and everything >= FEW
        return fault(words, FIX) if much else warning(words, FIX)
    unlisted = ends.get("REPORTED_GONE", 0) / everything
    if unlisted >= MUCH and everything >= FEW:
        return warning(
            f"{unlisted:.0%} {what} were ended by a worker's report: no caller released them", FIX
        )
    return ok(f"{ends.get('RELEASED', 0) / everything:.0%} {what} were released")
