"""Policies: what picks a worker. One file a policy; see README.md for the table of all.

What an added policy needs is here; which policies are installed is `registry`'s business.
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
