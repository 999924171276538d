"""Reading what engines recorded (docs/recording.md) and joining their halves of each request."""

from eldr_service.recordings.read import Recorded, read_recorded
from eldr_service.recordings.requests import Requests, join

__all__ = ["Recorded", "Requests", "join", "read_recorded"]
