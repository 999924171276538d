"""A random life on several replicas, and how their answers may differ from one daemon's.

What a caller was told holds at once, whichever replica is asked next: repeats, releases, renewals,
refusals. A view that is a few milliseconds old may choose another worker among those that can take
the request, and know less of the request's past: the worker of its last attempt, and that its
signature was dropped. Operations that count what is in the view (a drain, a removal, a report) wait
until all are in step.
"""

from books_over_replicas import OverReplicas
from contract_model import ModelPast
from life import Life

from eldr_service.core.worker import LoadReport, WorkerState

OF_REDIS = 0.3  # share of restarts that restart Redis, not a replica
IN_STEP = 0.15  # share of operations before which all replicas are brought in step


class LifeOfReplicas(Life):
    """One life; `knows_all` tells when the answer must be the same as one daemon's."""

    driver: OverReplicas

    def __init__(self, driver: OverReplicas, seed: int) -> None:
        self.behind: set[str] = set()  # requests and operations since all were in step
        self.let_go = False  # a release was among them
        self.losses = 0
        super().__init__(driver, seed)

    def run(self, operations: int, check_every: int = 25) -> None:
        try:
            super().run(operations, check_every)
        except BaseException as error:
            error.add_note(f"fleet {self.fleet}\nlive {self.live}")
            for view in self.driver.views():
                error.add_note(f"a replica says {view.sums()}")
            raise

    def settle(self) -> None:
        super().settle()
        if self.chance.random() < IN_STEP:
            self.in_step()

    def in_step(self) -> None:
        self.driver.in_step()
        self.behind.clear()
        self.let_go = False

    def knows_all(self, request_id: str = "") -> bool:
        return request_id not in self.behind if request_id else not self.behind

    def say(self, what: str) -> None:
        super().say(what)
        kind, name, *_ = f"{what} -".split()
        self.let_go |= kind == "release"
        self.behind.add(name if kind in ("release", "signature") else kind)

    def send(self, call) -> None:
        super().send(call)
        self.behind.add(call.request_id)

    def signature(self) -> None:
        if self.let_go:
            self.in_step()  # or a replica may hold a signature that a release has dropped
        super().signature()

    def drain(self) -> None:
        self.in_step()
        super().drain()

    def remove(self) -> None:
        self.in_step()
        super().remove()

    def report(self) -> None:
        self.in_step()
        super().report()
        self.in_step()

    def restart(self) -> None:
        if self.is_rare(OF_REDIS):
            self.lose_redis()
        else:
            self.kill()

    def lose_redis(self) -> None:
        """Lose the store: replicas still have everything except signatures, and agree again."""
        self.in_step()
        for request_id in list(self.held):
            self.let_signature_go(request_id)
        self.say("Redis is killed, and empty afterwards")
        self.losses += 1
        self.driver.lose_redis()
        self.renew(everything=True)
        self.check()

    def let_signature_go(self, request_id: str) -> None:
        """Release a request, placed or not yet."""
        booking = self.live.get(request_id)
        past = self.past.get(request_id, ModelPast()).attempts
        attempt = booking.call.attempt if booking else max(past, default=-1) + 1
        said = self.driver.release(request_id, attempt, "")
        assert said == ("RELEASED" if booking else "UNKNOWN")
        if booking:
            self.end(request_id, "final")
        else:
            self.remember(request_id, attempt, "early")
        del self.held[request_id]

    def kill(self) -> None:
        """Kill one of three: the others know all it answered, and so does it once restarted."""
        self.say("kill")
        self.restarts += 1
        self.driver.restart()
        self.now = self.driver.now()
        self.renew(everything=True)  # none may be gone
        self.in_step()
        for name in self.fleet:
            self.hold_all(name)
        self.in_step()
        self.check()

    def hold_all(self, name: str) -> None:
        """Report all that a worker has, so that all agree on its report number and absences."""
        worker = self.fleet[name]
        mine = {(r, b.call.attempt): b for r, b in self.live.items() if b.worker == name}
        worker.number, worker.foreign = worker.number + 1, 0
        state = WorkerState[worker.state]
        report = LoadReport(worker.incarnation, worker.number, held=tuple(mine), state=state)
        assert self.driver.report(name, report) == (True, [])
        for booking in mine.values():
            booking.seen, booking.absences = True, 0
            booking.expires = self.now + self.lease_of(booking)

    def check(self) -> None:
        self.in_step()
        several = self.driver
        try:
            for view in several.views():
                self.driver = view
                super().check()
        finally:
            self.driver = several
