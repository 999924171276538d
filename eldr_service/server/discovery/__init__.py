"""Workers that do not register by themselves: a file, Kubernetes or DNS names them.

A source says which workers there are; a membership lets those that are new join, drains those that
are there no more, and removes them once their bookings are over.
"""

from eldr_service.server.discovery.discovery import Discovery
from eldr_service.server.discovery.source import Found, Key, Snapshot, Source, SourceError

__all__ = ["Discovery", "Found", "Key", "Snapshot", "Source", "SourceError"]
