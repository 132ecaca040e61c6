"""The ranking page in a real Chromium: keys, mouse, reloads, a killed server, hostile text, many items, a phone."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import ROOT, write_rows

from align.label.server import Labelling
from align.label.store.store import Store
from align.web.server import ServeArguments

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = pytest.mark.slow  # a browser and a server for each

PROGRAM = """
import sys
from pathlib import Path
from align.label.program import _serve
from align.label.store.store import Store
from align.web.server import ServeArguments
with Store(Path(sys.argv[1]), timeout=2.0) as store:
    token = sys.argv[3] or None
    _serve(store, Path(sys.argv[1]), ServeArguments(port=int(sys.argv[2]), token=token, no_token=token is None))
"""
HOSTILE = [
    "<script>window.hurt = 1</script><b>bold</b>", '<img src=x onerror="window.hurt = 2">', "</textarea><svg onload=window.hurt=3>",
    "javascript:window.hurt=4 [a](javascript:window.hurt=5) &lt;i&gt;",
]  # fmt: skip


def rows(count, k=3):
    return [
        {"prompt": f"Question {i}?", "completions": [f"answer {'abcdefghi'[j]} to {i}" for j in range(k)]}
        for i in range(count)
    ]


class Server:
    """`align label` in a process of its own, that can be killed and started again on the same port."""

    def __init__(self, path, token=""):
        self.path, self.token, self.process, self.said = path, token, None, ""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self):
        command = [sys.executable, "-c", PROGRAM, str(self.path), str(self.port), self.token]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.said = ""
        while "Ctrl-C" not in self.said:  # said once the port is ours
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        return self

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serve(tmp_path):
    started = []

    def begin(items, token="", **options):
        with Store(tmp_path / "labels.sqlite") as store:
            store.add(items, **options)
        started.append(Server(tmp_path / "labels.sqlite", token).start())
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def opened(browser):
    """Open the page in a browser of its own and log in; afterwards no error may have been said on the console."""
    contexts, said = [], []

    def visit(url, name="Ada", width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 860}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("console", lambda message: said.append(message.text) if "Security Policy" in message.text else None)
        tab.goto(url)
        if name:
            tab.fill("#name", name)
            tab.keyboard.press("Enter")
            tab.wait_for_selector("#work:not([hidden])")
            tab.wait_for_selector("#guidelines-text > *", state="attached")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not said, said


def press(tab, keys):
    for key in keys.split():
        tab.keyboard.press(key)


def until(tab, selector, fits):
    """Wait in Python: the page's policy forbids to evaluate a string, which is what playwright would wait with."""
    for _ in range(300):
        node = tab.query_selector(selector)
        if node is not None and fits(node.text_content()):
            return
        tab.wait_for_timeout(50)
    raise AssertionError((selector, node and node.text_content()))


def saved(tab, count):
    until(tab, "#status", lambda words: f", {count} of" in words)


def strip(tab):
    """The ranking as the page shows it: ['1st 2', '2nd 1 = 3']."""
    return [" ".join(cell.inner_text().split()) for cell in tab.query_selector_all("#ranking .cell")]


def press_as(tab, key, code):
    """A key that says `key` on its layout and lies at `code`."""
    devtools = tab.context.new_cdp_session(tab)
    devtools.send("Input.dispatchKeyEvent", {"type": "keyDown", "key": key, "code": code, "text": key})
    devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "code": code})


def texts(tab):
    return [body.inner_text() for body in tab.query_selector_all(".card .body")]


def rankings(server):
    with Store(server.path) as store:
        return list(store.rankings())


def by_text(row):
    return dict(zip(row["completions"], row["ranking"], strict=True))


# -------------------------------------------------------------------------------------------------------------- keys


def test_ranking_by_keyboard_with_ties_notes_undo_skip_and_all_bad(serve, opened):
    server = serve(rows(6, k=4))
    tab = opened(server.url)
    shown = texts(tab)
    assert tab.is_disabled("#save")
    press(tab, "3 1 = 4")
    assert strip(tab) == ["1st 3", "2nd 1 = 4", "3rd, the rest 2"]
    assert tab.inner_text(".card:nth-of-type(4) .rank") == "2nd =" and "2nd: 1 equals 4" in tab.inner_text("#said")
    press(tab, "r")
    tab.keyboard.type("short and true 1 2 s u")  # letters are letters in a field
    press(tab, "Escape w")
    tab.keyboard.type("A better one")
    press(tab, "Escape Enter")
    saved(tab, 1)
    (row,) = rankings(server)
    assert by_text(row) == {shown[2]: 1, shown[0]: 2, shown[3]: 2, shown[1]: 3}
    assert row["reason"] == "short and true 1 2 s u" and row["better"] == "A better one" and 0 < row["seconds"] < 60
    assert texts(tab) != shown and strip(tab) == [] and tab.input_value("#reason") == ""

    press(tab, "2 Shift+Digit3 Backspace 4 2 1")  # 2 and 3 tied, 3 out, 4 second, 2 out again, 1 third
    assert strip(tab)[:2] == ["1st 4", "2nd 1"]
    press(tab, "u")
    until(tab, "#status", lambda words: words.startswith("Taken back"))
    assert texts(tab) == shown and tab.input_value("#better") == "A better one" and len(strip(tab)) == 3
    press(tab, "Backspace Backspace Backspace 2 Enter")
    saved(tab, 1)
    (row,) = rankings(server)
    assert by_text(row) == {shown[1]: 1, shown[0]: 2, shown[2]: 2, shown[3]: 2}
    assert strip(tab)[:2] == ["1st 4", "2nd 1"]  # what was begun is still there

    press(tab, "Enter")
    saved(tab, 2)
    press(tab, "b")
    saved(tab, 3)
    press(tab, "s")
    saved(tab, 4)
    press(tab, "e Enter")
    saved(tab, 5)
    press(tab, "9")
    assert strip(tab) == [] and "4 answers" in tab.inner_text("#said")
    press(tab, "Enter")
    assert "best answer" in tab.inner_text("#notice") and len(rankings(server)) == 5
    press(tab, "1 0")
    tab.wait_for_selector("#finished:not([hidden])")
    verdicts = [(row["verdict"], row["ranking"] and sorted(row["ranking"])) for row in rankings(server)]
    assert verdicts[1:] == [
        ("ranked", [1, 2, 3, 3]),
        ("all_bad", None),
        ("skip", None),
        ("ranked", [1, 1, 1, 1]),
        ("all_bad", [1, 2, 2, 2]),
    ]
    press(tab, "u")
    tab.wait_for_selector(".card")
    assert strip(tab)[0] == "1st " + strip(tab)[0][-1]


def test_with_tab_and_arrows_alone(serve, opened):
    """Without the single keys: every action is a button with a name, and chips move with arrows."""
    server = serve(rows(2))
    tab = opened(server.url)
    tab.click("#show-keys")
    tab.uncheck("#use-keys")
    press(tab, "Escape")
    press(tab, "1 b")
    assert strip(tab) == [] and rankings(server) == []
    for number in (1, 2, 3):
        button = tab.get_by_role("button", name=f"Answer {number}: place next")
        button.focus()
        press(tab, "Enter")
    assert strip(tab) == ["1st 1", "2nd 2", "3rd 3"]
    tab.get_by_role("button", name="Answer 3, 3rd; left and right arrows move it").focus()
    press(tab, "ArrowLeft")
    assert strip(tab) == ["1st 1", "2nd 2 = 3"]
    press(tab, "ArrowLeft ArrowLeft")
    assert strip(tab) == ["1st 1 = 3", "2nd 2"]
    press(tab, "Delete")
    assert strip(tab) == ["1st 1", "2nd 2", "3rd, the rest 3"]
    tab.get_by_role("button", name="Save Enter").focus()
    press(tab, "Enter")
    saved(tab, 1)
    assert tab.evaluate("document.activeElement.id") == "prompt"


@pytest.mark.parametrize(
    ("key", "code", "does"),
    [
        ("S", "KeyS", "Skipped"),  # Caps Lock
        ("ы", "KeyS", "Skipped"),  # a Russian layout
        ("لا", "KeyB", "Saved as all bad"),  # an Arabic one
        ("à", "Digit0", "Saved as all bad"),  # a French one has the digits on Shift
        ("o", "KeyS", None),  # Dvorak's o lies where others have s
        (".", "KeyE", None),
        ("ß", "KeyS", None),
    ],
)
def test_letters_are_keys_in_capitals_and_on_other_layouts(serve, opened, key, code, does):
    server = serve(rows(3))
    tab = opened(server.url)
    press_as(tab, key, code)
    if does:
        until(tab, "#status", lambda words: words.startswith(does))
    press_as(tab, "У", "KeyE")
    assert len(strip(tab)) == 1 and len(rankings(server)) == bool(does)
    press(tab, "Control+s Shift+Digit0")
    tab.wait_for_timeout(200)
    assert len(rankings(server)) == bool(does)


# ------------------------------------------------------------------------------------------------------------- mouse


def drag(tab, start, end):
    for selector, move in ((start, True), (end, False)):
        box = tab.query_selector(selector).bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=6)
        if move:
            tab.mouse.down()
    tab.mouse.up()


def test_ranking_by_mouse(serve, opened):
    server = serve(rows(2, k=4))
    tab = opened(server.url)
    shown = texts(tab)
    tab.click(".card:nth-of-type(2) .number")
    drag(tab, ".card:nth-of-type(4) .head", "#ranking .gap:first-child")  # before the first
    assert strip(tab)[:2] == ["1st 4", "2nd 2"]
    drag(tab, ".card:nth-of-type(1) .number", "#ranking [data-group='1']")  # onto a rank: a tie
    assert strip(tab)[:2] == ["1st 4", "2nd 2 = 1"]
    drag(tab, ".chip[data-answer='3']", "#ranking [data-rest]")  # out again
    assert strip(tab) == ["1st 2 = 1", "2nd, not placed: tied last 3 = 4"]
    tab.click(".card:nth-of-type(3) .tie")
    assert strip(tab) == ["1st 2 = 1 = 3", "2nd, the rest 4"]
    drag(tab, ".chip[data-answer='2']", "#ranking .gap[data-gap='1']")
    assert strip(tab) == ["1st 2 = 1", "2nd 3", "3rd, the rest 4"]
    press(tab, "Enter")  # after clicks Enter still means save
    saved(tab, 1)
    assert by_text(rankings(server)[0]) == {shown[0]: 1, shown[1]: 1, shown[2]: 2, shown[3]: 3}


def test_ranking_by_touch_on_a_phone(serve, opened):
    server = serve(rows(1, k=9))
    tab = opened(server.url, width=390, has_touch=True, is_mobile=True)
    shown = texts(tab)
    tab.tap(".card:nth-of-type(3) .number")
    tab.tap(".card:nth-of-type(1) .number")
    until(tab, "#said", lambda words: "2nd" in words)
    assert strip(tab)[:2] == ["1st 3", "2nd 1"]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.tap("#save")
    tab.wait_for_selector("#finished:not([hidden])")
    assert by_text(rankings(server)[0])[shown[2]] == 1


# ------------------------------------------------------------------------------------------------- reload, two people


def test_a_reload_in_the_middle_brings_task_and_ranks_back(serve, opened):
    server = serve(rows(5))
    tab = opened(server.url)
    shown = texts(tab)
    press(tab, "2 3 r")
    tab.keyboard.type("why")
    tab.reload()
    tab.wait_for_selector(".card")
    assert texts(tab) == shown and strip(tab)[:2] == ["1st 2", "2nd 3"] and tab.input_value("#reason") == "why"
    press(tab, "Enter")
    saved(tab, 1)
    assert [row["reason"] for row in rankings(server)] == ["why"]


def test_two_annotators_at_once_and_a_name_in_use(serve, opened):
    server = serve(rows(10))
    ada, bob = opened(server.url), opened(server.url, name="Bob")
    for count in range(1, 5):
        assert ada.inner_text("#prompt") != bob.inner_text("#prompt")
        for tab in (ada, bob):
            press(tab, "1 Enter")
        for tab in (ada, bob):
            saved(tab, count)
    found = rankings(server)
    assert len({row["item"] for row in found}) == len(found) == 8

    other = opened(server.url, name=None)
    other.fill("#name", "ada")
    other.click("text=Begin")
    other.wait_for_selector("#take-over:not([hidden])")
    assert "at work in another browser" in other.inner_text("#login-error")
    question = ada.inner_text("#prompt")
    other.click("#take-over")
    other.wait_for_selector("#work:not([hidden])")
    assert other.inner_text("#prompt") == question  # the same person goes on with the same task
    press(ada, "1 Enter")
    ada.wait_for_selector("#login:not([hidden])")
    assert len(rankings(server)) == 8


def test_the_same_person_in_two_tabs_answers_once(serve, opened):
    server = serve(rows(3))
    first = opened(server.url)
    second = first.context.new_page()
    second.goto(server.url)
    second.wait_for_selector(".card")
    press(first, "1 Enter")
    saved(first, 1)
    press(second, "2 Enter")
    second.wait_for_selector("#notice:not([hidden])")
    assert second.inner_text("#prompt") == first.inner_text("#prompt") and len(rankings(server)) == 1
    for count in (2, 3):
        press(first, "1 Enter")
        saved(first, count)
    press(second, "2 Enter")  # of the task that the first tab has answered, and nothing is left
    until(second, "#progress", lambda words: "answer already" in words)
    assert second.is_visible("#finished") and len(rankings(server)) == 3


def held(tab, path):
    """The requests to `path`, kept back until each is told to go on."""
    kept = []
    tab.route(f"**{path}", lambda route: kept.append(route))
    return kept


def wait_for(tab, kept, count=1):
    for _ in range(300):
        if len(kept) == count:
            return
        tab.wait_for_timeout(50)
    raise AssertionError(kept)


def test_while_an_answer_is_being_saved_nothing_changes(serve, opened):
    server = serve(rows(2))
    tab = opened(server.url)
    kept = held(tab, "/api/answer")
    press(tab, "2 1 Enter")
    wait_for(tab, kept)
    before = strip(tab)
    press(tab, "e Backspace 3")
    tab.click("#leave")
    assert strip(tab) == before and tab.is_hidden("#login")
    kept[0].continue_()
    saved(tab, 1)
    assert tab.is_visible("#work")
    press(tab, "u")
    until(tab, "#status", lambda words: words.startswith("Taken back"))
    assert strip(tab) == before
    tab.click("#leave")
    tab.wait_for_selector("#login:not([hidden])")


def test_where_nothing_was_being_saved_enter_is_not_said_to_repeat_it(serve, opened):
    server = serve(rows(3, k=4))
    tab = opened(server.url)
    press(tab, "1 Enter")
    saved(tab, 1)
    server.kill()
    press(tab, "2 u")
    until(tab, "#notice", lambda words: words == "The server does not answer. Your work is kept in this tab.")
    press(tab, "Enter")
    until(tab, "#notice", lambda words: words.endswith("press Enter to try again."))
    tab.click("#leave")
    until(tab, "#notice", lambda words: words == "The server does not answer. Your work is kept in this tab.")
    assert tab.is_visible("#work")


def test_the_work_goes_on_without_the_guidelines(serve, opened):
    server = serve(rows(2))
    tab = opened(server.url, name=None)
    tab.route("**/api/guidelines", lambda route: route.abort())
    tab.fill("#name", "Ada")
    press(tab, "Enter")
    until(tab, "#guidelines-text", lambda words: words.startswith("The guidelines did not come: The server"))
    press(tab, "1 Enter")
    saved(tab, 1)
    tab.reload()
    tab.wait_for_selector("#work:not([hidden])")


def test_begin_twice_is_once(serve, opened):
    server = serve(rows(2))
    tab = opened(server.url)
    tab.click("#leave")
    tab.wait_for_selector("#login:not([hidden])")
    kept = held(tab, "/api/login")
    press(tab, "Enter Enter")
    tab.click("#begin")
    wait_for(tab, kept)
    kept[0].continue_()
    tab.wait_for_selector("#work:not([hidden])")
    assert len(kept) == 1 and tab.is_hidden("#login-error")


def test_ranks_do_not_go_to_another_item_of_the_same_number(serve, opened):
    """A copy of the labels was put back, and task 1 is about something else in it."""
    server = serve(rows(3))
    tab = opened(server.url)
    question = tab.inner_text("#prompt")
    press(tab, "2 1")
    server.kill()
    with sqlite3.connect(server.path) as db:
        db.execute("UPDATE tasks SET item = (SELECT max(number) FROM items WHERE number != tasks.item)")
    server.start()
    press(tab, "Enter")
    until(tab, "#notice", lambda words: "something else by now" in words)
    assert tab.inner_text("#prompt") != question and strip(tab) == [] and rankings(server) == []
    press(tab, "3 Enter")
    saved(tab, 1)


def test_two_people_in_one_browser_do_not_save_for_each_other(serve, opened):
    """One browser has one annotator at a time; a tab of the other's says so and keeps what it has."""
    server = serve(rows(8))
    ada = opened(server.url)
    press(ada, "1 Enter")
    saved(ada, 1)
    bob = ada.context.new_page()
    bob.goto(server.url)
    bob.click("#leave")
    bob.wait_for_selector("#login:not([hidden])")
    bob.fill("#name", "Bob")
    press(bob, "Enter")
    bob.wait_for_selector("#work:not([hidden])")
    question = ada.inner_text("#prompt")
    assert bob.inner_text("#prompt") != question  # Ada's is hers while there are others
    press(bob, "2 Enter")
    saved(bob, 1)

    for keys in ("3 2 Enter", "u", "s"):
        press(ada, keys)
        ada.wait_for_selector("#login:not([hidden])")
        assert ada.inner_text("#login-error").startswith("Bob works in this browser now")
        assert len(rankings(server)) == 2
        press(ada, "1 Enter")  # a number pressed blindly is no part of the name
        ada.wait_for_selector("#work:not([hidden])")
        assert ada.inner_text("#prompt") == question and strip(ada)[:2] == ["1st 3", "2nd 2"]
        press(bob, "s")  # and now Bob's tab is the other's
        bob.wait_for_selector("#login:not([hidden])")
        press(bob, "Enter")
        bob.wait_for_selector("#work:not([hidden])")
    ada.reload()
    until(ada, "#login-error", lambda words: words.startswith("Bob works in this browser now"))
    assert ada.input_value("#name") == "Ada"
    press(ada, "Enter")
    ada.wait_for_selector("#work:not([hidden])")
    press(ada, "Enter")
    saved(ada, 2)
    assert [row["annotator"] for row in rankings(server)] == ["Ada", "Bob", "Ada"]
    bob.click("#leave")  # Bob's tab leaves; Ada, who is logged in, stays
    press(ada, "1 Enter")
    saved(ada, 3)


def anew(server, items):
    """Other labels at the same address."""
    server.kill()
    server.path.unlink()
    with Store(server.path) as store:
        store.add(items)
    server.start()


def test_a_tab_takes_nothing_from_one_project_into_another(serve, opened):
    server = serve(rows(3, k=4))
    tab = opened(server.url)
    press(tab, "4 1 r")
    tab.keyboard.type("why")
    press(tab, "Escape")
    others = [{"prompt": f"Other {i}?", "completions": list("abcd")} for i in range(3)]
    anew(server, others)
    press(tab, "Enter")  # without a reload: the page names the labels that it was opened for
    until(tab, "#notice", lambda words: words.startswith("Other labels are served here"))
    assert tab.inner_text("#prompt").startswith("Other") and strip(tab) == [] and tab.input_value("#reason") == ""
    press(tab, "2 1")
    anew(server, rows(3, k=3))
    press(tab, "u")
    until(tab, "#prompt", lambda words: words.startswith("Question"))
    assert tab.inner_text("#notice").startswith("Other labels are served here")
    press(tab, "3")
    anew(server, others)
    tab.reload()
    tab.wait_for_selector(".card")
    assert strip(tab) == [] and rankings(server) == []
    press(tab, "1 Enter")
    saved(tab, 1)


def test_who_leaves_holds_nothing_up_and_finds_the_ranks_again(serve, opened):
    server = serve(rows(2))
    ada = opened(server.url)
    press(ada, "3 1")
    question = ada.inner_text("#prompt")
    manager = opened(server.url, name=None)
    manager.goto(server.url + "manage")
    until(manager, "#counts", lambda words: "still wanted1in hand1" in words)
    ada.click("#leave")
    ada.wait_for_selector("#login:not([hidden])")
    manager.reload()
    until(manager, "#counts", lambda words: "still wanted2in hand0" in words)
    press(ada, "Enter")
    ada.wait_for_selector("#work:not([hidden])")
    assert ada.inner_text("#prompt") == question and strip(ada)[:2] == ["1st 3", "2nd 1"]
    ada.click("#leave")
    ada.wait_for_selector("#login:not([hidden])")
    bob = opened(server.url, name="Bob")
    press(bob, "1 Enter")
    saved(bob, 1)
    assert bob.inner_text("#prompt") == question
    press(ada, "Enter")
    ada.wait_for_selector("#finished:not([hidden])")


def test_the_api_refuses_what_is_not_about_this_annotator_and_these_labels(tmp_path):
    from starlette.testclient import TestClient

    with Store(tmp_path / "labels.sqlite") as store:
        store.add(rows(2))
        app = Labelling(store, tmp_path, "align export …").application(ServeArguments())
        word = app.state.entry.enter(app.state.entry.tokens["visitor"])
        headers = {"x-align": "1", "x-align-session": word}
        web = TestClient(app, base_url="http://127.0.0.1:7860", headers=headers)
        state = web.post("/api/login", json={"name": "Ada \u00c9"}).json()
        answer = {"task": state["task"]["id"], "ranking": [1, 2, 3]}
        for number in (10**30, 2**63, 0, -1, True, "1", None):
            refused = web.post("/api/answer", json={**answer, "task": number})
            assert refused.status_code == 400 and "number of a task" in refused.json()["error"], number
        bob = {"x-align-annotator": "Bob"}
        for path, body in (("answer", answer), ("answer", {**answer, "skip": True}), ("undo", {}), ("alive", {})):
            refused = web.post(f"/api/{path}", json=body, headers=bob)
            assert refused.status_code == 409 and refused.json()["other"] is True, path
        assert web.get("/api/state", headers=bob).status_code == 409
        assert web.post("/api/logout", json={}, headers=bob).status_code == 200  # and Ada is still logged in
        ada = {"x-align-annotator": "Ada%20%C3%89"}
        for path, body in (("answer", answer), ("undo", {})):
            assert web.post(f"/api/{path}", json={**body, "labels": "others"}, headers=ada).status_code == 410
        assert store.counts()["answers"] == 0
        body = {**answer, "labels": state["labels"]}
        assert web.post("/api/answer", json=body, headers=ada).json()["saved"] == answer["task"]


# -------------------------------------------------------------------------------------------------------- bad weather


def test_text_from_models_is_shown_and_never_run(serve, opened):
    hostile = HOSTILE[0]
    server = serve([{"prompt": [{"role": "user", "content": hostile}], "completions": HOSTILE}])
    (server.path.parent / "guidelines.md").write_text(f"# {hostile}\n\n- **{HOSTILE[1]}**\n")
    tab = opened(server.url)
    assert sorted(texts(tab)) == sorted(HOSTILE) and tab.inner_text("#prompt .text") == hostile
    tab.goto(server.url + "manage")
    tab.wait_for_selector("#preview li")
    assert HOSTILE[1] in tab.inner_text("#preview")
    for node in ("script:not([src])", "img", "svg", "b", "i"):
        assert tab.query_selector(f"main {node}") is None, node
    assert tab.evaluate("window.hurt") is None


def test_a_killed_server_loses_nothing_confirmed_and_the_page_goes_on(serve, opened):
    server = serve(rows(30))
    tab = opened(server.url)
    for count in range(1, 6):
        press(tab, "1 2 Enter")
        saved(tab, count)
    server.kill()
    shown = texts(tab)
    press(tab, "3 1 Enter")
    tab.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in tab.inner_text("#notice") and "Enter" in tab.inner_text("#notice")
    assert texts(tab) == shown and strip(tab)[:2] == ["1st 3", "2nd 1"] and len(rankings(server)) == 5
    server.start()
    press(tab, "Enter")  # the new server knows no session; the page logs in again by itself
    saved(tab, 6)
    assert tab.is_hidden("#notice")
    row = rankings(server)[-1]
    assert by_text(row) == {shown[2]: 1, shown[0]: 2, shown[1]: 3}


def test_a_locked_file_is_said_and_tried_again(serve, opened):
    import sqlite3

    server = serve(rows(3))
    tab = opened(server.url)
    other = sqlite3.connect(server.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    press(tab, "1 Enter")
    tab.wait_for_selector("#notice:not([hidden])")
    assert "Not saved" in tab.inner_text("#notice") and "locked" in tab.inner_text("#notice")
    other.execute("ROLLBACK")
    press(tab, "Enter")
    saved(tab, 1)


def test_ten_thousand_items_and_long_answers(serve, opened):
    long = "many words, " * 1700  # 20 kB
    items = [
        {
            "prompt": f"Question {i}?",
            "completions": [f"{j} {long if i < 50 else ''}{i}" for j in range(4)],
            "priority": float(i < 50),
        }
        for i in range(10_000)
    ]
    server = serve(items)
    tab = opened(server.url)
    start = time.time()
    tab.reload()
    tab.wait_for_selector(".card")
    assert time.time() - start < 30  # a fifth of a second, where nothing else runs
    assert "0 of 10000" in tab.inner_text("#progress")
    box = tab.query_selector(".card .body")
    assert box.evaluate("node => node.scrollHeight > 3 * node.clientHeight") and box.bounding_box()["height"] < 500
    tab.click(".card:nth-of-type(1) .whole")
    assert box.bounding_box()["height"] > 1000
    press(tab, "1 Enter")
    saved(tab, 1)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("k", [2, 9])
def test_no_sideways_scrolling(serve, opened, width, k):
    long = [f"{j} " + "unbroken" * 60 + " and more words " * 30 for j in range(k)]
    server = serve(
        [
            {
                "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "W" * 300}],
                "completions": long,
            }
        ]
    )
    tab = opened(server.url, width=width)
    press(tab, "1 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    press(tab, "g")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.goto(server.url + "manage")
    tab.wait_for_selector("#annotators td")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_guidelines_on_a_phone_are_a_dialog(serve, opened):
    """They lie over the page, so the focus is in them, the keys do not reach behind them, and the focus comes back."""
    server = serve(rows(2))
    tab = opened(server.url, width=390)
    tab.click("#show-guidelines")
    tab.wait_for_selector("#guidelines-text h2")
    assert tab.evaluate("document.activeElement.textContent") == "Close" and tab.is_visible("#guidelines-text")
    press(tab, "1 b s Control+Enter Tab Tab Tab")
    assert strip(tab) == [] and rankings(server) == []
    assert tab.evaluate("document.activeElement.closest('dialog, body').id") in ("sheet", "")  # never what is covered
    press(tab, "Escape")
    assert tab.is_hidden("#guidelines-text")
    tab.focus("#show-guidelines")
    press(tab, "Enter Escape")
    assert tab.is_hidden("#guidelines-text") and tab.evaluate("document.activeElement.id") == "show-guidelines"
    press(tab, "g g 1 g")
    assert tab.is_visible("#guidelines-text") and len(strip(tab)) == 2
    tab.evaluate("for (let i = 0; i < 2; i++) document.getElementById('show-guidelines').click()")
    tab.wait_for_timeout(200)  # the browser says "closed" late, when they are open again
    assert tab.is_visible("#guidelines-text")
    tab.set_viewport_size({"width": 1280, "height": 860})  # there is room beside the task now
    tab.wait_for_selector("#guidelines:not([hidden]) #guidelines-text")
    assert not tab.evaluate("document.getElementById('sheet').open")
    press(tab, "2 g")
    assert tab.is_hidden("#guidelines-text") and len(strip(tab)) == 3


def test_words_run_in_the_direction_of_their_script(serve, opened):
    server = serve(rows(2))
    name = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"  # Ali-Reza, with a zero-width non-joiner
    (server.path.parent / "guidelines.md").write_text("# \u0639\n\n\u0639\u0644\n\n- \u0639\n\nplain")
    tab = opened(server.url, name=name)
    assert name in tab.inner_text("#leave")
    for field in ("#reason", "#better"):
        tab.fill(field, name)
    direction = "nodes => nodes.map(node => getComputedStyle(node).direction)"
    words = "#reason, #better, #guidelines-text h2, #guidelines-text p, #guidelines-text li"
    assert tab.eval_on_selector_all(words, direction) == ["rtl"] * 5 + ["ltr"]
    press(tab, "Escape 1 Enter")
    saved(tab, 1)
    assert [row["annotator"] for row in rankings(server)] == [name]
    press(tab, "r")
    tab.evaluate("document.getElementById('reason').value = 'half \\ud83d'")
    tab.evaluate("document.getElementById('reason').dispatchEvent(new Event('input'))")
    press(tab, "Escape 1 Enter")
    tab.wait_for_selector("#finished:not([hidden])")
    assert rankings(server)[-1]["reason"] == "half \ufffd"


# ------------------------------------------------------------------------------------------------------------ manager


def test_the_manager_sees_progress_and_agreement_and_edits_the_guidelines(serve, opened):
    server = serve(rows(12), shared_by=2, repeats=0.2)
    tabs = [opened(server.url), opened(server.url, name="Bob")]
    for tab in tabs:
        for count in range(1, 13):
            press(tab, "1 2 Enter")
            saved(tab, count)
    manager = opened(server.url, name=None)
    manager.goto(server.url + "manage")
    manager.wait_for_selector("#table td")
    manager.wait_for_selector("#save:enabled")
    words = manager.inner_text("main")
    assert (
        "Ada" in words
        and "at work" in words
        and "Kendall" in words
        and "Krippendorff" in words
        and "align export" in words
    )
    manager.fill("#text", "# New rules\n\n- Be **kind**.")
    manager.click("#save")
    until(manager, "#saved", lambda words: words == "Saved.")
    assert (server.path.parent / "guidelines.md").read_text() == "# New rules\n\n- Be **kind**."
    tabs[0].reload()
    until(tabs[0], "#guidelines-text strong", lambda words: words == "kind")
    (server.path.parent / "guidelines.md").write_text("changed by somebody else")
    manager.fill("#text", "lost?")
    manager.click("#save")
    until(manager, "#saved", lambda words: words.startswith("Not saved:"))
    assert (server.path.parent / "guidelines.md").read_text() == "changed by somebody else"


def test_the_managers_page_in_a_tab_behind_others_can_be_used_once_it_is_looked_at(serve, opened):
    server = serve(rows(2))
    tab = opened(server.url, name=None)
    tab.add_init_script("Object.defineProperty(Document.prototype, 'hidden', { get: () => true })")
    tab.goto(server.url + "manage")
    tab.wait_for_selector("#save:enabled")
    tab.fill("#text", "Be kind.")
    tab.click("#save")
    until(tab, "#saved", lambda words: words == "Saved.")
    tab.route("**/api/guidelines", lambda route: route.abort())
    tab.goto(server.url + "manage")
    until(tab, "#saved", lambda words: words.startswith("The guidelines did not come:"))
    assert tab.is_disabled("#save") and tab.is_disabled("#text")


def link(server, path):
    return next(word for word in server.said.split() if f"/{path}#token=" in word)


def test_a_link_lets_its_reader_in_and_the_page_without_it_says_how(serve, opened):
    server = serve(rows(5), token="annotators-token")
    stranger = opened(server.url, name=None)
    stranger.locator("#shut", has_text="#token=").wait_for()
    assert stranger.inner_text("body") == stranger.inner_text("#shut")  # one sentence, and nothing else
    stranger.evaluate("location.hash = 'token=annotators-tokens'")  # a link that is put into the open tab
    stranger.locator("#shut", has_text="not whole").wait_for()
    stranger.evaluate("location.hash = 'token=annotators-token'")
    stranger.wait_for_selector("#login:not([hidden])")

    tab = opened(link(server, ""))
    assert tab.url == server.url and tab.context.cookies() == []  # not in the address bar, and nothing for other ports
    assert "annotators-token" not in tab.evaluate("JSON.stringify({ ...localStorage, ...sessionStorage })")
    press(tab, "1 Enter")
    saved(tab, 1)
    assert tab.is_hidden("#manage")
    for again in (tab.reload, tab.go_back, tab.go_forward, lambda: tab.goto(server.url)):  # a bookmark, in the end
        again()
        if tab.url == server.url:
            tab.wait_for_selector("#work:not([hidden])")
    second = tab.context.new_page()
    second.goto(server.url)
    second.wait_for_selector("#work:not([hidden])")
    tab.goto(server.url + "manage")
    until(tab, "#notice", lambda words: "manager" in words)
    server.kill()
    server.start()
    second.reload()
    second.wait_for_selector("#work:not([hidden])")


def test_new_links_end_every_session_but_the_managers(serve, opened):
    server = serve(rows(5), token="annotators-token")
    manager, ada = opened(link(server, "manage"), name=None), opened(link(server, ""))
    manager.wait_for_selector("#annotators td")
    assert manager.url == server.url + "manage" and manager.inner_text("#link") == link(server, "")
    press(ada, "2 r")
    ada.keyboard.type("why")
    manager.on("dialog", lambda dialog: dialog.accept())
    manager.click("#renew")
    until(manager, "#renewed", lambda words: words.startswith("Done"))
    press(ada, "Escape Enter")
    ada.locator("#shut", has_text="#token=").wait_for()
    assert rankings(server) == []
    ada.goto(manager.inner_text("#link"))  # and what was begun is still there
    ada.wait_for_selector(".card")
    assert strip(ada)[0] == "1st 2" and ada.input_value("#reason") == "why"
    manager.reload()
    manager.wait_for_selector("#annotators td")
    manager.goto(link(server, "manage"))
    manager.locator("#shut", has_text="no longer").wait_for()


def test_only_a_manager_writes_guidelines_and_makes_links_and_what_is_posted_has_its_length(tmp_path):
    from starlette.testclient import TestClient

    (tmp_path / "guidelines.md").write_text("ours")
    with Store(tmp_path / "labels.sqlite") as store:
        store.add(rows(2))
        app = Labelling(store, tmp_path, "align export …").application(ServeArguments())
        tokens = app.state.entry.tokens
        web = TestClient(app, base_url="http://127.0.0.1:7860", headers={"x-align": "1"})
        for path, body in (
            ("guidelines", {"text": "theirs", "before": "ours"}),
            ("renew", {}),
            ("login", {"name": "A"}),
        ):
            assert web.post(f"/api/{path}", json=body).status_code == 401, path  # another account of this machine
        web.headers["x-align-session"] = app.state.entry.enter(tokens["visitor"])
        for path, body in (("guidelines", {"text": "theirs", "before": "ours"}), ("renew", {})):
            assert web.post(f"/api/{path}", json=body).status_code == 403, path
        assert web.get("/api/manage").status_code == 403
        assert (tmp_path / "guidelines.md").read_text() == "ours" and app.state.entry.tokens == tokens
        start = time.perf_counter()
        for name in ("a" + "\u0301\u0316" * 25_000, "e\u0301" * 90_000, " " * 200_000):
            assert web.post("/api/login", json={"name": name}).status_code == 400
        assert time.perf_counter() - start < 1
        task = web.post("/api/login", json={"name": "Ada"}).json()["task"]["id"]
        answer = {"task": task, "ranking": [1, 2, 3]}
        for more in ({"reason": "x" * 100_001}, {"better": ["x"]}, {"mark": "m" * 1000}):
            assert web.post("/api/answer", json={**answer, **more}).status_code == 400
        assert store.counts()["answers"] == 0
        web.post("/api/login", json={"name": "\u0410da"})  # with a Cyrillic A
        web.headers["x-align-session"] = app.state.entry.enter(tokens["manager"])
        assert any("look alike" in line for line in web.get("/api/manage").json()["alike"])
        assert web.post("/api/renew", json={}).json() == app.state.entry.tokens != tokens


def test_guidelines_are_not_read_or_written_through_a_link(tmp_path):
    """In a folder that somebody sent, and in which `align label` is asked to work."""
    from starlette.testclient import TestClient

    secret = tmp_path / "secret"
    secret.write_text("the user's own")
    folder = tmp_path / "received"
    with Store(folder / "labels.sqlite") as store:
        store.add(rows(2))
        app = Labelling(store, folder, "align export …").application(ServeArguments())
        word = app.state.entry.enter(app.state.entry.tokens["manager"])
        web = TestClient(app, base_url="http://127.0.0.1:7860", headers={"x-align": "1", "x-align-session": word})
        (folder / "guidelines.md").symlink_to(secret)
        got = web.get("/api/guidelines")
        assert got.status_code == 409 and "link" in got.json()["error"] and "own" not in got.text
        (folder / "guidelines.md").unlink()
        (folder / "guidelines.md.part").symlink_to(secret)
        assert web.post("/api/guidelines", json={"text": "mine", "before": ""}).status_code == 200
        assert secret.read_text() == "the user's own" and (folder / "guidelines.md").read_text() == "mine"


def test_the_command_serves_a_run_and_ends_with_ctrl_c(tmp_path):
    source = write_rows(tmp_path / "sampled.jsonl", rows(3) + [{"prompt": "same", "completions": ["x", "x", "x"]}])
    command = [sys.executable, "-m", "align.cli", "label", str(source), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    while "Ctrl-C" not in said:
        said += process.stdout.readline() or pytest.fail(said + process.stderr.read())
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "stopped; 0 answers" in out, (out, err)
    assert "3 new; left out: 1 with identical completions" in said and "/manage" in said
    assert f"align export {tmp_path / 'label-sampled'} --output_dir {tmp_path / 'people'}" in said
    assert sorted(path.name for path in (tmp_path / "label-sampled").iterdir()) == [
        "guidelines.md",
        "labels.sqlite",
        "labels.sqlite.holds",
    ]
