"""`align chat`: answers are those of sampling, each model keeps its own, and the terminal is a conversation."""

from __future__ import annotations

import json
import os
import pty
import select
import sys
import time

import pytest
from conftest import ROOT, make_checkpoint

from align.data import chat
from align.models import generate
from align.models.generate import Completion
from align.run.errors import ConfigError, RunError
from align.talk import speakers, terminal
from align.talk.config import ChatConfig
from align.talk.conversation import Conversation

ASK = [{"role": "user", "content": "what is a cat"}]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints of one shape under different names."""
    folder = tmp_path_factory.mktemp("two")
    return [str(make_checkpoint(folder / name, seed)) for seed, name in enumerate(("one", "other"))]


def begin(models: list[str], **more) -> Conversation:
    args = ChatConfig(models=models, max_new_tokens=12, prompt_format="chat", **more)
    return Conversation(speakers.load(args), args)


def heard(conversation: Conversation, words: str) -> list[dict[str, Completion]]:
    return list(conversation.ask(words))


def test_an_answer_is_what_sampling_gives(two):
    """Token by token the same as `sample` with the same noise, and the last of what grew is the answer that is kept."""
    conversation = begin(two[:1], temperature=1.0, seed=3)
    speaker = conversation.speakers[0]
    grown = [said["one"] for said in heard(conversation, "what is a cat")]
    prompt = chat.encode_prompt(speaker.tokenizer, ASK)
    (ids,) = generate.sample(
        speaker.model, [prompt], stops=speaker.stops, pad_id=speaker.tokenizer.pad_token_id, max_new_tokens=12,
        noise=generate.uniform(3, [0], 12),
    )  # fmt: skip
    assert [len(one.ids) for one in grown] == list(range(1, len(ids) + 1))
    assert grown[-1].ids == ids and grown[-1].stopped == (ids[-1] in speaker.stops)
    assert conversation.turns["one"] == [*ASK, {"role": "assistant", "content": grown[-1].text}]


def test_each_model_hears_its_own_answers(two):
    conversation = begin(two)
    heard(conversation, "what is a cat")
    heard(conversation, "and a dog")
    alone = begin(two[1:])
    heard(alone, "what is a cat")
    heard(alone, "and a dog")
    assert conversation.turns["other"] == alone.turns["other"]
    assert [turn["role"] for turn in alone.turns["other"]] == ["user", "assistant"] * 2


def test_another_answer_is_another_draw(two):
    conversation = begin(two[:1], temperature=1.0)
    with pytest.raises(ConfigError, match="nothing was said yet"):
        next(conversation.again())
    first = heard(conversation, "what is a cat")[-1]["one"]
    second = list(conversation.again())[-1]["one"]
    assert first.ids != second.ids and conversation.turns["one"] == [
        *ASK, {"role": "assistant", "content": second.text}
    ]  # fmt: skip
    conversation.reset()
    assert heard(conversation, "what is a cat")[-1]["one"].ids == first.ids  # from the seed's beginning


def test_who_stops_listening_keeps_what_was_heard(two):
    conversation = begin(two)
    answers = conversation.ask("what is a cat")
    next(answers)
    said = next(answers)
    answers.close()
    assert {name: turns[-1]["content"] for name, turns in conversation.turns.items()} == {
        name: one.text for name, one in said.items()
    }


def test_words_without_an_answer_were_not_said(two, monkeypatch):
    """Ctrl-C before the first token: the next words do not follow others of the user's."""
    conversation = begin(two)

    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as changed:
        changed.setattr(conversation.speakers[1], "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            heard(conversation, "what is a cat")
    assert not conversation.begun()
    heard(conversation, "what is a cat")
    assert [turn["role"] for turn in conversation.turns["one"]] == ["user", "assistant"]


def test_a_conversation_without_room_is_not_taken(two):
    conversation = begin(two)
    with pytest.raises(ConfigError, match="reads 128 tokens at most.*/reset"):
        heard(conversation, "a cat and a dog " * 40)
    assert not conversation.begun()
    heard(conversation, "what is a cat")
    assert len(conversation.turns["one"]) == 2


def test_an_answer_may_be_as_long_as_there_is_room(two):
    """The models read 128 tokens; whoever asks for more gets what is left, with the same draws."""
    speaker = begin(two).speakers[0]
    turns = [{"role": "user", "content": "a cat and a dog"}]
    prompt = len(chat.encode_prompt(speaker.tokenizer, turns))

    def last(longest: int) -> list[int]:
        answer = speaker.answer(turns, temperature=1.0, max_new_tokens=longest, seed=0, number=0)
        return list(answer)[-1].ids

    speaker.stops = set()  # endless
    assert len(last(128)) == 128 - prompt
    assert last(128)[:12] == last(12)


def test_a_system_message_stays_before_all(two):
    conversation = begin(two[:1], system="be kind")
    heard(conversation, "hello")
    assert conversation.turns["one"][0] == {"role": "system", "content": "be kind"}
    terminal.command(conversation, "/system")
    assert conversation.turns["one"] == []


def test_what_is_saved_can_be_trained_on(two, tmp_path):
    from align.data import prepare
    from align.run.arguments import DataArguments

    conversation = begin(two)
    file = tmp_path / "talk.jsonl"
    with pytest.raises(ConfigError, match="nothing was said"):
        conversation.save(file)
    heard(conversation, "what is a cat")
    assert conversation.save(file) == 2
    with pytest.raises(RunError, match="is there already"):
        conversation.save(file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["model"] for row in rows] == ["one", "other"] and rows[0]["messages"] == conversation.turns["one"]
    tokenizer = conversation.speakers[0].tokenizer
    read = prepare.rows(DataArguments(dataset_name=str(file)), "sft", tokenizer, max_length=64, seed=0)
    assert len(read.train) == 2


def test_a_base_model_goes_on_with_the_text(tmp_path):
    """By its record: pretrained, or trained on plain text alone."""
    folder = make_checkpoint(tmp_path / "base")
    tokenizer = speakers.checkpoints.load_tokenizer(str(folder))

    def record(**told) -> None:
        (folder / "run.json").write_text(json.dumps({"status": "complete", **told}))

    record(recipe="pretrain")
    assert speakers._goes_on(str(folder), tokenizer)
    record(recipe="dpo", data={"train": {"prompts": {"text": 3}}})
    assert speakers._goes_on(str(folder), tokenizer)
    record(recipe="dpo", data={"train": {"prompts": {"chat": 3, "text": 1}}})
    assert not speakers._goes_on(str(folder), tokenizer)
    (folder / "run.json").unlink()
    args = ChatConfig(models=[str(folder)], prompt_format="text", max_new_tokens=4, temperature=0)
    conversation = Conversation(speakers.load(args), args)
    said = heard(conversation, "the cat")[-1]["base"]
    speaker = conversation.speakers[0]
    (ids,) = generate.sample(
        speaker.model, [chat.encode_prompt(tokenizer, "the cat")], stops=speaker.stops, pad_id=tokenizer.pad_token_id,
        max_new_tokens=4, temperature=0.0,
    )  # fmt: skip
    assert said.ids == ids


def test_what_cannot_be_talked_to_is_one_sentence(world, tmp_path):
    with pytest.raises(ConfigError, match="is a reward model: it gives one score"):
        speakers.load(ChatConfig(models=[str(world / "rm")]))
    for models, more, said in (
        ([str(tmp_path / "runs/none")], {}, "does not exist"), (["a/b", "a/b"], {}, "each once"),
        (["a/b"], {"temperature": -1.0}, "temperature=-1"), (["a/b"], {"max_new_tokens": 0}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ChatConfig(models=models, **more)


def test_names_are_as_short_as_they_can_be():
    assert speakers._names(["runs/a/dpo", "runs/a/ppo"]) == ["dpo", "ppo"]
    assert speakers._names(["runs/a/dpo", "runs/b/dpo"]) == ["a/dpo", "b/dpo"]


def test_columns_stand_side_by_side_where_there_is_room():
    texts = [("one", "the cat sits on the mat and sings"), ("other", "no")]
    assert terminal.columns(texts, 60).splitlines() == [
        "one                            other",
        "---                            -----",
        "the cat sits on the mat and    no",
        "sings",
    ]
    assert terminal.columns(texts, 40) == "one:\nthe cat sits on the mat and sings\n\nother:\nno"


def test_what_a_model_says_moves_no_cursor(two, capsys):
    conversation = begin(two[:1])
    answers = iter([{"one": Completion([1], "a\x1b[2Jb", True)}])
    terminal._as_it_comes(conversation.speakers[0], answers, "")
    assert capsys.readouterr().out == "a\\u001b[2Jb\n"


def test_an_answer_that_was_cut_says_so():
    assert terminal.ending(Completion([1], "a", True)) == ""
    assert "cut" in terminal.ending(Completion([1], "a", False))
    assert "never ended its thought" in terminal.ending(Completion([1], "", False, "so"))
    assert terminal.ending(Completion([1], "", True)) == "(no words)"


def test_in_a_terminal(two):
    """Under a pseudo-terminal: words, a stopped answer, an odd command, and Ctrl-D."""
    process, line = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.environ["COLUMNS"] = "100"
        os.execv(
            sys.executable,
            [sys.executable, "-m", "align.cli", "chat", *two, "--prompt_format", "chat", "--max_new_tokens", "100"],
        )
    screen = ""

    def wait_for(words: str, seconds: float = 180) -> None:
        nonlocal screen
        ends = time.monotonic() + seconds
        while words not in screen:
            assert time.monotonic() < ends, screen
            if select.select([line], [], [], 0.2)[0]:
                screen += os.read(line, 65536).decode(errors="replace")
        screen = screen.partition(words)[2]

    wait_for("you> ")
    os.write(line, b"what is a cat\n")
    wait_for("other")
    wait_for("you> ")
    os.write(line, b"/nonsense\n")
    wait_for("error: /nonsense is no command")
    wait_for("you> ")
    time.sleep(1)  # between prompt and waiting a signal only sets its mark: readline looks at it with the next key
    os.write(line, b"\x03")
    wait_for("(Ctrl-D ends)")
    wait_for("you> ")
    time.sleep(1)  # what ends a line in the terminal's own mode is lost while readline takes the terminal over
    os.write(line, b"\x04")
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
