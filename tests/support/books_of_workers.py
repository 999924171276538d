"""Workers of a random life: they join, drain, leave, flap, report late or as another life."""

from books import ANOTHER_LIFE, WORKERS
from books_of_requests import Requests
from contract_model import ModelWorker

from eldr_service.core.worker import LoadReport, WorkerRole, WorkerSpec, WorkerState


class Workers(Requests):
    """What workers and operators do to the fleet."""

    old_lives: list[int]

    def register(self) -> None:
        chance = self.chance
        spec = WorkerSpec(
            chance.choice(WORKERS),
            group=chance.choice(("", "", "g", "h")),
            labels={"zone": chance.choice("ab")},
            capacity_sequences=chance.randrange(2, 9),
            time_to_live=chance.choice(self.chances.time_to_live),
        )
        if chance.random() < 0.1:
            spec = WorkerSpec("prefill", WorkerRole.PREFILL, group=chance.choice(("", "g", "h")))
        self.join(spec, chance.choice((WorkerState.READY, WorkerState.READY, WorkerState.JOINING)))

    def join(self, spec: WorkerSpec, state: WorkerState) -> None:
        self.say(f"register {spec} {state.name}")
        life = self.driver.register(spec, state)
        if old := self.fleet.get(spec.worker_id):
            assert life > old.incarnation
            self.old_lives.append(old.incarnation)
            self.end_all_on(spec.worker_id)
        until = self.now + spec.time_to_live if spec.time_to_live else float("inf")
        self.fleet[spec.worker_id] = ModelWorker(
            spec, state.name, incarnation=life, alive_until=until
        )

    def drain(self) -> None:
        worker = self.chance.choice(WORKERS)
        self.say(f"drain {worker}")
        if worker not in self.fleet:
            return self.refused("NOT_FOUND", self.driver.drain, worker)
        assert self.driver.drain(worker) == self.booked(worker)
        self.fleet[worker].state = "DRAINING"
        return self.join(self.fleet[worker].spec, WorkerState.READY) if self.is_rare(0.6) else None

    def remove(self) -> None:
        worker = self.chance.choice(WORKERS)
        known = self.fleet.get(worker)
        this = known.incarnation if known else 1
        incarnation = self.chance.choice((0, this, ANOTHER_LIFE))
        self.say(f"remove {worker} life {incarnation}")
        if known is None or incarnation == ANOTHER_LIFE:
            return self.refused("NOT_FOUND", self.driver.remove, worker, incarnation)
        assert self.driver.remove(worker, incarnation) == self.end_all_on(worker)
        del self.fleet[worker]
        return self.join(known.spec, WorkerState.READY) if self.is_rare(0.7) else None

    def is_rare(self, share: float) -> bool:
        return self.chance.random() < share

    def report(self) -> None:
        chance = self.chance
        if not (here := [w for w in WORKERS if w in self.fleet]):
            return
        name = chance.choice(here)
        worker = self.fleet[name]
        mine = {(r, b.call.attempt): b for r, b in self.live.items() if b.worker == name}
        held = [key for key in mine if chance.random() < 0.8]
        strange = [("stranger", 0)] if chance.random() < 0.2 else []
        old = self.old_lives and chance.random() < 0.1
        life = self.old_lives[-1] if old else worker.incarnation
        number = worker.number + chance.choice((1, 1, 1, 2, 0, -1))
        state = chance.choice(("READY",) * 12 + ("JOINING", "DRAINING", "GONE"))
        report = LoadReport(
            life,
            max(0, number),
            held=(*held, *strange, *held[:1]),
            foreign_sequences=chance.choice((0, 0, 1)),
            active_experts=chance.uniform(2, 8),
            batch_size=chance.uniform(1, 4),
            step_seconds=chance.uniform(0.005, 0.02),
            state=WorkerState[state],
        )
        self.say(f"{name} reports {report}")
        accepted, unknown = self.driver.report(name, report)
        assert accepted == (life == worker.incarnation and report.number > worker.number)
        if not accepted:
            assert unknown == []
            return
        if state == "GONE":
            assert set(unknown) == set(report.held)
            self.end_all_on(name)
            self.old_lives.append(life)
            del self.fleet[name]
            return
        assert unknown == strange
        worker.number, worker.reported_at = report.number, self.now
        worker.foreign = report.foreign_sequences
        if worker.spec.time_to_live:
            worker.alive_until = self.now + worker.spec.time_to_live
        if state == "DRAINING" or (state == "READY" and worker.state == "JOINING"):
            worker.state = state
        for key, booking in mine.items():
            if key in held:
                booking.seen, booking.absences = True, 0
                booking.expires = self.now + self.lease_of(booking)
            elif booking.seen:
                booking.absences += 1
                if booking.absences == 2:
                    self.end(key[0], "again")
