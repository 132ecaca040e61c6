"""Served pages: who gets in, what the browser may load, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from conftest import ROOT

from align.run.errors import ConfigError, RunError
from align.web import guard, server
from align.web.server import Problem, ServeArguments, application, get, post, role

pytest.importorskip("starlette", reason="starlette is not installed")
from starlette.testclient import TestClient

OURS = {"x-align": "1", "content-type": "application/json"}


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>first</title>")
    (folder / "manage.html").write_text("<!doctype html><title>second</title>")
    (folder / "page.js").write_text("1")
    (folder / "secret.txt").write_text("not a part of the page")
    (tmp_path / "labels.sqlite").write_text("data")
    return folder


def refuse(request, body):
    raise Problem(409, "not now")


def wrong(request, body):
    raise ConfigError("a rank is missing")


def broken(request, body):
    raise KeyError("bug")


def client(page, host="127.0.0.1", token=None, base="http://127.0.0.1:7860", **more):
    routes = [
        get("/api/role", lambda request, body: {"role": role(request)}), post("/api/echo", lambda request, body: {"got": body}),
        post("/api/refuse", refuse), post("/api/wrong", wrong), post("/api/broken", broken),
    ]  # fmt: skip
    app = application(routes, page=page, token=token, host=host, **more)
    return TestClient(app, base_url=base, raise_server_exceptions=False)


def test_files_go_by_exact_names_and_nothing_else_is_served(page):
    web = client(page)
    assert "first" in web.get("/").text and "second" in web.get("/manage").text
    assert web.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert web.get("/static/base.css").status_code == 200 and web.get("/static/base.js").status_code == 200
    paths = (
        "/secret.txt",
        "/../labels.sqlite",
        "/%2e%2e/labels.sqlite",
        "/static/../server.py",
        "/static/..%2fserver.py",
        "//etc/passwd",
        "/index.html",
        "/static/",
    )
    for path in paths:
        assert web.get(path).status_code == 404, path


def test_every_response_carries_the_security_headers(page):
    web = client(page)
    for response in (
        web.get("/"),
        web.get("/nothing"),
        web.post("/api/echo"),
        web.post("/api/broken", headers=OURS),
        web.get("/", headers={"host": "evil.example"}),
    ):
        assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"], response
        assert (
            response.headers["x-content-type-options"] == "nosniff"
            and response.headers["referrer-policy"] == "no-referrer"
        )
    assert web.get("/api/role").headers["cache-control"] == "no-store"


def test_only_loopback_names_reach_a_page_on_loopback(page):
    web = client(page)
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860", "[::1]"):
        assert web.get("/", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example:7860", "127.0.0.1.evil.example", "192.168.1.4:7860", ""):
        assert web.get("/", headers={"host": host}).status_code == 421, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OURS, 200),
        ({**OURS, "origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, 200),
        ({**OURS, "content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "application/json"}, 403),  # a page elsewhere cannot add our header without asking
        ({"x-align": "1", "content-type": "text/plain"}, 415),  # what a form can send
        ({**OURS, "origin": "http://evil.example"}, 403),
        ({**OURS, "origin": "http://127.0.0.1:9999"}, 403),  # another program's page on this machine
        ({**OURS, "origin": "null"}, 403),
        ({**OURS, "sec-fetch-site": "cross-site"}, 403),
        ({**OURS, "sec-fetch-site": "same-site"}, 403),
    ],
)
def test_what_changes_something_comes_from_our_own_page(page, headers, status):
    response = client(page).post("/api/echo", content=b'{"a": 1}', headers=headers)
    assert response.status_code == status
    assert response.json() == {"got": {"a": 1}} if status == 200 else response.json()["error"]


def test_reading_across_sites_is_refused_but_a_link_to_the_page_works(page):
    web = client(page)
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert web.get("/", headers=link).status_code == 200 and web.get("/api/role", headers=link).status_code == 403
    assert web.get("/page.js", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403


def test_long_and_broken_bodies_are_refused(page):
    web = client(page)
    assert web.post("/api/echo", content=b"x" * (guard.BODY_LIMIT + 1), headers=OURS).status_code == 413

    def chunks():  # no length is announced
        for _ in range(40):
            yield b" " * 50_000

    assert web.post("/api/echo", content=chunks(), headers=OURS).status_code == 413
    for content in (b"{", b"[1]", b"\xff", b'"x"'):
        response = web.post("/api/echo", content=content, headers=OURS)
        assert response.status_code == 400 and "JSON" in response.json()["error"]


def test_errors_are_sentences(page):
    web = client(page)
    assert (web.post("/api/refuse", headers=OURS).status_code, web.post("/api/refuse", headers=OURS).json()) == (
        409,
        {"error": "not now"},
    )
    assert (web.post("/api/wrong", headers=OURS).status_code, web.post("/api/wrong", headers=OURS).json()) == (
        400,
        {"error": "a rank is missing"},
    )
    response = web.post("/api/broken", headers=OURS)
    assert response.status_code == 500 and "bug" not in response.text and "mistake" in response.json()["error"]
    assert web.get("/api/echo").status_code == 405 and web.get("/api/nothing").json()["error"]


def test_elsewhere_a_token_is_needed_comes_once_and_stays_as_a_cookie(page):
    web = client(page, host="0.0.0.0", base="http://lab.example:7860", manager=True)
    token, manager = web.app.state.token, web.app.state.manager_token
    assert len(token) >= 32 and token != manager
    for path in ("/", "/api/role", "/page.js", "/?token=", "/?token=wrong", "/?token=%ff"):
        assert web.get(path).status_code == 403, path
    first = web.get(f"/?token={token}")
    cookie = first.headers["set-cookie"]
    assert first.status_code == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "_7860=" in cookie
    assert web.get("/api/role").json() == {"role": "visitor"} and web.post("/api/echo", headers=OURS).status_code == 200
    assert web.get(f"/api/role?token={manager}").json() == {"role": "manager"}
    assert web.get("/api/role").json() == {"role": "manager"}  # the later token is the one that stays
    assert client(page).get("/api/role").json() == {"role": "manager"}


def test_tokens_that_are_kept_open_the_page_after_a_restart_too(page, tmp_path):
    kept = tmp_path / "tokens.json"
    more = {"host": "0.0.0.0", "base": "http://lab.example:7860", "manager": True, "kept": kept}
    first = client(page, **more).app.state
    assert kept.stat().st_mode & 0o777 == 0o600
    second = client(page, **more)
    assert (second.app.state.token, second.app.state.manager_token) == (first.token, first.manager_token)
    assert second.get(f"/?token={first.token}").status_code == 200
    third = client(page, token="0123456789ab", **more).app.state  # a token of one's own replaces the visitors'
    assert (third.token, third.manager_token) == ("0123456789ab", first.manager_token)
    assert client(page, **more).app.state.token == "0123456789ab" and kept.stat().st_mode & 0o777 == 0o600
    for broken in ("", "[1]", '{"visitor": 1}', '{"visitor": "short"}'):
        kept.write_text(broken)
        with pytest.raises(RunError, match="delete it"):
            client(page, **more)
    kept.unlink()
    assert client(page, **more).app.state.token != first.token
    kept.unlink()
    assert client(page, kept=kept).app.state.token is None and not kept.exists()  # on loopback none is asked for


def test_a_token_counts_on_loopback_too_once_it_is_given(page):
    web = client(page, token="0123456789ab")
    assert web.get("/").status_code == 403 and web.get("/?token=0123456789ab").status_code == 200
    assert web.app.state.manager_token is None


def test_without_a_token_what_stands_in_the_address_is_not_echoed_into_a_cookie(page):
    for given in ("mine", "a%0d%0aset-cookie: b=c"):
        answered = client(page).get(f"/?token={given}")
        assert answered.status_code == 200 and "set-cookie" not in answered.headers


def test_arguments():
    for wrong in ({"port": 70000}, {"token": "short"}, {"token": "with;semicolon "}, {"token": "é" * 20}):
        with pytest.raises(ValueError):
            ServeArguments(**wrong)
    assert [server.is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")] == [True] * 5
    assert [server.is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[label\]'"):
        server.check_installed()


def test_a_port_in_use_ends_in_a_sentence_with_a_free_one(page):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"127.0.0.1:{port} .*try --port \d+"):
            server.serve(client(page).app, ServeArguments(port=port), print)
    with pytest.raises(RunError, match="no such address"):
        server.serve(client(page).app, ServeArguments(host="no.such.host.invalid"), print)


PROGRAM = """
import sys
from pathlib import Path
from align.web.server import ServeArguments, application, get, serve
args = ServeArguments(port=0)
app = application([get("/api/x", lambda request, body: {"x": 1})], page=Path(sys.argv[1]), token=None, host=args.host)
serve(app, args, lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def test_it_serves_and_ctrl_c_ends_it_cleanly(page):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(page)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    url = process.stdout.readline().strip()
    with urllib.request.urlopen(url + "api/x") as response:
        assert json.load(response) == {"x": 1} and "server" not in {name.lower() for name in response.headers}
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("ended\n", "", 0)


def test_importing_the_server_loads_no_web_framework():
    code = "import sys, align.web.server; assert not {'starlette', 'uvicorn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_answer_on_a_kept_connection_is_sent_at_once(page, monkeypatch):
    """Without TCP_NODELAY the second half of each answer waits for the first to be confirmed: 40 ms."""
    import http.client
    import statistics
    import threading
    import time

    import uvicorn

    app = application([get("/api/role", lambda *_: {"role": "x" * 2000})], page=page, token=None, host="127.0.0.1")
    bound = server._bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    connection, took = http.client.HTTPConnection(*bound.getsockname(), timeout=20), []
    for _ in range(30):
        began = time.perf_counter()
        connection.request("GET", "/api/role")
        assert connection.getresponse().read()
        took.append(time.perf_counter() - began)
    running.should_exit = True
    thread.join(20)
    bound.close()
    assert statistics.median(took) < 0.02, took
