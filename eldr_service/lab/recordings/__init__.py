"""Recorded routing: `.npz` files, and what engines recorded (docs/recording.md), by request."""

from eldr_service.lab.recordings.read import Recorded, read_recorded
from eldr_service.lab.recordings.recording import Recording
from eldr_service.lab.recordings.requests import Requests, join

__all__ = ["Recorded", "Recording", "Requests", "join", "read_recorded"]
