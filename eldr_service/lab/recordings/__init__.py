"""Recorded routing: `.npz` files, and what engines recorded (docs/recording.md), by request."""

from eldr_service.lab.recordings.engine_files import EngineFiles, read_engine_files
from eldr_service.lab.recordings.joined import Joined, join
from eldr_service.lab.recordings.recording import Recording

__all__ = ["EngineFiles", "Joined", "Recording", "join", "read_engine_files"]
