"""The page of `align chat`, its server: answers in turn, stopped and closed pages, and votes that training can take."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT, launch, make_checkpoint, make_tokenizer

from align.label.store.store import Store
from align.models.generate import Completion
from align.run.errors import ConfigError, RunError
from align.talk import program, speakers, talks
from align.talk.config import ChatConfig
from align.talk.conversation import Conversation
from align.talk.server import Talking
from align.web.server import ServeArguments

pytest.importorskip("starlette", reason="starlette is not installed")
from starlette.testclient import TestClient


class Scripted:
    """Says what it is told to, one character a token: `texts` in turn, by the draw's number. For tests of pages too."""

    def __init__(self, name, *texts, goes_on=False, pace=0.0, endless=False, error=None):
        self.name, self.texts, self.goes_on, self.pace, self.endless, self.error = (
            name,
            texts,
            goes_on,
            pace,
            endless,
            error,
        )
        self.room, self.heard, self.closed = None, [], 0
        self.tokenizer = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: "one vocabulary"))

    def answer(self, turns, *, temperature, max_new_tokens, seed, number):
        self.heard.append((json.loads(json.dumps(turns)), temperature, max_new_tokens, seed, number))
        if self.error:
            raise self.error
        text = self.texts[number % len(self.texts)]
        try:
            for at in range(1, (10**9 if self.endless else len(text)) + 1):
                time.sleep(self.pace)
                said = (text * (at // len(text) + 1))[:at] if self.endless else text[:at]
                yield Completion(list(range(at)), said, not self.endless and at == len(text))
        finally:
            self.closed += 1


class Page:
    """What the page asks of the server, with one conversation."""

    def __init__(self, talking, web=None, name="", open=True):
        self.talking, self.web = talking, web
        if web is None:
            app = talking.application(ServeArguments(no_token=True))
            self.web = TestClient(app, base_url="http://127.0.0.1:7860", headers={"x-align": "1"})
            self.web.headers["x-align-session"] = app.state.entry.enter("")
        self.state = self.post("open", name=name) if open else None

    def try_post(self, path, **body):
        key = {"key": self.state["key"]} if getattr(self, "state", None) else {}
        return self.web.post(f"/api/{path}", json=key | body)

    def post(self, path, **body):
        found = self.try_post(path, **body)
        assert found.status_code == 200, found.text
        self.state = found.json()
        return self.state

    def look(self, **values):
        return self.web.get("/api/look", params={"key": self.state["key"], **values}).json()

    def until(self, fits=lambda state: not state["busy"], seconds=20):
        ends = time.monotonic() + seconds
        while not fits(state := self.look()):
            assert time.monotonic() < ends, state
            time.sleep(0.01)
        self.state = state
        return state

    def say(self, words):
        self.post("say", words=words)
        return self.until()

    def refused(self, path, **body):
        found = self.try_post(path, **body)
        assert found.status_code >= 400, found.text
        return found.json()["error"]

    def texts(self):
        return [column["text"] for column in self.state["rounds"][-1]["columns"]]


@pytest.fixture
def begin(tmp_path):
    """A page over scripted models; with `blind`, votes go to a store in `tmp_path`."""
    made, stores = [], []

    def start(*found, blind=False, name="Ada", **more):
        args = ChatConfig(models=[f"a/{one.name}" for one in found], web=True, blind=blind, **more)
        if blind:
            stores.append(Store(tmp_path / "votes" / "labels.sqlite"))
        made.append(Talking(list(found), args, stores[-1] if blind else None))
        return Page(made[-1], name=name if blind else "")

    yield start
    for talking in made:
        talking.worker.end()
        assert not talking.worker.is_alive() and not talking.worker.broken
    for store in stores:
        store.close()


def rows(page):
    return list(page.talking.store.rankings())


# ------------------------------------------------------------------------------------------------------------- answers


def test_a_page_gets_the_answers_of_the_terminal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    paths = [str(make_checkpoint(folder / name, seed)) for seed, name in enumerate(("one", "other"))]
    args = ChatConfig(models=paths, max_new_tokens=12, prompt_format="chat", temperature=1.0, seed=3, web=True)
    found = speakers.load(args)
    alone = Conversation(found, args)
    expected = [list(alone.ask("what is a cat"))[-1], list(alone.ask("and a dog"))[-1]]
    page = Page(Talking(found, args, None))
    page.say("what is a cat")
    page.say("and a dog")
    for one, said in zip(page.state["rounds"], expected, strict=True):
        assert [(column["name"], column["text"]) for column in one["columns"]] == [
            (name, said[name].text) for name in ("one", "other")
        ]
    saved = page.web.get("/api/save", params={"key": page.state["key"]}).json()["lines"]
    assert saved == alone.lines() and page.state["draw"] == 2
    page.talking.worker.end()


def test_a_look_brings_what_is_new(begin):
    """By edition and characters: what the page has already does not come again, and what is no beginning comes whole."""
    page = begin(Scripted("one", "ä😀b"), Scripted("other", "x" * 400, pace=0.02))
    page.post("say", words="hello")
    number = page.state["rounds"][-1]["number"]
    page.until(lambda state: len(state["rounds"][-1]["columns"][1]["text"]) > 5 or not state["busy"])
    whole = page.look(round=number, have="")
    assert whole["columns"][0]["text"] == "ä😀b" and whole["columns"][0]["start"] == 0
    more = page.look(round=number, have="0.2,0.3")
    assert (more["columns"][0]["start"], more["columns"][0]["text"]) == (2, "b")
    assert more["columns"][1]["start"] == 3
    for odd in ("7.2,9.9", "0.99,x", "0.²,0.-1", "0.2", ",,,,,", "." * 50):
        found = page.look(round=number, have=odd)["columns"]
        assert found[0]["text"] in ("ä😀b", "b") and len(found) == 2, odd
    page.post("stop")
    page.until()


def test_a_line_grows_by_whole_characters_and_begins_anew_where_it_must(begin):
    page = begin(Scripted("one", "abc"))
    page.say("hello")
    talk = page.talking.talks[page.state["key"]]
    now = talk.rounds[-1]
    for text, shown, edition in (("a\ufffd", "a", 1), ("aé", "aé", 1), ("b", "b", 2)):
        talk._hear(now, {"one": Completion([1], text, False)})
        assert (now.lines["one"].text, now.lines["one"].edition) == (shown, edition)
    talk._hear(now, {"one": Completion([1], "", False, "let me see")})
    assert now.lines["one"].thinking


def test_stop_keeps_what_was_said_and_other_answers_are_the_next_draw(begin):
    endless = Scripted("endless", "words ", endless=True, pace=0.001)
    page = begin(endless, Scripted("short", "yes", "no"), max_new_tokens=10**6)
    page.post("say", words="hello")
    page.until(lambda state: len(state["rounds"][-1]["columns"][0]["text"]) > 20)
    assert page.refused("say", words="more").startswith("An answer is on its way")
    assert page.refused("reset") and page.refused("again")
    page.post("stop")
    state = page.until()
    first, second = state["rounds"][-1]["columns"]
    assert first["text"].startswith("words words") and first["ending"] == " … (stopped)"
    assert (second["text"], second["ending"]) == ("yes", "") and endless.closed == 1
    assert page.talking.talks[state["key"]].conversation.turns["endless"][-1]["content"] == first["text"]
    page.post("again")
    page.until(
        lambda state: (
            state["rounds"][-1]["columns"][1]["ending"] == "" and len(state["rounds"][-1]["columns"][1]["text"]) == 2
        )
    )
    page.post("stop")
    assert len(page.until()["rounds"]) == 1 and [draw[-1] for draw in endless.heard] == [0, 1]
    assert [turn["role"] for turn in endless.heard[-1][0]] == ["user"]


def test_a_closed_page_stops_its_answers(begin, monkeypatch):
    monkeypatch.setattr(talks, "CLOSED", 0.3)
    endless = Scripted("endless", "words ", endless=True, pace=0.001)
    page = begin(endless, max_new_tokens=10**6)
    page.post("say", words="hello")
    page.until(lambda state: state["rounds"][-1]["columns"][0]["text"] != "")
    ends = time.monotonic() + 10
    while not endless.closed and time.monotonic() < ends:
        time.sleep(0.05)  # nobody looks
    state = page.look()
    assert endless.closed == 1 and "closed" in state["problem"] and state["rounds"][-1]["columns"][0]["text"]


def test_pages_wait_for_each_other_and_are_told_their_place(begin):
    page = begin(Scripted("one", "words ", endless=True, pace=0.001), max_new_tokens=10**6)
    second, third = Page(page.talking, page.web), Page(page.talking, page.web)
    page.post("say", words="first")
    page.until(lambda state: state["before"] == 0 and state["rounds"][-1]["columns"][0]["text"])
    second.post("say", words="second")
    third.post("say", words="third")
    assert (second.look()["before"], third.look()["before"]) == (1, 2)
    state = second.post("stop")  # was not answered yet: the words are given back
    assert (state["busy"], state["returned"], state["rounds"]) == (False, "second", [])
    assert third.look()["before"] == 1
    page.post("stop")
    third.until(lambda state: state["rounds"][-1]["columns"][0]["text"])
    third.post("stop")
    third.until()
    assert [turns[0]["content"] for turns, *_ in page.talking.speakers[0].heard] == ["first", "third"]


def test_what_a_model_refuses_is_said_and_the_words_come_back(begin):
    page = begin(Scripted("one", "fine"), Scripted("narrow", "x", error=ConfigError("narrow reads 8 tokens at most")))
    state = page.say("hello")
    assert (state["problem"], state["returned"]) == ("narrow reads 8 tokens at most", "hello") and not state["rounds"]
    page.talking.speakers[1].error = None
    assert page.say("hello")["rounds"][-1]["columns"][1]["text"] == "x"
    page.talking.speakers[1].error = RuntimeError("out of memory")
    page.post("again")
    state = page.until()  # the answers that were to be replaced stand
    assert "out of memory" in state["problem"] and state["returned"] == "" and page.texts() == ["fine", "x"]
    assert page.talking.talks[state["key"]].conversation.turns["narrow"][-1]["content"] == "x"


def test_settings_have_bounds_and_another_system_message_begins_anew(begin):
    one = Scripted("one", "fine")
    page = begin(one)
    page.say("hello")
    fine = {"system": "", "temperature": 0, "seed": 9, "max_new_tokens": 5}
    for odd in ({"temperature": -1}, {"temperature": 5.1}, {"temperature": "1"}, {"seed": 1.5}, {"seed": 1 << 32},
                {"max_new_tokens": 0}, {"max_new_tokens": 10**6}, {"max_new_tokens": True}, {"system": 3}):  # fmt: skip
        assert next(iter(odd)) in page.refused("settings", **{**fine, **odd})
    page.post("settings", **fine)
    assert len(page.state["rounds"]) == 1 and page.say("more")["rounds"]
    assert one.heard[-1][1:] == (0.0, 5, 9, 1)
    page.post("settings", **{**fine, "system": "be kind"})
    assert page.state["rounds"] == [] and page.say("hello")
    assert one.heard[-1][0][0] == {"role": "system", "content": "be kind"} and one.heard[-1][-1] == 0
    other = Page(page.talking, page.web)
    assert other.state["settings"]["system"] == "" and other.state["settings"]["temperature"] == 0.7  # each has its own


def test_a_conversation_is_one_browsers(begin):
    page = begin(Scripted("one", "fine"))
    page.say("hello")
    word = page.web.app.state.entry.enter("")
    assert (
        page.web.get("/api/look", params={"key": page.state["key"]}, headers={"x-align-session": word}).status_code
        == 410
    )
    assert page.web.get("/api/look", params={"key": "none"}).status_code == 410
    assert page.refused("say", words="x" * 100_001).startswith("words: text of at most")
    assert page.refused("say", words=" ") and page.refused("vote", round=1, choice=0) and page.refused("undo")


# --------------------------------------------------------------------------------------------------------------- votes


def column_of(page, text):
    return page.texts().index(text)


def vote(page, choice):
    return page.post("vote", round=page.state["rounds"][-1]["number"], choice=choice)


def test_a_vote_is_a_ranking_of_the_shared_history(begin):
    one, other = Scripted("one", "a1", "a2", "a3"), Scripted("other", "b1", "b2", "b3")
    page = begin(one, other, blind=True, system="be kind")
    state = page.say("first")
    assert [column["name"] for column in state["rounds"][0]["columns"]] == [None, None] and state["due"]
    assert page.refused("say", words="second").startswith("Vote first")
    state = vote(page, column_of(page, "b1"))
    assert sorted(column["name"] for column in state["rounds"][0]["columns"]) == ["one", "other"]
    assert state["rounds"][0]["saved"] and state["votes"] == 1 and not state["due"]
    page.say("second")
    heard = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "first"},
             {"role": "assistant", "content": "b1"}, {"role": "user", "content": "second"}]  # fmt: skip
    assert one.heard[-1][0] == other.heard[-1][0] == heard
    vote(page, column_of(page, "a2"))
    first, second = rows(page)
    assert first["prompt"] == heard[:2] and second["prompt"] == heard
    assert [first["completions"], second["completions"]] == [
        [[{"role": "assistant", "content": text}] for text in pair] for pair in (("a1", "b1"), ("a2", "b2"))
    ]
    assert (first["ranking"], second["ranking"]) == ([2, 1], [1, 2])
    assert first["sources"] == ["one", "other"] and (first["annotator"], first["kind"]) == ("Ada", "person")
    shown = [[column["name"] for column in one["columns"]] for one in page.state["rounds"]]
    assert [[("one", "other")[at] for at in row["shown"]] for row in (first, second)] == shown
    lines = page.web.get("/api/save", params={"key": page.state["key"]}).json()["lines"]
    assert json.loads(lines) == {"messages": [*heard, {"role": "assistant", "content": "a2"}]}


def test_ties_and_all_bad_and_undo(begin):
    page = begin(*(Scripted(name, *(f"{name}{at}" for at in range(9))) for name in "abcd"), blind=True)
    page.say("first")
    assert vote(page, "tie")["rounds"][-1]["choice"] == "a tie"
    assert rows(page)[0]["ranking"] == [1, 1, 1, 1]
    (kept,) = [column["text"] for column in page.state["rounds"][-1]["columns"] if column["kept"]]
    page.say("second")
    assert page.talking.speakers[0].heard[-1][0][1]["content"] == kept  # drawn from the tied ones, one for all
    state = vote(page, "bad")
    assert state["returned"] == "second" and rows(page)[1]["verdict"] == "all_bad" and rows(page)[1]["ranking"] is None
    page.say("otherwise")
    assert [turn["content"] for turn in page.talking.speakers[0].heard[-1][0]] == ["first", kept, "otherwise"]
    vote(page, 2)
    assert sorted(rows(page)[2]["ranking"]) == [1, 2, 2, 2]
    state = page.post("undo")
    assert state["due"] and {column["name"] for column in state["rounds"][-1]["columns"]} == {None}
    assert len(rows(page)) == state["votes"] == 2
    vote(page, 1)
    chosen = page.state["rounds"][-1]["columns"][1]
    assert rows(page)[2]["ranking"]["abcd".index(chosen["name"])] == 1 and sorted(rows(page)[2]["ranking"]) == [
        1,
        2,
        2,
        2,
    ]
    assert page.refused("vote", round=page.state["rounds"][-1]["number"], choice=0).startswith("This was voted on")
    assert vote(page, 1)["votes"] == 3  # the confirmation was lost, and the page asks again
    page.say("again")
    for odd in (4, -1, True, "a", None, 1.0):
        assert page.refused("vote", round=page.state["rounds"][-1]["number"], choice=odd).startswith("choice")
    assert page.refused("vote", round=1, choice=0).startswith("These answers are no longer the last ones")


def test_what_can_be_taken_back_is_the_vote_on_the_last_answers_alone(begin):
    page = begin(Scripted("a", "a1", "a2"), Scripted("b", "b1", "b2"), blind=True)
    page.say("first")
    vote(page, 0)
    elsewhere = Page(page.talking, page.web, name="ada")  # the same person in another tab votes after it
    elsewhere.say("other words")
    vote(elsewhere, 1)
    page.post("undo")
    assert [row["prompt"][0]["content"] for row in rows(page)] == ["other words"]
    vote(page, 1)
    page.say("second")
    assert page.refused("undo").startswith("There is nothing to take back")
    assert len(rows(page)) == 2


def test_answers_that_are_the_same_are_no_ranking(begin):
    page = begin(Scripted("a", "same", "a"), Scripted("b", "same", "a"), Scripted("c", "same", "b"), blind=True)
    page.say("first")
    state = vote(page, 0)
    assert not state["rounds"][-1]["saved"] and state["rounds"][-1]["choice"] and rows(page) == []
    assert page.post("undo")["due"]
    vote(page, "tie")
    page.say("second")
    vote(page, column_of(page, "a"))  # two of three are this
    assert rows(page)[0]["ranking"] == [1, 1, 2] and len(rows(page)[0]["shown"]) == 2


def test_a_second_vote_on_the_same_answers_replaces_the_first(begin):
    """At temperature 0 the same words get the same answers: the later vote holds, the earlier one stays as history."""
    page = begin(Scripted("a", "a"), Scripted("b", "b"), blind=True)
    for text in ("a", "b", "b"):
        page.post("reset")
        page.say("first")
        vote(page, column_of(page, text))
    (row,) = rows(page)
    assert row["ranking"] == [2, 1]
    bob = Page(page.talking, page.web, name="Bob")
    bob.say("first")
    vote(bob, column_of(bob, "a"))
    assert [(row["annotator"], row["ranking"]) for row in rows(page)] == [("Ada", [2, 1]), ("Bob", [1, 2])]
    store = page.talking.store
    assert store.counts()["items"] == 1 and store.next(store.annotator("Carl")) is None
    page.post("undo")
    assert store.next(store.annotator("ada")).prompt[0]["content"] == "first"  # `align label` asks about it again


def test_the_order_is_shuffled_anew(begin):
    """Of 2 models each is first about half of the time: all the same in 40 rounds has a chance of 2 in 2**40."""
    page = begin(Scripted("a", "a"), Scripted("b", "b"), blind=True)
    first = set()
    for _ in range(40):
        page.post("reset")
        first.add(page.say("first")["rounds"][0]["columns"][0]["text"])
        if len(first) == 2:
            return
    raise AssertionError(first)


def test_other_answers_after_a_vote_are_to_the_same_words(begin):
    page = begin(Scripted("a", "a1", "a2", "a3"), Scripted("b", "b1", "b2", "b3"), blind=True)
    page.say("first")
    page.post("again")
    page.until()
    vote(page, column_of(page, "a2"))
    page.post("again")
    page.until()
    vote(page, "bad")
    assert [row["prompt"] for row in rows(page)] == [[{"role": "user", "content": "first"}]] * 2
    assert [row["completions"][0][0]["content"] for row in rows(page)] == ["a2", "a3"]


def test_base_models_are_voted_on_as_texts(begin):
    page = begin(Scripted("a", " sits", goes_on=True), Scripted("b", " runs", goes_on=True), blind=True)
    page.say("the cat")
    vote(page, column_of(page, " runs"))
    (row,) = rows(page)
    assert (row["prompt"], row["completions"], row["ranking"]) == ("the cat", [" sits", " runs"], [2, 1])


def test_a_vote_that_cannot_be_written_is_not_said_to_be(begin, tmp_path):
    page = begin(Scripted("a", "a"), Scripted("b", "b"), blind=True)
    page.say("first")
    (tmp_path / "votes").rename(tmp_path / "elsewhere")
    assert "labels.sqlite" in page.refused("vote", round=1, choice=0)
    assert page.look()["due"]
    (tmp_path / "elsewhere").rename(tmp_path / "votes")
    assert vote(page, 0)["votes"] == 1


def test_nobody_votes_without_a_name(begin):
    page = begin(Scripted("a", "a"), Scripted("b", "b"), blind=True)
    nameless = Page(page.talking, page.web, open=False)
    found = nameless.try_post("open", name=" ")
    assert found.status_code == 400 and found.json()["name"] is True
    assert nameless.try_post("open", name="x" * 200).status_code == 400


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"models": list("abcde"), "web": True}, "columns for 4"), ({"models": ["a"], "web": True, "blind": True}, "name two"),
        ({"models": ["a", "b"], "blind": True}, "give --web"), ({"models": ["a"], "web": True, "output_dir": "x"}, "keeps blind"),
        ({"models": ["a"], "seed": -1}, "seed=-1"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(more, said):
    given = {**more, "models": [f"hub/{name}" for name in more["models"]]}
    with pytest.raises(ValueError, match=said) as told:
        ChatConfig(**given)
    assert "\n" not in str(told.value)


def test_the_pages_flags_are_the_pages():
    for flag, value in (("port", "7999"), ("open_browser", "true"), ("host", "0.0.0.0")):
        with pytest.raises(ConfigError, match=f"^{flag}: of the page, which --web opens; add --web, or leave it out$"):
            program.main(["--models", "hub/a", f"--{flag}", value])


def test_a_port_in_use_and_what_cannot_be_talked_to(world, tmp_path):
    """Each is one sentence, and nothing is left behind."""
    out = ["--output_dir", str(tmp_path / "votes")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match=r"cannot listen on .*; try --port \d+"):
            program.main(["--models", str(world / "base"), "--web", "--port", str(taken.getsockname()[1])])
    with pytest.raises(ConfigError, match="is a reward model: it gives one score"):
        program.main(["--models", str(world / "base"), str(world / "rm"), "--web", "--blind", "--port", "0", *out])
    unfinished = make_checkpoint(tmp_path / "unfinished")
    (unfinished / "run.json").write_text(json.dumps({"recipe": "sft", "status": "running"}))
    with pytest.raises(ConfigError, match="unfinished"):
        program.main(["--models", str(unfinished), "--web", "--port", "0"])
    base, assistant = make_checkpoint(tmp_path / "pretrained"), make_checkpoint(tmp_path / "assistant")
    (base / "run.json").write_text(json.dumps({"recipe": "pretrain", "status": "complete"}))
    learnt = {"recipe": "sft", "status": "complete", "data": {"train": {"prompts": {"chat": 3}}}}
    (assistant / "run.json").write_text(json.dumps(learnt))
    with pytest.raises(ConfigError, match="pretrained would go on with a text where the others answer"):
        program.main(["--models", str(assistant), str(base), "--web", "--blind", "--port", "0", *out])
    assert not (tmp_path / "votes").exists()


def test_two_tokenizers_side_by_side_are_said():
    from align.models.tokenizer import TokenizerConfig, train

    same = [SimpleNamespace(tokenizer=make_tokenizer()) for _ in range(2)]
    other = SimpleNamespace(tokenizer=train(["the cat sits on a mat"], TokenizerConfig(vocab_size=300)))
    assert speakers.notes(same) == []
    (told,) = speakers.notes([*same, other])
    assert told.startswith("they have different tokenizers")


def test_a_worker_that_died_is_told_to_pages(begin, monkeypatch):
    """A bug of ours: pages must not wait for ever."""
    page = begin(Scripted("one", "fine"))
    broken = Talking(page.talking.speakers, page.talking.args, None)
    other = Page(broken)
    monkeypatch.setattr(threading, "excepthook", lambda told: None)
    monkeypatch.setattr(talks.Talk, "_hear", lambda *_: {}["bug"])
    other.post("say", words="hello")
    broken.worker.join(10)
    assert not broken.worker.is_alive()
    assert "answers no more" in other.web.get("/api/look", params={"key": other.state["key"]}).json()["error"]


# --------------------------------------------------------------------------------------------------------- to training


@pytest.mark.slow
def test_votes_are_exported_and_dpo_trains_on_them(world, tmp_path):
    """Turns of several rounds and a tie, over the tests' own models; two of the votes tell pairs apart."""
    second = make_checkpoint(tmp_path / "second", seed=5)
    args = ChatConfig(models=[str(world / "base"), str(second)], web=True, blind=True, max_new_tokens=8, prompt_format="chat",
                      temperature=1.0, system="be kind")  # fmt: skip
    with Store(tmp_path / "votes" / "labels.sqlite") as store:
        page = Page(Talking(speakers.load(args), args, store), name="Ada")
        for words, choice in (("what is a cat", 0), ("and a dog", 1), ("hello", "tie")):
            page.say(words)
            assert vote(page, choice)["rounds"][-1]["saved"]
        page.talking.worker.end()
    python = [sys.executable]
    launch([*python, "-m", "align.cli", "export", tmp_path / "votes", "--output_dir", tmp_path / "rows"])
    exported = [json.loads(line) for line in (tmp_path / "rows/data/train.jsonl").read_text().splitlines()]
    assert [len(row["prompt"]) for row in exported] == [2, 4, 6]
    assert [sorted(row["ranking"]) for row in exported] == [[1, 2], [1, 2], [1, 1]]
    launch([
        *python, ROOT / "recipes/dpo.py", "--model_name_or_path", world / "base", "--dataset_name", tmp_path / "rows",
        "--output_dir", tmp_path / "dpo", "--max_length", "128", "--max_steps", "1", "--global_batch_size", "2",
        "--per_device_train_batch_size", "2", "--max_dropped", "1",
    ])  # fmt: skip
    record = json.loads((tmp_path / "dpo/run.json").read_text())
    assert record["status"] == "complete" and record["data"]["train"]["rows"] >= 2, record["data"]
