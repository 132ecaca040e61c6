"""The page of `align chat` in a real Chromium: keys, streaming, blind votes, a killed server, hostile text, a phone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT, make_checkpoint
from test_label_page import HOSTILE, press, until

from align.label.store.store import Store

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = pytest.mark.slow  # a browser and a server for each

PROGRAM = """
import json, sys
sys.path.insert(0, "tests")
from test_talk_web import Scripted
from align.talk import program, speakers
from align.talk.config import ChatConfig
from align.web.server import ServeArguments
told = json.loads(sys.argv[1])
found = [Scripted(*one["said"], **one["how"]) for one in told["models"]]
speakers.load = lambda args: found
args = ChatConfig(models=[f"hub/{at}" for at in range(len(found))], web=True, **told["more"])
program._serve(args, ServeArguments(port=told["port"], no_token=True))
"""


class Server:
    """`align chat --web` over scripted models in a process of its own, that can be killed and started again."""

    def __init__(self, folder, models, more):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.told = json.dumps({"models": models, "more": more, "port": self.port})
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.told], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        said = ""
        while "Ctrl-C" not in said:  # said once the port is ours
            line = self.process.stdout.readline()
            assert line, said
            said += line
        return self

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def rankings(self):
        with Store(self.folder / "labels.sqlite", read_only=True) as store:
            return list(store.rankings())


@pytest.fixture
def serve(tmp_path):
    started = []

    def begin(*models, blind=False, **more):
        """`models`: name, answers … or (name, answers …), {how}."""
        told = [
            {"said": one, "how": {}} if isinstance(one[0], str) else {"said": one[0], "how": one[1]} for one in models
        ]
        more |= {"blind": True, "output_dir": str(tmp_path / "votes")} if blind else {}
        started.append(Server(tmp_path / "votes", told, more).start())
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def opened(browser):
    """Open the page in a browser of its own; afterwards no error may have been said on the console."""
    contexts, said = [], []

    def visit(url, name="", width=1280, height=860, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("console", lambda message: said.append(message.text) if "Security Policy" in message.text else None)
        tab.goto(url)
        if name:
            tab.wait_for_selector("#login:not([hidden])")
            tab.keyboard.type(name)
            tab.keyboard.press("Enter")
        tab.wait_for_selector("#bar:not([hidden])")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not said, said


def answers(tab, of=-1):
    """What stands in the columns of a round."""
    return [node.inner_text().strip() for node in tab.query_selector_all(".round")[of].query_selector_all(".body")]


def heads(tab, of=-1):
    return [
        " ".join(node.inner_text().split()) for node in tab.query_selector_all(".round")[of].query_selector_all(".head")
    ]


def ask(tab, words):
    tab.keyboard.type(words)
    tab.keyboard.press("Enter")


def there(tab):
    """The answers are there."""
    tab.wait_for_selector("#talk[aria-busy=false]")


def focus(tab):
    return tab.evaluate("document.activeElement.id")


TWO = (("sft", "alpha one", "alpha two", "alpha three"), ("dpo", "beta one", "beta two", "beta three"))


# -------------------------------------------------------------------------------------------------------------- talking


def test_a_conversation_by_keyboard(serve, opened):
    server = serve(
        (("sft", "one two three " * 6, "again"), {"pace": 0.02}), (("base", "so it goes"), {"goes_on": True})
    )
    tab = opened(server.url)
    assert focus(tab) == "words" and tab.inner_text("#who") == "sft and base"
    press(tab, "a Shift+Enter b")
    assert tab.input_value("#words") == "a\nb"
    press(tab, "Enter")
    tab.wait_for_selector("#stop:not([hidden])")
    until(tab, ".card:nth-of-type(1) .body", lambda words: words.startswith("one two"))
    short = tab.inner_text(".card:nth-of-type(1) .body")
    until(
        tab, ".card:nth-of-type(1) .body", lambda words: words.startswith(short) and len(words) > len(short)
    )  # it streams
    assert tab.input_value("#words") == "" and tab.inner_text(".words") == "a\nb"
    there(tab)
    assert answers(tab) == [("one two three " * 6).strip(), "so it goes"] and "goes on with your text" in heads(tab)[1]
    press(tab, "Escape r")
    there(tab)
    assert answers(tab)[0] == "again" and len(tab.query_selector_all(".round")) == 1
    press(tab, "t")
    assert focus(tab) == "words" and tab.input_value("#words") == ""
    ask(tab, "more 1 0 b")  # letters are letters in the box
    there(tab)
    assert tab.query_selector_all(".words")[1].inner_text() == "more 1 0 b"
    tab.reload()
    tab.wait_for_selector(".round:nth-of-type(2)")
    assert answers(tab, 0)[0] == "again"
    press(tab, "n")
    tab.wait_for_selector(".round", state="detached")


def test_a_model_that_never_stops_is_stopped(serve, opened):
    server = serve(
        (("endless", "words and "), {"endless": True, "pace": 0.002}), ("short", "yes"), max_new_tokens=10**6
    )
    tab = opened(server.url)
    ask(tab, "hello")
    until(tab, ".card:nth-of-type(1) .body", lambda words: len(words) > 40)
    ask(tab, "a draft")  # Enter while they answer sends nothing
    assert tab.input_value("#words") == "a draft"
    press(tab, "Escape")
    there(tab)
    assert answers(tab)[0].endswith("(stopped)") and answers(tab)[1] == "yes"
    assert tab.input_value("#words") == "a draft"
    press(tab, "Enter")
    until(tab, ".round:nth-of-type(2) .body", lambda words: len(words) > 10)
    tab.reload()  # soon enough: the answers go on
    until(tab, ".round:nth-of-type(2) .body", lambda words: len(words) > 10)
    press(tab, "Escape")
    there(tab)


def test_who_waits_is_told(serve, opened):
    server = serve((("endless", "words and "), {"endless": True, "pace": 0.002}), max_new_tokens=10**6)
    first, second = opened(server.url), opened(server.url)
    ask(first, "hello")
    until(first, ".body", lambda words: len(words) > 10)
    ask(second, "and I")
    until(second, "#status", lambda words: words == "Waiting: 1 page is answered before")
    first.close()  # a closed page stops its answers, and the next one's turn comes
    until(second, ".body", lambda words: len(words) > 10)
    press(second, "Escape")
    there(second)


def test_settings_and_the_file(serve, opened, tmp_path):
    server = serve(("one", "fine"))
    tab = opened(server.url)
    assert "temperature 0.7 · seed 0 · up to 256 tokens" in tab.inner_text("#show-settings")
    press(tab, "Escape s")
    tab.fill("#temperature", "9")
    tab.evaluate("document.getElementById('temperature').removeAttribute('max')")
    press(tab, "Enter")
    until(tab, "#settings-error", lambda words: words == "temperature: a number from 0 to 5")
    tab.fill("#temperature", "0.25")
    tab.fill("#system", "be kind")
    tab.click("text=Use these")
    until(
        tab, "#show-settings", lambda words: words.startswith("temperature 0.25") and words.endswith("system message")
    )
    tab.focus("#words")
    ask(tab, "hello")
    there(tab)
    press(tab, "Escape")
    with tab.expect_download() as download:
        press(tab, "d")
    download.value.save_as(tmp_path / "talk.jsonl")
    (row,) = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == ["be kind", "hello", "fine"] and row["model"] == "one"


@pytest.mark.parametrize("blind", [False, True])
def test_what_a_model_says_is_never_markup(serve, opened, blind):
    hostile = (("<i>a</i>", HOSTILE[0], HOSTILE[1]), ("b\u202e", HOSTILE[2], HOSTILE[3]))
    server = serve(*hostile, blind=blind, system="<img src=x onerror=window.hurt=6>")
    tab = opened(server.url, name="<b>Ada</b>" if blind else "")
    for at in range(2):
        tab.focus("#words")
        ask(tab, f"<script>window.hurt = 7</script>{at}")
        there(tab)
        assert sorted(answers(tab)) == sorted((hostile[0][at + 1], hostile[1][at + 1]))
        if blind:
            press(tab, "1")
            until(tab, ".round:last-child .outcome", lambda words: words.startswith("Saved."))
    assert (
        tab.evaluate("window.hurt") is None
        and tab.query_selector("#talk script, #talk b, #talk i, #talk img, #talk svg") is None
    )
    assert tab.title() == "Talk to models"


# ---------------------------------------------------------------------------------------------------------------- votes


def test_blind_votes_by_keyboard(serve, opened):
    server = serve(*TWO, blind=True)
    tab = opened(server.url, name="Ada")
    assert tab.inner_text("#who") == "Blind, among dpo and sft · Ada" and focus(tab) == "words"
    ask(tab, "first")
    there(tab)
    assert heads(tab) == ["1", "2"] and focus(tab) == "" and tab.is_disabled("#send")
    assert "sft" not in tab.inner_text("main") and "dpo" not in tab.inner_text("main")
    at = answers(tab).index("beta one")
    press(tab, "4")
    assert "2 answers" in tab.inner_text("#said") and server.rankings() == []
    press(tab, str(at + 1))
    until(tab, ".outcome", lambda words: words == "Saved. All models go on from the answer of dpo.")
    (row,) = server.rankings()
    assert (row["ranking"], row["sources"], row["annotator"]) == ([2, 1], ["sft", "dpo"], "Ada")
    assert heads(tab)[at] == f"{at + 1} dpo chosen" and focus(tab) == "words"

    ask(tab, "second")
    there(tab)
    tab.focus("#words")
    press(tab, "0")  # in the text box, which is empty
    until(tab, ".round:last-child .outcome", lambda words: words.startswith("Saved. A tie: all models go on from"))
    press(tab, "Escape u")
    until(tab, "#status", lambda words: words == "1 vote saved")
    assert heads(tab) == ["1", "2"] and len(server.rankings()) == 1
    press(tab, "b")
    until(tab, ".round:last-child .outcome", lambda words: words.startswith("Saved. All bad"))
    assert tab.input_value("#words") == "second"
    assert [row["verdict"] for row in server.rankings()] == ["ranked", "all_bad"]
    press(tab, "Enter")
    there(tab)
    press(tab, "2")
    until(tab, "#status", lambda words: words == "3 votes saved")
    prompts = [[turn["content"] for turn in row["prompt"]] for row in server.rankings()]
    assert prompts == [["first"], ["first", "beta one", "second"], ["first", "beta one", "second"]]

    ask(tab, "draft")
    there(tab)
    tab.focus("#words")
    tab.keyboard.type("1 is a number")  # the first key votes in an empty box, as the page says; the rest is text
    until(tab, "#status", lambda words: words == "4 votes saved")
    assert tab.input_value("#words") == " is a number"


def test_a_vote_is_due_before_anything_else_is_said(serve, opened):
    server = serve(*TWO, blind=True)
    tab = opened(server.url, name="Ada")
    ask(tab, "first")
    tab.keyboard.type("next words, typed meanwhile")
    there(tab)
    press(tab, "Enter")
    until(tab, "#notice", lambda words: words.startswith("Vote first"))
    press(tab, "1")  # the box is not empty: this is text
    assert tab.input_value("#words").endswith("meanwhile1") and server.rankings() == []
    press(tab, "Escape 1")
    until(tab, "#status", lambda words: words == "1 vote saved")
    assert tab.input_value("#words").endswith("meanwhile1")


def test_answers_that_are_the_same_are_said_to_be(serve, opened):
    server = serve(("sft", "same"), ("dpo", "same"), blind=True)
    tab = opened(server.url, name="Ada")
    ask(tab, "first")
    there(tab)
    press(tab, "1")
    until(tab, ".outcome", lambda words: words.startswith("These answers are all the same, so no vote was saved."))
    assert server.rankings() == []


def test_a_killed_server_loses_no_vote(serve, opened):
    server = serve(*TWO, blind=True)
    tab = opened(server.url, name="Ada")
    for count in (1, 2):
        ask(tab, f"words {count}")
        there(tab)
        press(tab, "1")
        until(tab, "#status", lambda words, count=count: words == f"{count} {'vote' if count == 1 else 'votes'} saved")
    ask(tab, "words 3")
    there(tab)
    server.kill()
    press(tab, "2")
    until(tab, "#notice", lambda words: words.startswith("Not saved: The server does not answer."))
    assert tab.inner_text("#status") == "2 votes saved" and len(answers(tab)) == 2  # what was said still stands there
    server.start()
    press(tab, "2")
    until(tab, "#notice", lambda words: words.startswith("Not saved: This conversation is over"))
    assert len(server.rankings()) == 2
    press(tab, "n")
    until(tab, "#notice", lambda words: words == "")
    ask(tab, "anew")
    there(tab)
    press(tab, "2")
    until(tab, "#status", lambda words: words == "3 votes saved")  # under the same name, which nobody typed again
    assert [row["annotator"] for row in server.rankings()] == ["Ada"] * 3


def test_a_server_killed_in_the_middle_of_an_answer(serve, opened):
    server = serve((("endless", "words and "), {"endless": True, "pace": 0.002}), max_new_tokens=10**6)
    tab = opened(server.url)
    ask(tab, "hello")
    until(tab, ".body", lambda words: len(words) > 10)
    server.kill()
    until(tab, "#notice", lambda words: words == "The server does not answer.")
    server.start()
    until(tab, "#notice", lambda words: words.startswith("This conversation is over"))
    assert len(answers(tab)[0]) > 10
    press(tab, "Escape n")
    until(tab, "#notice", lambda words: words == "")


# ---------------------------------------------------------------------------------------------------------------- shape


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
def test_nothing_is_wider_than_the_page(serve, opened, width):
    long = "w" * 300 + " and words " * 60
    names = ("a-run-with-a-rather-long-name-indeed", "dpo", "ppo", "sft")
    server = serve(*((name, name + long) for name in names), blind=True)
    tab = opened(server.url, name="Ada", width=width)
    ask(tab, "x" * 200)
    there(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    boxes = [node.bounding_box() for node in tab.query_selector_all(".card")]
    across = sum(abs(box["y"] - boxes[0]["y"]) < 2 for box in boxes)
    assert across == {320: 1, 390: 1, 800: 2, 1280: 4}[width]
    press(tab, "1")
    until(tab, ".outcome", lambda words: words.startswith("Saved."))
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_names_stay_in_sight_on_a_phone(serve, opened):
    server = serve(("sft", "words " * 400), ("dpo", "others " * 400))
    tab = opened(server.url, width=390, has_touch=True, is_mobile=True)
    tab.fill("#words", "hello")
    tab.tap("#send")
    there(tab)
    tab.evaluate("scrollTo(0, document.querySelector('.card').getBoundingClientRect().top + scrollY + 600)")
    tab.wait_for_timeout(100)
    box = tab.query_selector(".card .head").bounding_box()
    assert 0 <= box["y"] < 5 and tab.inner_text(".card .head") == "sft"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_light_and_dark(serve, opened, scheme):
    """The ratio of luminances (WCAG 2.2, 1.4.3) of answers, names and quiet words to what is behind them."""
    server = serve(*TWO, blind=True)
    tab = opened(server.url, name="Ada", color_scheme=scheme)
    ask(tab, "first")
    there(tab)
    press(tab, "1")
    until(tab, ".outcome", lambda words: words.startswith("Saved."))
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in (
        ".card.left .text",
        ".card.kept .text",
        ".head .name",
        ".head .mark",
        ".outcome",
        "#show-settings",
        "#status",
    ):
        ink = tab.eval_on_selector(selector, "node => getComputedStyle(node).color")
        assert contrast(ink, paper) >= 4.5, (selector, ink, paper)


def contrast(one, other):
    def luminance(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_command_over_real_models(opened, tmp_path):
    """`align chat … --web --blind` from its start to Ctrl-C, with two checkpoints."""
    paths = [str(make_checkpoint(tmp_path / name, seed)) for seed, name in enumerate(("one", "other"))]
    command = [sys.executable, "-m", "align.cli", "chat", *paths, "--web", "--blind", "--port", "0", "--prompt_format", "chat",
               "--max_new_tokens", "8", "--output_dir", str(tmp_path / "votes")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    while "Ctrl-C" not in said:
        said += process.stdout.readline() or pytest.fail(said + process.stderr.read())
    assert "one answers\nother answers\n" in said and f"align export {tmp_path / 'votes'}" in said
    tab = opened(next(word for word in said.split() if word.startswith("http")), name="Ada")
    ask(tab, "what is a cat")
    there(tab)
    press(tab, "1")
    until(tab, ".outcome", lambda words: words.startswith("Saved."))
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "stopped; 1 vote is in" in out, (out, err)
    with Store(tmp_path / "votes" / "labels.sqlite", read_only=True) as store:
        (row,) = store.rankings()
    assert row["sources"] == ["one", "other"] and sorted(row["ranking"]) == [1, 2]
