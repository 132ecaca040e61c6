"""Connections to a page that do not end by themselves, too many of them, and how soon the others are answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import runpy
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
import uvicorn

from align.web import connections, serving
from align.web.server import ServeArguments, application, get, post

LONG = "x" * 30_000_000  # more than the system's own buffers take


@pytest.fixture
def page(tmp_path):
    """A page that is served, and how to send it bytes and requests."""
    (tmp_path / "index.html").write_text("<!doctype html>")
    routes = [
        get("/api/role", lambda *_: {"role": "x" * 2000}), get("/api/long", lambda *_: {"long": LONG}),
        post("/api/echo", lambda request, body: {"got": body}),
    ]  # fmt: skip
    app = application(routes, ServeArguments(token="0123456789ab"), page=tmp_path)
    bound = serving._bind("127.0.0.1", 0)
    server = uvicorn.Server(serving.configuration(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield Page(bound.getsockname(), app.state.entry.enter("0123456789ab"))
    server.should_exit = True
    thread.join(20)
    bound.close()


class Page:
    def __init__(self, at, word):
        self.at, self.word, self.held = at, word, []

    def send(self, *parts, session=False):
        """A connection on which `parts` were sent."""
        held = socket.create_connection(self.at, timeout=20)
        self.held.append(held)
        for part in parts:
            held.sendall(part.replace(b"SESSION", f"x-align-session: {self.word if session else 'none'}".encode()))
        return held

    def ask(self, kept=None):
        """How long one request takes, on a connection of its own where none is kept."""
        began, connection = time.perf_counter(), kept or http.client.HTTPConnection(*self.at, timeout=20)
        connection.request("GET", "/api/role", headers={"x-align-session": self.word})
        answered = connection.getresponse()
        assert answered.status == 200 and answered.read()
        if kept is None:
            connection.close()
        return time.perf_counter() - began


def ends(held, within):
    """Is the connection closed by the server in time, whatever it sends first?"""
    until = time.monotonic() + within
    held.settimeout(within)
    with contextlib.suppress(ConnectionResetError):
        while held.recv(1 << 16):
            if time.monotonic() > until:
                return False
    return True


GET = b"GET /api/role HTTP/1.1\r\nHost: 127.0.0.1\r\nSESSION\r\n"
POST = (
    b"POST /api/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nSESSION\r\nx-align: 1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
)


@pytest.mark.parametrize(
    ("parts", "session"),
    [
        ([], False),  # nothing is said
        ([b"GET / HTTP/1.1\r\n"], False),
        ([GET + b"\r\n", b"GET / HT"], True),  # a whole request, and then half of one
        ([b"\r\n"], False),
        ([POST, b'{"a"'], True),  # half a body
        ([POST, b'{"a"'], False),
    ],
)
def test_what_never_becomes_a_request_is_ended(page, monkeypatch, parts, session):
    for clock in ("HEAD", "BODY", "IDLE", "FETCH"):
        monkeypatch.setattr(connections, clock, 0.3)
    assert ends(page.send(*parts, session=session), within=10)
    assert page.ask() < 5


def test_bytes_that_drip_do_not_wind_the_clock_up(page, monkeypatch):
    monkeypatch.setattr(connections, "HEAD", 0.5)
    monkeypatch.setattr(connections, "BODY", 0.5)
    for held in (page.send(b"GET / HTTP/1.1\r\n"), page.send(POST, session=True), page.send(POST)):
        with pytest.raises(OSError):
            for _ in range(100):
                held.sendall(b"a")
                time.sleep(0.05)


def test_an_idle_connection_and_an_answer_that_nobody_fetches_are_ended(page, monkeypatch):
    monkeypatch.setattr(connections, "IDLE", 0.3)
    monkeypatch.setattr(connections, "FETCH", 0.3)
    assert ends(page.send(GET + b"\r\n", session=True), within=10)
    held = page.send(GET.replace(b"role", b"long") + b"\r\n", session=True)
    time.sleep(3)
    read = 0
    with contextlib.suppress(ConnectionResetError):
        while part := held.recv(1 << 20):
            read += len(part)
    assert read < len(LONG)


def test_where_it_gets_crowded_whoever_has_no_session_goes_first(page, monkeypatch):
    monkeypatch.setattr(connections, "MOST_OF_ONE", 8)
    ours = http.client.HTTPConnection(*page.at, timeout=20)
    page.ask(ours)
    socket_of_ours = ours.sock
    for _ in range(30):
        page.send(b"GET / HTTP/1.1\r\n")
    assert page.ask() < 5 and page.ask(ours) < 5
    assert ours.sock is socket_of_ours  # not connected anew
    assert all(ends(held, within=5) for held in page.held[:22])


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pathlib import Path
from align.web.server import ServeArguments, application, get
from align.web.serving import serve
args = ServeArguments(port=0, token="0123456789ab")
serve(application([get("/api/x", lambda *_: {"x": 1})], args, page=Path(sys.argv[1])), args, lambda url: print(url, flush=True))
"""


def test_half_requests_without_a_token_do_not_shut_the_others_out(tmp_path):
    """On a system that allows a program 256 open files."""
    (tmp_path / "index.html").write_text("<!doctype html><title>served</title>")
    process = subprocess.Popen(
        [sys.executable, "-c", FEW_FILES, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    port = int(process.stdout.readline().split(":")[2].split("/")[0])
    half = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(300)]
    for held in half:
        with contextlib.suppress(OSError):
            held.sendall(b"POST /api/enter HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    began = time.perf_counter()
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/api/enter", json.dumps({"token": "0123456789ab"}),
                           {"content-type": "application/json", "x-align": "1"})  # fmt: skip
        assert connection.getresponse().status == 200
        connection.close()
    took = time.perf_counter() - began
    process.terminate()
    process.wait(20)
    for held in half:
        held.close()
    assert took < 5, took


def test_an_answer_on_a_kept_connection_is_sent_at_once(page):
    """Without TCP_NODELAY the second half of each answer waits for the first to be confirmed: 40 ms."""
    connection, took = http.client.HTTPConnection(*page.at, timeout=20), []
    for _ in range(30):
        began = time.perf_counter()
        connection.request("GET", "/api/role", headers={"x-align-session": page.word})
        assert connection.getresponse().read()
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.02, took


@pytest.mark.slow
def test_twenty_four_people_at_once_do_not_wait(tmp_path):
    """The bounds are loose: tests run beside others. What needs no disk is not held up by what is being saved."""
    measure = runpy.run_path(str(ROOT / "benchmarks/pages.py"))["measure"]
    found = measure(people=24, seconds=5, pause=0.5, items=2000, folder=tmp_path)["milliseconds"]
    assert found["answer"]["requests"] > 100 and found["alive"]["p50"] < 20 and found["answer"]["p50"] < 300, found
