"""Policies pick a worker. One file per policy; README.md has a table of all.

Everything that a new policy needs is here; `registry` finds the installed ones.
"""

from eldr_service.core.booking import Booking
from eldr_service.core.decision import Decision, FleetSnapshot, Reason, RequestView
from eldr_service.core.ends import Ended
from eldr_service.policies.policy import (
    Policy,
    PolicyParameters,
    SeededParameters,
    SignatureParameters,
)
from eldr_service.policies.state import PolicyState

__all__ = [
    "Booking",
    "Decision",
    "Ended",
    "FleetSnapshot",
    "Policy",
    "PolicyParameters",
    "PolicyState",
    "Reason",
    "RequestView",
    "SeededParameters",
    "SignatureParameters",
]
