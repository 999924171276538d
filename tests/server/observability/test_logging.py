import io
import json
import logging
from datetime import datetime

import pytest
import structlog

from eldr_service.server.observability.logging import configure_logging


@pytest.fixture
def stream():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield io.StringIO()
    structlog.reset_defaults()
    logging.basicConfig(handlers=handlers, level=level, force=True)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line(stream):
    configure_logging("json", "info", stream)
    structlog.get_logger().info("worker joined", worker="Ölpfütze", slots={1}, text="a\nb")
    (line,) = lines(stream)
    assert line["event"] == "worker joined"
    assert line["level"] == "info"
    assert (line["worker"], line["slots"], line["text"]) == ("Ölpfütze", "{1}", "a\nb")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset().total_seconds() == 0


def test_other_libraries_join_in(stream):
    configure_logging("json", "warning", stream)
    logging.getLogger("asyncio").info("not this")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("slow callback", "warning", "asyncio")


def test_the_level_is_the_least_severe_that_is_written(stream):
    configure_logging("json", "warning", stream)
    structlog.get_logger().info("not this")
    structlog.get_logger().error("this")
    assert [line["event"] for line in lines(stream)] == ["this"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_comes_with_its_traceback_but_without_locals(stream, log_format):
    configure_logging(log_format, "info", stream)

    def fail():
        secret = "very-" * 2 + "hidden"
        raise ValueError(len(secret))

    for logger in (structlog.get_logger(), logging.getLogger("other")):
        try:
            fail()
        except ValueError:
            logger.exception("failed")
    assert stream.getvalue().count("ValueError: 16") == 2
    assert "very-very-hidden" not in stream.getvalue()


def test_console_has_no_colours_away_from_a_terminal(stream):
    configure_logging("console", "info", stream)
    structlog.get_logger().info("worker joined", worker="w0")
    assert "\x1b" not in stream.getvalue()
    assert "worker joined" in stream.getvalue()
    assert "worker=w0" in stream.getvalue()


def test_console_has_colours_on_a_terminal_unless_told_not_to(stream, monkeypatch):
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging("console", "info", stream)
    structlog.get_logger().info("plain")
    assert "\x1b" not in stream.getvalue()
    monkeypatch.delenv("NO_COLOR")
    configure_logging("console", "info", stream)
    structlog.get_logger().info("colourful")
    assert "\x1b" in stream.getvalue()
