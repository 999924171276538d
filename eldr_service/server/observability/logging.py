"""Logs on stderr: for eyes or as one JSON object a line."""

import logging
import os
import sys
from contextlib import suppress
from typing import Literal, TextIO

import structlog


class _Lossy:
    """A stream that may lose text: no call must fail for a full disk or a pipe that was closed."""

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
    """Send the log events of structlog and of the standard library to one stream.

    Every line has its time (UTC, ISO 8601), level and event. Colours only for a terminal, and not
    where NO_COLOR is set.

    Parameters
    ----------
    log_format : {"console", "json"}
    level : str
        The least severe that is written: debug, info, warning or error.
    stream : text stream, optional
        stderr by default.
    """
    stream = stream or sys.stderr
    severity = logging.getLevelNamesMapping()[level.upper()]
    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # What turns an event into text.
    rendering: list[structlog.typing.Processor]
    if log_format == "json":
        rendering = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        colours = stream.isatty() and not os.environ.get("NO_COLOR")
        # Plain tracebacks: those with the locals of each frame could show tokens and prompts.
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=colours, exception_formatter=structlog.dev.plain_traceback
            )
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
