"""Logs on stderr: for people, or as one JSON object per line."""

import io
import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from eldr_service.core.escaping import escaped


def _as_json_escapes(logger: object, name: str, line: Any) -> str:
    """Escape, as in JSON, what JSON allows unescaped: C1 controls, bidi and the like."""
    return escaped(line, write=lambda character: json.dumps(character)[1:-1])


def _without_controls(logger: object, name: str, event: EventDict) -> EventDict:
    """Escape what foreign ids and errors could do to a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escaped(value)
    return event


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    stream.write(escaped(plain.getvalue(), keep="\n"))


class _Lossy:
    """A stream that may lose text: no call may fail because of a full disk or a closed pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure_logging(
    log_format: Literal["console", "json"], level: str, stream: TextIO | None = None
) -> None:
    """Send the log events of structlog and the standard library to one stream.

    Every line has its time (UTC, ISO 8601), level and event. Colours are used only on a terminal,
    and not if NO_COLOR is set.

    Parameters
    ----------
    log_format : {"console", "json"}
    level : str
        The least severe level to write: debug, info, warning or error.
    stream : text stream, optional
        stderr by default.
    """
    stream = stream or sys.stderr
    severity = logging.getLevelNamesMapping()[level.upper()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # What turns an event into text.
    rendering: list[Processor]
    if log_format == "json":
        rendering = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
            _as_json_escapes,
        ]
    else:
        colours = stream.isatty() and not os.environ.get("NO_COLOR")
        # Plain tracebacks: with the locals of each frame they could show tokens and prompts.
        rendering = [
            _without_controls,
            structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_traceback),
        ]
    structlog.configure(
        processors=[*common, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(file=_Lossy(stream)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=severity, force=True)
