"""`--preview`: three rows as the model gets them, what is learnt marked, and no model loaded."""

from __future__ import annotations

import re

import pytest
from conftest import run_recipe, write_rows

from align.data import chat, encoding, prepare, preview
from align.run.arguments import DataArguments

ASK, TELL = {"role": "user", "content": "what is a cat"}, {"role": "assistant", "content": "a cat sits"}


def shown(rows, schema, tokenizer, tmp_path, capsys, max_length=64, **kwargs):
    """What is printed of some rows."""
    path = write_rows(tmp_path / "rows.jsonl", rows)
    args = DataArguments(dataset_name=str(path), preview=True, **kwargs)
    with pytest.raises(SystemExit) as stopped:
        prepare.rows(args, schema, tokenizer, max_length=max_length, seed=0)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_what_is_learnt_stands_in_brackets_with_its_number_of_tokens(tmp_path, tokenizer, capsys):
    out = shown([{"messages": [ASK, TELL, ASK, TELL]}] * 5, "sft", tokenizer, tmp_path, capsys)
    assert out.count("⟦ a cat sits<|eos|>⟧") == 3 * 2 and "row 3:" in out and "row 4" not in out
    learnt = len(tokenizer(" a cat sits", add_special_tokens=False)["input_ids"]) + 1  # and the stop token
    assert len(re.findall(rf"^ +{learnt} learnt +│ ⟦", out, re.M)) == 6
    assert "<|bos|>User: what is a cat↵" in out and "\x1b" not in out


def test_pairs_show_prompt_chosen_and_rejected(tmp_path, tokenizer, capsys):
    rows = [{"prompt": [ASK], "chosen": [TELL], "rejected": [{"role": "assistant", "content": "no"}]}]
    out = shown(rows, "preference", tokenizer, tmp_path, capsys)
    assert re.search(r"prompt +│ .*\n.*│ Assistant:\n +\d+ chosen +│ ⟦ a cat sits.*⟧\n +\d+ rejected +│ ⟦ no", out)


def test_a_prompt_ends_where_the_assistant_begins(tmp_path, tokenizer, capsys):
    out = shown([{"prompt": [ASK]}, {"prompt": "the cat"}], "prompt", tokenizer, tmp_path, capsys)
    assert "Assistant: ▸" in out and "<|bos|>the cat ▸" in out and "⟦" not in out


def test_columns_under_other_names_are_named_and_so_are_unread_ones(tmp_path, tokenizer, capsys):
    out = shown([{"question": "what is a cat", "answer": "a cat sits", "id": 3}], "sft", tokenizer, tmp_path, capsys)
    assert re.search(r"from question \(\w+\), answer", out) and "\nnot read: id\n" in out


def test_rows_that_are_left_out_say_why(tmp_path, tokenizer, capsys):
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    long = {"prompt": "a", "chosen": "b", "rejected": "cat " * 80}
    out = shown([same, long], "preference", tokenizer, tmp_path, capsys)
    assert "row 1: left out, with identical chosen and rejected" in out
    assert re.search(r"row 2: \d+ tokens, more than 64: left out", out)


def test_a_foreign_row_cannot_command_the_terminal(tmp_path, tokenizer, capsys):
    bad = "a\x1b]0;gone\x07 \u202etxt \x9b31m cat\u200d"
    out = shown([{"prompt": bad, "completion": "x\x1b[2J"}], "sft", tokenizer, tmp_path, capsys)
    assert not set("\x1b\x07\x9b\u202e") & set(out)
    assert r"\x1b]0;gone\x07 \u202etxt \x9b31m" in out and r"\x1b[2J" in out
    assert preview.visible("ok\n\t\u200d\r\u2028") == "ok\n\t\u200d\\r\\u2028"


def test_a_terminal_gets_colours_and_each_line_its_own(tokenizer):
    row = {"messages": [ASK, {"role": "assistant", "content": "a\nb"}], "drop": ""}
    page = preview.Preview(tokenizer, colour=True)
    lines = page.row(1, row, lambda r: chat.alone(tokenizer, encoding.ENCODERS["sft"](tokenizer, r)), None)
    assert [line for line in lines if "\x1b[32m" in line and line.count("\x1b[0m") == line.count("\x1b[3")]
    assert "⟦" not in "".join([*lines, *page.legend()])


def test_a_piece_that_ends_with_a_line_break_closes_on_its_line(tmp_path, tokenizer, capsys):
    rows = [{"prompt": "a\n", "completion": "b"}]
    assert "read     │ <|bos|>a↵\n" in shown(rows, "sft", tokenizer, tmp_path, capsys)


def test_long_texts_lose_their_middle(tmp_path, tokenizer, capsys):
    out = shown([{"prompt": "p", "completion": "cat " * 2000}], "sft", tokenizer, tmp_path, capsys, max_length=None)
    assert re.search(r"cat … [\d,]+ characters … cat|characters", out) and len(out) < 3000


def test_documents_of_pretraining(tmp_path, tokenizer, capsys):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "the cat sits"}])
    with pytest.raises(SystemExit):
        prepare.texts(DataArguments(dataset_name=str(path), preview=True), seed=0, tokenizer=tokenizer)
    out = capsys.readouterr().out
    assert re.search(r" 1 read +│ <\|bos\|>\n +\d+ learnt +│ ⟦the cat sits<\|eos\|>⟧", out)


def test_what_both_sides_begin_with_is_named_once_and_so_is_what_may_matter(tmp_path, tokenizer, capsys):
    no = {"role": "assistant", "content": "no"}
    rows = [{"chosen": [ASK, TELL], "rejected": [ASK, no], "overall_preference": 2, "id": 3, "turns": [ASK, TELL]}]
    out = shown(rows, "preference", tokenizer, tmp_path, capsys)
    assert "from chosen (chosen and prompt), rejected\n" in out
    assert "\nlook: not read, and often part of what is learnt: overall_preference, turns\nnot read: id\n" in out


def test_what_prompts_were_taken_for_is_said(tmp_path, tokenizer, capsys):
    out = shown([{"prompt": "the cat", "completion": " sits"}], "sft", tokenizer, tmp_path, capsys)
    assert "\nprompts: plain text, without the chat template (--prompt_format chat" in out
    rows = [{"prompt": "the cat", "completion": " sits"}, {"messages": [ASK, TELL]}]
    out = shown(rows, "sft", tokenizer, tmp_path, capsys)
    assert "prompts: 1 as chat turns, through the chat template" in out and "prompts: 1 as plain text, without" in out


@pytest.mark.slow
def test_a_recipe_needs_no_output_dir_and_loads_no_model(world):
    done = run_recipe("sft", "--model_name_or_path", str(world / "base"), "--dataset_name", str(world / "chats"),
                      "--preview")  # fmt: skip
    assert "No model was loaded" in done.stdout
