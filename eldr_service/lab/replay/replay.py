"""Replays a log's records, and decides again at each decision, in two ways."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eldr.v1 import decision_log_pb2 as pb

from eldr_service.core.decision import Reason
from eldr_service.core.errors import EldrError
from eldr_service.decision_log import from_records
from eldr_service.decision_log.reader import LogError
from eldr_service.lab.replay.figures import Figures
from eldr_service.lab.replay.instead import Instead
from eldr_service.lab.replay.replica import Choice, Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One decision.

    Attributes
    ----------
    model, request_id, attempt : the booking's identity
    logged : Choice
    as_logged : Choice
        In the state in which the logged decision was made.
    followed : Choice
        In the state that results from the policy's own earlier decisions.
    """

    model: str
    request_id: str
    attempt: int
    logged: Choice
    as_logged: Choice
    followed: Choice


@dataclass(slots=True)
class _Pair:
    as_logged: Replica
    followed: Replica
    policy: str

    @property
    def both(self) -> tuple[Replica, Replica]:
        return self.as_logged, self.followed


class Replay:
    """Decides a log again.

    Parameters
    ----------
    instead : Instead
        The policy and partition to use.
    model : str, optional
        Only this model.

    Attributes
    ----------
    figures : dict of model to Figures
        Results so far.
    models : set of str
        Models seen so far, with or without decisions.
    """

    def __init__(self, instead: Instead, model: str | None = None) -> None:
        self.figures: dict[str, Figures] = {}
        self.models: set[str] = set()
        self._instead, self._only = instead, model
        self._models: dict[int, _Pair] = {}
        self._report_limit = self._now = 0.0
        self._restoring = False

    def run(self, records: Iterable[pb.LogRecord]) -> Iterator[Decided]:
        """Replay records, as `LogReader` yields them.

        Raises
        ------
        FailedPreconditionError, InvalidArgumentError
            A policy cannot be created, or the policy or partition does not fit the log.
        LogError
            A record does not fit the earlier ones.
        """
        for number, record in enumerate(records, start=1):
            try:
                decided = self._take(record)
            except EldrError:
                raise
            except Exception as error:  # a damaged record may contain anything
                raise LogError(
                    f"record {number:,}, {record.WhichOneof('record')}, does not fit those before"
                    f" it ({error!r}): the log is damaged"
                ) from error
            if decided:
                yield decided

    def _take(self, record: pb.LogRecord) -> Decided | None:
        kind = record.WhichOneof("record")
        self._now = record.seconds or self._now
        if kind == "header":
            self._models.clear()
            self._report_limit = record.header.report_limit
            self._restoring = True
        elif kind == "snapshot_end":
            for restored in self._models.values():
                for replica in restored.both:
                    replica.restored()
            self._restoring = False
        elif kind == "appeared":
            self._appeared(record.appeared)
        elif pair := self._models.get(record.model):
            if kind == "placement":
                return self._decide(pair, record.placement)
            if self._restoring:
                _restore(pair, record)
            elif kind == "forgotten":
                del self._models[record.model]
            else:
                _follow(pair, record, self._now)
        return None

    def _appeared(self, message: pb.LogModel) -> None:
        self.models.add(message.name)
        if self._only in (None, message.name):
            limit = self._report_limit
            self._models[message.number] = _Pair(
                Replica(message, limit, self._instead, follow=False),
                Replica(message, limit, self._instead, follow=True),
                message.policy.name,
            )

    def _decide(self, pair: _Pair, message: pb.LogPlacement) -> Decided:
        now, model = self._now, pair.as_logged.model.name
        call, known = from_records.placement(message, model)
        old = Choice(pair.as_logged.worker_id(message.row), Reason(message.reason))
        new, followed = (replica.decide(call, known, message.row, now) for replica in pair.both)
        figures = self.figures.setdefault(model, Figures())
        figures.decided(old, new, followed)
        figures.policies[pair.policy] += 1
        figures.logged.saw(pair.as_logged.moment(now))
        figures.followed.saw(pair.followed.moment(now))
        return Decided(
            model=model,
            request_id=message.request_id,
            attempt=message.attempt,
            logged=old,
            as_logged=new,
            followed=followed,
        )


def _restore(pair: _Pair, record: pb.LogRecord) -> None:
    for replica in pair.both:
        match record.WhichOneof("record"):
            case "worker":
                replica.restore_worker(record.worker)
            case "policy_state":
                replica.restore_policy(record.policy_state)
            case "booking":
                replica.restore_booking(record.booking)


def _follow(pair: _Pair, record: pb.LogRecord, now: float) -> None:
    for replica in pair.both:
        match record.WhichOneof("record"):
            case "worker":
                replica.worker_joined(record.worker, now)
            case "move":
                replica.worker_moved(record.move, now)
            case "standing":
                replica.worker_stood(record.standing)
            case "report":
                replica.reported(record.report, now)
            case "completed":
                replica.completed(record.completed, now)
            case "running":
                replica.running(record.running)
            case "end":
                replica.ended(record.end, now)
            case "partition":
                replica.partition_activated(record.partition)
            case "policy":
                pair.policy = record.policy.name
                replica.policy_set(record.policy)
