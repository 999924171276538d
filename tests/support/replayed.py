"""Decision logs decided again by the recorded policies."""

from eldr_service.decision_log.reader import LogReader
from eldr_service.lab.replay.instead import Instead
from eldr_service.lab.replay.replay import Replay


def replayed(path):
    """All decisions of a log by model, and its exhausted reader."""
    reader, by_model = LogReader(path), {}
    for decided in Replay(Instead()).run(reader):
        by_model.setdefault(decided.model, []).append(decided)
    return by_model, reader


def changed(decisions):
    return [d for d in decisions if not d.logged == d.as_logged == d.followed]
