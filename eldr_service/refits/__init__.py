"""Partitions follow the traffic: refitted, installed when better, taken back when worse."""

from eldr_service.refits.refits import Refits
from eldr_service.refits.upkeep import RefitMode, RefitSettings

__all__ = ["RefitMode", "RefitSettings", "Refits"]
