"""`eldr top` in a real terminal: the fleet, and placements as they come."""

import codecs
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from busy_and_quiet import LAST, ONLY, QUIET, busy_and_quiet
from daemon import running_daemon
from eldr.v1 import partition_pb2
from live_fleet import LiveFleet
from rich.cells import cell_len
from wire import Client, eventually

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PLACED = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)
HOSTILE = "\x1b]0;taken\x07\x1b[2J\nfaked\t\u202e"
WRITTEN_OUT = r"\x1b]0;taken\x07\x1b[2J\nfaked\t\u202e"


class Top:
    """`eldr top` in a terminal of so many columns and lines."""

    def __init__(self, server, *options, columns=80, lines=24):
        self._ours, theirs = pty.openpty()
        program = "from eldr_service.cli import main; main()"
        command = [sys.executable, "-c", program, "top", "--every", "0.2", "--server", server]
        size = {"COLUMNS": str(columns), "LINES": str(lines)}
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm"} | size,
        )
        os.close(theirs)
        self.written = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    @property
    def screen(self):
        """The last whole one, as it is read."""
        _, *drawn = self.written.rsplit("\x1b[H", 2)
        return CONTROLS.sub("", drawn[0]).replace("\r", "") if len(drawn) > 1 else ""

    def until(self, shows, seconds=20):
        """The first screen of which that is so."""
        deadline = time.monotonic() + seconds
        while not (self.screen and shows(self.screen)):
            assert time.monotonic() < deadline, self.written[-4_000:]
            if select.select([self._ours], [], [], 1)[0]:
                self.written += self._decoder.decode(os.read(self._ours, 1 << 16))
        return self.screen


@contextmanager
def top(server, *options, **size):
    shown = Top(server, *options, **size)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown._ours)


def shows(*words):
    """Whether all of these are there; lines may be folded."""
    return lambda screen: all(word in " ".join(screen.split()) for word in words)


@contextmanager
def stranger(status, body):
    """Something else that serves HTTP: its HOST:PORT, and the paths that it was asked for."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


def test_it_is_for_a_terminal(fresh_fleet):
    assert "eldr status" in fresh_fleet("top", code=1)
    assert "eldr status" in str(fresh_fleet.json("top", code=1))
    assert "HOST:PORT" in fresh_fleet("top", "--http", "http://here", code=2)


def test_workers_are_shown_until_it_is_interrupted():
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        for worker in "w0", "w1":
            client.register("m", worker)
        with top(daemon.grpc, "--http", daemon.http) as shown:
            shown.until(shows("w0", "w1", "2/2"))
            client.register("m", "w2")
            shown.until(shows("w2", "3/3"))
            shown.process.send_signal(signal.SIGINT)
            assert shown.process.wait(20) == 130


@pytest.fixture(scope="module")
def live():
    """A daemon whose requests have markup and wide characters in their ids."""
    flags = "--refit-interval", "0.5", "--refit-signatures", "16"
    workers = [f"w{i}" for i in range(4)]
    with (
        running_daemon(*flags) as daemon,
        Client(daemon.grpc) as client,
        LiveFleet(daemon.grpc, workers, decode_s=0.6, request_ids="[red]界[/red]-") as fleet,
    ):
        request = partition_pb2.ListPartitionsRequest(model="m")
        eventually(lambda: client.partition.ListPartitions(request).partitions)
        placed = fleet.placed
        eventually(lambda: fleet.placed > placed + 100)  # more than a screen shows
        yield daemon


def newest(screen):
    return max(int(number) for number in re.findall(r"\[red\]界\[/red\]-(\d+) ", screen))


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60), (50, 16)])
def test_placements_as_they_come(live, columns, lines):
    with top(live.grpc, "--http", live.http, columns=columns, lines=lines) as shown:
        told = "against load alone: predicted", "partition's drift"
        screen = shown.until(shows("[red]界[/red]-", *told))
        fullest = re.search(r"^w\d ", screen, re.MULTILINE)
        assert fullest
        assert screen.index("LOAD") < fullest.start() < screen.index("REQUEST")
        assert len(PLACED.findall(screen)) > 1
        assert len(screen.splitlines()) <= lines
        assert max(map(cell_len, screen.splitlines())) <= columns
        if columns >= 80:
            row = next(line for line in screen.splitlines() if PLACED.match(line))
            assert re.search(r"w\d +locality band +locality-band +-?[01]\.\d{3}$", row.rstrip())
        before = newest(screen)
        shown.until(lambda later: PLACED.search(later) and newest(later) > before)


def test_hundreds_of_workers_leave_room_for_placements(live):
    with Client(live.grpc) as client:
        for number in range(300):
            client.register("large", f"worker-of-a-large-fleet-{number}")
        client.route("large", "one")
        for columns, lines in (80, 24), (160, 100):
            size = {"columns": columns, "lines": lines}
            with top(live.grpc, "--http", live.http, **size) as shown:
                screen = shown.until(shows("300/300", " more ", "REQUEST", "[red]界"))
            assert len(screen.splitlines()) == lines
            assert max(map(cell_len, screen.splitlines())) <= columns
            listed = len(re.findall(r"^(?:large|m) +\S+ +READY", screen, re.MULTILINE))
            left_out = max(map(int, re.findall(r"and (\d+) more ", screen)))
            assert listed + left_out == 304
            assert len(set(re.findall(r" worker-of-a-large-fleet-\d+ ", screen))) == listed - 4


def test_placements_of_one_model(live):
    numbers = itertools.count()
    with Client(live.grpc) as client:
        client.register("other", "w" * 256)

        def placed(screen):
            client.route("other", f"of-other-{next(numbers)}")
            return "of-other" in screen

        with top(live.grpc, "--http", live.http, "--model", "other") as shown:
            screen = shown.until(placed)
    placements = list(filter(PLACED.match, screen.splitlines()))
    assert all("of-other" in line for line in placements)
    assert max(map(cell_len, screen.splitlines())) == 80


def test_a_quiet_model_has_its_placements_beside_a_busy_one():
    with busy_and_quiet() as (daemon, _):
        with top(daemon.grpc, "--http", daemon.http) as shown:
            screen = shown.until(shows(LAST))
            assert ONLY not in screen  # of all models it is not among the newest
        with top(daemon.grpc, "--http", daemon.http, "--model", QUIET) as shown:
            screen = shown.until(shows(ONLY))
            assert len(PLACED.findall(screen)) == 1


def test_pages_of_replicas_are_one_list():
    with (
        running_daemon() as one,
        running_daemon() as other,
        Client(one.grpc) as to_one,
        Client(other.grpc) as to_other,
    ):
        for number, client in enumerate((to_one, to_other, to_one)):
            if number < 2:
                client.register("m", "w0")
            client.route("m", f"r{number}")
        with top(one.grpc, "--http", f"{one.http},{other.http}") as shown:
            screen = shown.until(shows("r0", f"{other.http}: against load alone"))
        placed = filter(PLACED.match, screen.splitlines())
        assert [line.split()[1] for line in placed] == ["r2", "r1", "r0"]


def test_a_daemon_that_goes_away_and_comes_back():
    with ExitStack() as stack:
        with running_daemon() as daemon, Client(daemon.grpc) as client:
            client.register("m", "first")
            client.route("m", "before")
            shown = stack.enter_context(top(daemon.grpc, "--http", daemon.http))
            shown.until(shows("first", "before"))
        screen = shown.until(shows("out of date: nothing listens", "no placements from"))
        assert "first" in screen  # as it was
        ports = "--listen", daemon.grpc, "--http", daemon.http
        with running_daemon(*ports) as daemon, Client(daemon.grpc) as client:
            client.register("m", "second")
            client.route("m", "after")
            screen = shown.until(lambda screen: "after" in screen and "out of date" not in screen)
            assert re.search(r"^second +READY", screen, re.MULTILINE)
            assert "first" not in screen
            assert "no placements" not in screen


def test_a_daemon_that_was_never_there_is_an_error():
    with top("127.0.0.1:1") as shown:
        assert shown.process.wait(30) == 1


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("<html>", "not eldr-server of this version"),
        ("[" * 100_000, "not eldr-server of this version"),
        ({"placements": [{"at": 1e300}], "models": []}, "not eldr-server of this version"),
        ({"placements": [], "models": [{"name": "m"}]}, "not eldr-server of this version"),
    ],
)
def test_what_is_no_page_leaves_the_fleet(document, told):
    body = document if isinstance(document, str) else json.dumps(document)
    with (
        running_daemon() as daemon,
        Client(daemon.grpc) as client,
        stranger(200, body) as (port, _),
    ):
        client.register("m", "w0")
        with top(daemon.grpc, "--http", f"127.0.0.1:{port}") as shown:
            shown.until(shows("w0", f"no placements from 127.0.0.1:{port}", told))


def test_nothing_that_is_told_acts_on_the_terminal():
    placement = dict.fromkeys(("model", "worker", "policy", "why"), "m") | {
        "request": HOSTILE, "at": time.time(), "attempt": 1, "similarity": 0.5,
    }  # fmt: skip
    page = json.dumps({"placements": [placement], "models": []})
    with running_daemon() as daemon, Client(daemon.grpc) as client:
        client.register("m", "w0")
        for status, body in (200, page), (403, HOSTILE), (401, HOSTILE * 99):
            with (
                stranger(status, body) as (port, _),
                top(daemon.grpc, "--http", f"127.0.0.1:{port}", columns=130) as shown,
            ):
                screen = shown.until(shows("w0", r"\x1b]0;taken"))
                assert not re.search("[\x07\x09\u202e]|\x1b]|\x1b\\[2J", shown.written)
                assert not re.search("^ *faked", screen, re.MULTILINE)
                if status == 200:
                    assert f"{WRITTEN_OUT} (attempt 1)" in screen


def test_credentials_are_those_of_the_calls(secured, as_role):
    admin = as_role("admin")
    admin("workers", "add", "w0", "--model", "looked-at", "--url", "u")
    options = *admin.options, "--model", "looked-at"
    with top(admin.server, *options, "--http", secured.http) as shown:
        screen = shown.until(shows("w0", "against load alone: measuring"))
        assert "no placements" not in screen
    with stranger(200, "") as (port, asked):
        # It leads to this machine here, which its name does not say.
        with top(admin.server, *options, "--http", f"0.0.0.0:{port}") as shown:
            shown.until(shows("w0", "the token is not sent there in the clear; ssh -L"))
        assert not asked


def test_a_page_that_is_refused_is_told(certificate):
    cert, key = certificate
    with running_daemon("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert) as daemon:
        tls = "--tls-ca", cert, "--tls-cert", cert, "--tls-key", key
        with top(daemon.grpc, *tls, "--http", daemon.http) as shown:
            shown.until(shows("no model is known yet", "With client certificates alone"))


def test_where_http_is_served_may_not_be_known():
    with running_daemon() as daemon:
        name = f"ipv4:{daemon.grpc}"
        with top(name) as shown:
            shown.until(shows("unknown where eldr-server serves HTTP; give --http HOST:PORT"))
