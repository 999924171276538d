"""A worker that was drained for a while is, afterwards, what it was before; in the log too."""

import pytest
from fleet_states import become, discovering, fleet_file
from replayed import changed, replayed
from small_daemon import SmallDaemon
from wire import counts, drawn

from eldr_service.core.worker import WorkerState


def test_it_gets_back_its_slot_and_keeps_its_bookings():
    daemon = SmallDaemon()
    daemon.join("a", "b")
    daemon.activate(slots=2)
    model = daemon.model
    row = model.fleet.row("a")
    slot = model.bindings.slot_of[row]
    daemon.route("r", 0, pinned_worker="a")
    model.drain(row)
    assert row not in model.bindings.slot_of
    model.resume(row)
    assert model.fleet.state(row) is WorkerState.READY
    assert model.bindings.slot_of[row] == slot
    assert model.fleet.booked(row) == 1
    version = model.bindings.version
    model.resume(row)  # nothing to do
    assert model.bindings.version == version


@pytest.mark.parametrize("policy", ["locality-band", "marginal-cost"])
def test_a_replay_has_it_again_too(tmp_path, policy):
    path, log = tmp_path / "fleet.toml", tmp_path / "log"
    path.write_text(fleet_file("a", "b", "c"))
    flags = "--fleet", str(path), "--decision-log", str(log), "--policy", policy
    with discovering(*flags, "--refit", "off") as (_, client):
        client.fit("m", kinds=3)
        placed = []

        def route(number: int) -> None:
            request = f"r{len(placed)}"
            if len(placed) >= 12:  # capacity is 9 each
                client.release("m", f"r{len(placed) - 12}")
            placed.append(client.route("m", request, counts=counts(drawn(number % 3, number))))

        for number in range(12):
            route(number)
        path.write_text(fleet_file("a", "b"))
        become(client, {"a": "READY", "b": "READY", "c": "DRAINING"})
        for number in range(12):
            route(number)
        path.write_text(fleet_file("a", "b", "c"))
        become(client, {"a": "READY", "b": "READY", "c": "READY"})
        for number in range(24):
            route(number)
    again = {placement.worker_id for placement in placed[24:]}
    assert "c" in again
    by_model, _ = replayed(log)
    assert len(by_model["m"]) == len(placed)
    assert not changed(by_model["m"])
