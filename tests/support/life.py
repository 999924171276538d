"""A random life of one model, run on any driver and compared with the contract in plain dicts."""

import random
from collections import deque

from books import BY_SIGNATURE, LOAD_ONLY, PARTITIONS, SIGNATURE_SECONDS, WORKERS, Driver
from books_of_workers import Workers

from eldr_service.core.worker import WorkerRole, WorkerSpec, WorkerState

TRACE = 40  # operations that a failure shows


class Life(Workers):
    """One life, determined by its seed: `run(n)` executes and checks the next n operations."""

    def __init__(self, driver: Driver, seed: int) -> None:
        chances = driver.chances
        super().__init__(driver.now(), chances.report_limit)
        self.driver, self.chances, self.chance = driver, chances, random.Random(seed)
        self.seed, self.done, self.restarts = seed, 0, 0
        self.trace = deque(maxlen=TRACE)
        self.old_lives, self.policy, self.active = [], "", 0
        self.set_policy()
        for worker in WORKERS[:3]:
            self.join(WorkerSpec(worker, capacity_sequences=6, group="g"), WorkerState.READY)
        self.join(WorkerSpec("prefill", WorkerRole.PREFILL, group="g"), WorkerState.READY)

    def run(self, operations: int, check_every: int = 25) -> None:
        kinds = {
            self.route_new: 28, self.route_again: 14, self.release: 26, self.renew: 5,
            self.report: 8, self.signature: 8, self.pass_time: 4, self.register: 2, self.drain: 1,
            self.remove: 1, self.set_policy: 0.4, self.activate: 0.6,
            self.restart: 100 * chances.restart if (chances := self.chances).restart else 0,
        }  # fmt: skip
        drawn = self.chance.choices(list(kinds), list(kinds.values()), k=operations)
        try:
            for number, operation in enumerate(drawn, start=1):
                self.settle()
                operation()
                self.done += 1
                if number % check_every == 0 or number == operations:
                    self.settle()
                    self.check()
        except BaseException as error:
            said = "\n".join(self.trace)
            error.add_note(f"seed {self.seed}, after {self.done} operations, the latest:\n{said}")
            raise

    # Time

    def settle(self) -> None:
        """Advance the clock past any time at which the answer would depend on the server asked."""
        self.now, margin = self.driver.now(), self.chances.margin
        ends = [b.expires for b in self.live.values()]
        ends += [w.alive_until for w in self.fleet.values()]
        ends += [past.until for past in self.past.values()] if margin else []
        while margin and (near := [e for e in ends if -margin < e - self.now < margin]):
            self.driver.pass_time(max(near) - self.now + margin)
            self.now = self.driver.now()
        self.expire()
        if margin:
            self.time_passed()

    def pass_time(self) -> None:
        seconds = self.chance.choice(self.chances.steps)
        self.say(f"{seconds} s pass")
        self.driver.pass_time(seconds)
        self.now = self.driver.now()
        self.expire()
        self.time_passed()

    def time_passed(self) -> None:
        """Apply what a server's ticks would have noticed."""
        for name in [n for n, w in self.fleet.items() if w.alive_until <= self.now]:
            self.end_all_on(name)
            del self.fleet[name]
        self.forget()
        for request_id in [
            r for r, (_, _, touched) in self.held.items()
            if touched + SIGNATURE_SECONDS <= self.now
        ]:  # fmt: skip
            del self.held[request_id]

    # Policy, partition, restart

    def set_policy(self) -> None:
        self.policy = self.chance.choice(LOAD_ONLY + BY_SIGNATURE + ("marginal-cost",))
        self.say(f"policy {self.policy}")
        self.driver.set_policy(self.policy)

    def activate(self) -> None:
        self.active = self.chance.randrange(1, PARTITIONS + 1)
        self.say(f"activate {self.active}")
        self.driver.activate(self.active)

    def restart(self) -> None:
        """Crash between two answers: all that was acknowledged survives."""
        self.say("restart")
        self.restarts += 1
        self.driver.restart()
        self.now = self.driver.now()
        for worker in self.fleet.values():
            worker.number, worker.foreign, worker.reported_at = -1, 0, -1e9
            if worker.spec.time_to_live:
                worker.alive_until = self.now + worker.spec.time_to_live
        for booking in self.live.values():
            booking.absences = 0
        for past in self.past.values():
            for attempt in [a for a, until in past.own_until.items() if until <= self.now]:
                del past.attempts[attempt], past.own_until[attempt]
        self.held.clear()
        self.renew(everything=True)  # none may be gone
        self.check()

    # Invariants

    def check(self) -> None:
        said = self.driver.sums()
        assert set(said) == set(self.fleet)
        for name, worker in self.fleet.items():
            sums = said[name]
            assert (sums.state, sums.incarnation) == (worker.state, worker.incarnation), name
            assert sums.sequences == self.booked(name) >= 0, name
            assert sums.tokens in (-1, self.tokens(name)), name
            if worker.spec.role is WorkerRole.DECODE:
                assert abs(sums.load - self.load(name)) < 1e-9, name
        self.driver.check({r: (b.call.attempt, b.worker, b.lease_id) for r, b in self.live.items()})
