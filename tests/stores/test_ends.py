"""Ends are read back as long as each of them is to be remembered, not as long as their group."""

from eldr_service.stores.bookings import BookingStore, End
from eldr_service.stores.sqlite import SqliteStore


def test_an_end_that_is_over_does_not_come_back_with_its_group(tmp_path):
    with_clock = 1_000.0
    store = SqliteStore(tmp_path)
    ends = [End._make((0, "m", f"r{until}", 0, "RELEASED", "w", until)) for until in (5.0, 9.0)]
    BookingStore(store).write([], ends, with_clock)
    read = [end.request_id for end in BookingStore(store).ends(with_clock + 7.0)]
    store.close()
    assert read == ["r9.0"]
