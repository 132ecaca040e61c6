"""Served pages: who gets in, what the browser may load, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

from align.run.errors import ConfigError, RunError
from align.web import guard, server, serving, sessions
from align.web.server import Problem, ServeArguments, application, get, post, session

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


def client(page, base="http://127.0.0.1:7860", token="0123456789ab", manager=False, what=None, **more):
    """The page, entered with `token` where there is one."""
    routes = [
        get("/api/role", lambda request, body: {"role": session(request).role}), post("/api/echo", lambda request, body: {"got": body}),
        post("/api/refuse", refuse), post("/api/wrong", wrong), post("/api/broken", broken),
    ]  # fmt: skip
    app = application(routes, ServeArguments(token=token, **more), page=page, manager=manager, what=what)
    web = TestClient(app, base_url=base, raise_server_exceptions=False)
    if token:
        web.headers["x-align-session"] = enter(web, token).json()["session"]
    return web


def enter(web, token):
    return web.post("/api/enter", content=json.dumps({"token": token}), headers=OURS)


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
    deep = b"[" * 200_000
    for content in (b"{", b"[1]", b"\xff", b'"x"', deep, deep + b"]" * 200_000, b'{"a":' * 100_000, b"1" * 10_000):
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


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_is_needed_everywhere_and_is_exchanged_for_a_session(page, host):
    """On loopback too: every account of the machine reaches it."""
    web = client(page, token=None, host=host, manager=True)
    tokens = web.app.state.entry.tokens
    assert set(tokens) == {"visitor", "manager"} and tokens["visitor"] != tokens["manager"]
    assert web.get("/").status_code == 200 and web.get("/static/base.js").status_code == 200  # nothing of anybody's
    for refused in (
        web.get("/api/role"),
        web.post("/api/echo", headers=OURS),
        web.get(f"/api/role?token={tokens['manager']}"),
        web.get("/api/role", headers={"x-align-session": tokens["manager"]}),  # a token is no session
        web.get("/api/role", headers={"cookie": f"align_token_7860={tokens['manager']}"}),
    ):
        assert refused.status_code == 401 and refused.json()["enter"] and "#token=" in refused.json()["error"]
    for wrong in ("", "wrong", tokens["visitor"][:-1], "é\ud800"):
        refused = enter(web, wrong)
        assert (
            refused.status_code == 403 and "#token=" in refused.json()["error"] and "set-cookie" not in refused.headers
        )
    assert web.post("/api/enter", json={"token": 1}, headers=OURS).status_code == 400
    assert web.post("/api/enter", content=b" " * 5000, headers=OURS).status_code == 413  # nobody's body is short
    words = {}
    for role, token in tokens.items():
        entered = enter(web, token)
        words[role] = entered.json()["session"]
        assert "set-cookie" not in entered.headers and token not in entered.text
        got = web.get("/api/role", headers={"x-align-session": words[role]})
        assert got.json() == {"role": role}
    assert len({*words.values(), *tokens.values()}) == 4
    again = web.post(
        "/api/enter", json={"token": tokens["visitor"]}, headers={**OURS, "x-align-session": words["visitor"]}
    )
    assert again.json()["session"] == words["visitor"]  # opened again: the same session


def test_whoever_becomes_manager_has_a_new_session(page):
    """A session that somebody else knows too must not rise with it."""
    web = client(page, manager=True)
    word = web.headers["x-align-session"]
    risen = enter(web, web.app.state.entry.tokens["manager"]).json()["session"]
    assert risen != word and web.get("/api/role").status_code == 401
    assert web.get("/api/role", headers={"x-align-session": risen}).json() == {"role": "manager"}


def test_links_and_sessions_outlive_a_restart_and_end_with_new_tokens(page, tmp_path):
    what = tmp_path / "labels.sqlite"
    web = client(page, token=None, manager=True, what=what)
    kept, tokens = web.app.state.entry.kept, web.app.state.entry.tokens
    assert kept.stat().st_mode & 0o777 == 0o600 and tmp_path not in kept.parents  # not in a folder that is sent around
    word = {"x-align-session": enter(web, tokens["manager"]).json()["session"]}
    assert word["x-align-session"] not in kept.read_text()  # its hash is
    second = client(page, token=None, manager=True, what=what)
    assert second.app.state.entry.tokens == tokens and second.get("/api/role", headers=word).status_code == 200
    third = client(page, manager=True, what=what)  # a token of one's own replaces the visitors'
    assert third.app.state.entry.tokens == {**tokens, "visitor": "0123456789ab"}
    visitor = {"x-align-session": third.headers["x-align-session"]}
    fourth = client(page, token="another-token", manager=True, what=what)
    assert fourth.get("/api/role", headers=visitor).status_code == 401
    assert fourth.get("/api/role", headers=word).status_code == 200
    fifth = client(page, token=None, manager=True, what=what, new_tokens=True)
    assert not set(fifth.app.state.entry.tokens.values()) & {*tokens.values(), "another-token"}
    assert fifth.get("/api/role", headers=word).status_code == 401
    other = client(page, token=None, what=what, port=7861, base="http://127.0.0.1:7861")
    assert other.app.state.entry.tokens["visitor"] != fifth.app.state.entry.tokens["visitor"]


def test_tokens_that_others_could_have_written_are_not_used(page, tmp_path):
    what = tmp_path / "labels.sqlite"
    kept = client(page, token=None, what=what).app.state.entry.kept
    for broken in (
        "",
        "[1]",
        '{"tokens": {"visitor": 1}, "sessions": []}',
        '{"tokens": {"visitor": "short"}}',
        "[" * 9**5,
    ):
        kept.write_text(broken)
        with pytest.raises(RunError, match="delete it"):
            client(page, token=None, what=what)
    for mode in (0o666, 0o640):
        kept.chmod(mode)
        with pytest.raises(RunError, match="others may read or write"):
            client(page, token=None, what=what)
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link"):
        client(page, token=None, what=what)
    kept.unlink()
    kept.parent.chmod(0o500)
    client(page, token=None, what=what)  # kept nowhere, where that cannot be
    kept.parent.chmod(0o700)


def test_whoever_enters_again_and_again_ends_no_session_of_the_managers(page, monkeypatch):
    monkeypatch.setattr(sessions, "MOST", 3)
    web = client(page, manager=True)
    entry = web.app.state.entry
    manager, first = entry.enter(entry.tokens["manager"]), web.headers["x-align-session"]
    for _ in range(10):
        entry.enter("0123456789ab")
    assert entry.session(manager) and not entry.session(first) and len(entry.sessions) == 4


def test_a_session_ends_with_its_time(page, monkeypatch):
    web = client(page)
    assert web.get("/api/role").status_code == 200
    now = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.LASTS + 1)
    assert web.get("/api/role").status_code == 401


def test_without_a_token_every_program_of_the_machine_is_the_manager(page):
    web = client(page, token=None, no_token=True)
    assert web.get("/api/role").status_code == 401  # a session all the same, so that a foreign page has none
    web.headers["x-align-session"] = enter(web, "").json()["session"]
    assert web.get("/api/role").json() == {"role": "manager"}


def test_arguments():
    for wrong in (
        {"port": 70000}, {"token": "short"}, {"token": "with;semicolon "}, {"token": "é" * 20},
        {"no_token": True, "host": "0.0.0.0"}, {"no_token": True, "token": "0123456789ab"},
        {"token": "0123456789ab", "token_file": "x"}, {"token_file": "/no/such/file"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            ServeArguments(**wrong)
    assert [server.is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")] == [True] * 5
    assert [server.is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5


@pytest.mark.parametrize(
    ("given", "without"),
    [(["--no_token"], True), (["--no-token"], True), (["--no_token", "false"], False), ([], False)],
)
def test_a_page_goes_without_a_token_where_its_command_line_says_so(given, without):
    from align.run.parse import parse

    assert parse(ServeArguments, nano=None, required=(), argv=given)[0].no_token is without


def test_a_token_need_not_stand_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("from-a-file-1\nmore\n")
    monkeypatch.setenv("ALIGN_TOKEN", "from-the-environment")
    assert ServeArguments().token == "from-the-environment"
    assert ServeArguments(token="0123456789ab").token == "0123456789ab"
    assert ServeArguments(token_file=str(tmp_path / "token")).token == "from-a-file-1"
    assert ServeArguments(no_token=True).token is None
    monkeypatch.setenv("ALIGN_TOKEN", "short")
    with pytest.raises(ValueError, match="ALIGN_TOKEN: 12 to 200"):
        ServeArguments()


def test_a_browser_is_not_started_with_the_token_on_its_command_line():
    url = "http://127.0.0.1:7860/#token=0123456789ab"
    with serving._hidden(url) as shown:
        file = Path(shown.removeprefix("file://"))
        assert "0123" not in shown and url in file.read_text() and file.parent.stat().st_mode & 0o777 == 0o700
    assert not file.exists()


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
            serving.serve(client(page).app, ServeArguments(port=port), print)
    with pytest.raises(RunError, match="no such address"):
        serving.serve(client(page).app, ServeArguments(host="no.such.host.invalid"), print)


PROGRAM = """
import sys
from pathlib import Path
from align.web.server import ServeArguments, application, get
from align.web.serving import serve
args = ServeArguments(port=0, no_token=True)
app = application([get("/api/x", lambda request, body: {"x": 1})], args, page=Path(sys.argv[1]))
serve(app, args, lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def test_it_serves_and_ctrl_c_ends_it_cleanly(page):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(page)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    url = process.stdout.readline().strip()
    entered = urllib.request.urlopen(urllib.request.Request(url + "api/enter", b"{}", OURS))
    headers = {"x-align-session": json.load(entered)["session"]}
    with urllib.request.urlopen(urllib.request.Request(url + "api/x", headers=headers)) as response:
        assert json.load(response) == {"x": 1} and "server" not in {name.lower() for name in response.headers}
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("ended\n", "", 0)


def test_importing_the_server_loads_no_web_framework():
    code = "import sys, align.web.server; assert not {'starlette', 'uvicorn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
