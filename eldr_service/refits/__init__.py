"""Partitions follow the traffic: refitted, installed if better, rolled back if worse."""

from eldr_service.refits.refits import Refits
from eldr_service.refits.upkeep import RefitMode, RefitSettings

__all__ = ["RefitMode", "RefitSettings", "Refits"]
