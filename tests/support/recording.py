"""Observers and policies that record their calls."""

from collections import Counter


class Told:
    """An observer that records bookings' ends."""

    def __init__(self):
        self.ended_leases = Counter()
        self.dropped = []
        self.changes = []

    def ended(self, model, booking, how):
        self.ended_leases[booking.lease_id] += 1

    def signatures_dropped(self, number, why):
        self.dropped.append((number, why))

    def worker_changed(self, model, row, state):
        self.changes.append((row, state))


def recording(base):
    """A subclass of a policy that checks how its hooks are called; `wrong` lists violations."""

    class Recording(base):
        def __init__(self, parameters=None):
            super().__init__(parameters)
            self.alive = {}  # lease -> request
            self.begun = Counter()
            self.ended = Counter()
            self.wrong = []

        def on_booked(self, booking):
            super().on_booked(booking)
            if booking.request_id in self.alive.values():
                self.wrong.append(f"{booking.key} began before its earlier attempt ended")
            self.alive[booking.lease_id] = booking.request_id
            self.begun[booking.lease_id] += 1

        def on_ended(self, booking, ended):
            super().on_ended(booking, ended)
            if self.alive.pop(booking.lease_id, None) != booking.request_id:
                self.wrong.append(f"{booking.key} ended without having begun")
            self.ended[booking.lease_id] += 1

    return Recording
