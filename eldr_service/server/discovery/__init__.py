"""Finds workers that do not register by themselves: from a file, Kubernetes or DNS.

A source lists its workers; a membership lets new ones join, drains those that are no longer listed,
and removes them once their bookings are over.
"""

from eldr_service.server.discovery.discovery import Discovery
from eldr_service.server.discovery.source import Found, Key, Snapshot, Source, SourceError

__all__ = ["Discovery", "Found", "Key", "Snapshot", "Source", "SourceError"]
