"""Rows: every schema is detected, every bad row is named, everything that is dropped is counted."""

from __future__ import annotations

import gzip
import json

import pytest
from conftest import conversations, pairs, write_rows
from datasets import Dataset

from align.data import load, prepare, splits
from align.data.forms import normal, schemas
from align.run import errors
from align.run.arguments import DataArguments


def prepared(path, schema, tokenizer, **kwargs):
    limit = kwargs.pop("max_length", 64)
    return prepare.rows(DataArguments(dataset_name=str(path), **kwargs), schema, tokenizer, max_length=limit, seed=0)


ASK, TELL = "what is a cat", "a cat sits"
MESSAGES = [{"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": MESSAGES},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        {"question": ASK, "answer": TELL},
        {"instruction": ASK, "input": "", "output": TELL},
        {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]},
    ],
    ids=["messages", "prompt+completion", "question+answer", "alpaca", "sharegpt"],
)
def test_demonstrations_in_every_format_are_the_same_tokens(row, tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [row])
    reference = write_rows(tmp_path / "y.jsonl", [{"messages": MESSAGES}])
    assert list(prepared(path, "sft", tokenizer).train) == list(prepared(reference, "sft", tokenizer).train)


def test_reading_prints_nothing(tmp_path, tokenizer, capfd):
    prepared(write_rows(tmp_path / "x.jsonl", [{"messages": MESSAGES}]), "sft", tokenizer)
    assert capfd.readouterr() == ("", "")


def test_columns_that_are_not_read_as_words_and_messages_with_other_keys_are_let_through(tmp_path):
    turns = [{"role": "user", "content": "6"}, {"role": "assistant", "content": "b", "calls": [{"x": 1}]}]
    rows = [{"messages": turns, "id": 4}, {"messages": MESSAGES, "id": "four"}]
    path = write_rows(tmp_path / "x.jsonl", rows)
    read = load.load(DataArguments(dataset_name=str(path)), "train", seed=0)
    assert [row["messages"][0]["content"] for row in read] == ["6", ASK]


def test_columns_are_mapped(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [{"q": ASK, "a": TELL}])
    rows = prepared(path, "sft", tokenizer, columns=["q=user", "a=assistant"]).train
    assert TELL in tokenizer.decode([t for t in rows[0]["labels"] if t >= 0])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": [{"role": "assistant", "content": "no"}]},
        {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "no"}]},
        {"prompt": ASK, "chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "no"}]},
        {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {TELL}", "rejected": f"\n\nHuman: {ASK}\n\nAssistant: no"},
        {"prompt": f"\n\nHuman: {ASK}\n\nAssistant:", "chosen": f" {TELL}", "rejected": " no"},
        {
            "prompt": f"\n\nHuman: {ASK}\n\nAssistant:",
            "chosen": f"\n\nHuman: {ASK}\n\nAssistant: {TELL}",
            "rejected": f"\n\nHuman: {ASK}\n\nAssistant: no",
        },
        {
            "prompt": MESSAGES[:1],
            "completions": [[{"role": "assistant", "content": "no"}], MESSAGES[1:]],
            "ranking": [2, 1],
        },
    ],
    ids=[
        "explicit",
        "implicit",
        "ultrafeedback",
        "hh transcripts",
        "hh prompt",
        "hh prompt and transcripts",
        "rankings",
    ],
)
def test_pairs_in_every_format_are_the_same_tokens(row, tmp_path, tokenizer):
    rows = prepared(write_rows(tmp_path / "x.jsonl", [row]), "preference", tokenizer).train
    assert TELL in tokenizer.decode(rows[0]["chosen_ids"]) and "no" in tokenizer.decode(rows[0]["rejected_ids"])
    assert ASK in tokenizer.decode(rows[0]["prompt_ids"]) and TELL not in tokenizer.decode(rows[0]["prompt_ids"])
    assert tokenizer.decode(rows[0]["prompt_ids"]).count("Assistant:") <= 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),  # TRL's example, and its cut
        ("What is love?\nBaby don't", "What is love?\nBut why", "What is love?"),
        ("The sky is blue", "The sky is blue and wide", "The sky is"),
        ("\u5929\u7a7a\u662f\u84dd\u8272", "\u5929\u7a7a\u662f\u7eff\u8272", "\u5929\u7a7a\u662f"),
    ],
)
def test_a_prompt_that_is_what_two_texts_share_ends_with_a_word(chosen, rejected, prompt):
    row = schemas.preference({"chosen": chosen, "rejected": rejected}, "x")
    assert (row["prompt"], row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]) == (prompt, chosen, rejected)
    assert row["drop"] == "" and row["chosen"] and row["rejected"]


@pytest.mark.parametrize(
    "sides",
    [
        ("The answer is 4.", "This is wrong."),
        ("Berlin", "Bern"),
        ("\u041c\u043e\u0441\u043a\u0432\u0430", "\u041c\u043e\u0441\u0442"),
    ],
)
def test_letters_that_two_answers_begin_with_are_no_prompt(sides):
    assert schemas.preference({"chosen": sides[0], "rejected": sides[1]}, "x")["drop"] == "without a prompt"


def test_a_pair_ends_with_what_the_assistant_says():
    ask = "\n\nHuman: hi\n\nAssistant: hello"
    row = {"chosen": f"{ask}\n\nHuman: tell me a joke", "rejected": f"{ask}\n\nHuman: bye"}
    assert schemas.preference(row, "x")["drop"] == "whose last turn is not the assistant's"


def test_margin_is_passed_on(tmp_path, tokenizer):
    rows = prepared(write_rows(tmp_path / "x.jsonl", [{**pairs(1)[0], "margin": 2}]), "preference", tokenizer).train
    assert rows[0]["margin"] == 2.0


@pytest.mark.parametrize("late", [True, False])
def test_a_column_that_only_some_pairs_have_reaches_training(late, tmp_path, tokenizer):
    """As if rows without it said: no category, a margin of 0, a weight of 1."""
    bare, full = pairs(1)[0], {**pairs(2)[1], "category": "maths", "margin": 2, "weight": 0.5}
    rows = prepared(
        write_rows(tmp_path / "x.jsonl", [bare, full] if late else [full, bare]), "preference", tokenizer
    ).train
    found = [[row[name] for row in rows] for name in ("category", "margin", "weight")]
    assert [column if late else column[::-1] for column in found] == [[None, "maths"], [0.0, 2.0], [1.0, 0.5]]


def test_what_is_learnt_of_unlike_rows_and_what_is_said_of_them(tmp_path, tokenizer):
    """Chat turns and plain text in one file: each is learnt by its own form, and the first lines say how many."""
    mixed = [{"messages": MESSAGES}, {"prompt": "The sky is", "completion": " blue.", "id": 7}]
    made = prepared(write_rows(tmp_path / "x.jsonl", mixed), "sft", tokenizer)
    assert [tokenizer.decode([i for i in row["labels"] if i != -100]).strip() for row in made.train] == [
        f"{TELL}{tokenizer.eos_token}", f"blue.{tokenizer.eos_token}",
    ]  # fmt: skip
    assert made.reports["train"].forms == {"chat": 1, "text": 1} and "not read: id" in str(made)


BAD = {
    "unknown role": ("sft", {"messages": [{"role": "wizard", "content": "x"}]}, r"row 2.*unknown role 'wizard'.*allowed"),
    "content is a number": ("sft", {"messages": [{"role": "user", "content": 3}]}, r"row 2.*content: expected text, got int"),
    "not messages": ("sft", {"messages": [3]}, r"row 2.*expected \{role, content\}"),
    "chosen is a number": ("preference", {"prompt": "a", "chosen": 1, "rejected": "b"}, r"row 2.chosen: expected text or messages"),
    "margin is text": ("preference", {"prompt": "a", "chosen": "x", "rejected": "b", "margin": "big"}, r"margin.*number.*'big'"),
    "rank is text": ("preference", {"prompt": "a", "completions": ["x", "y"], "ranking": ["1", "2"]}, r"ranking.*whole numbers"),
    "ranks missing": ("preference", {"prompt": "a", "completions": ["x", "y"], "ranking": [1]}, r"2 completions need as many"),
}  # fmt: skip
GOOD = {
    "sft": {"messages": MESSAGES},
    "preference": {"prompt": "a", "chosen": "x", "rejected": "y", "margin": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named(name):
    schema, row, message = BAD[name]
    good = {"prompt": "a", "completions": ["x", "y"], "ranking": [1, 2]} if "ranking" in row else GOOD[schema]
    rows = _Rows([good, row])
    with pytest.raises(errors.DataError, match=message):
        list(normal.normalise(rows, schema, "rows.jsonl", []))


class _Rows(list):
    """A data set whose columns hold mixed types, as a JSON file may; arrow would already refuse it."""

    column_names: tuple = ()

    def map(self, function, with_indices, remove_columns):
        return [function(row, i) for i, row in enumerate(self)]


def test_wrong_columns_say_what_is_needed(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [{"foo": 1}])
    with pytest.raises(errors.DataError, match=r"row 1: has the columns foo; this recipe needs messages.*--columns"):
        prepared(path, "sft", tokenizer)


def test_empty_files(tmp_path, tokenizer):
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(errors.DataError, match="empty"):
        prepared(tmp_path / "x.jsonl", "sft", tokenizer)


def test_identical_sides_stop_the_run_and_can_be_accepted(tmp_path, tokenizer):
    same = {**pairs(1)[0], "rejected": pairs(1)[0]["chosen"]}
    path = write_rows(tmp_path / "x.jsonl", [*pairs(4), same])
    with pytest.raises(errors.DataError, match=r"1 of 5 rows \(20.0%\).*\n.*identical chosen and rejected"):
        prepared(path, "preference", tokenizer)
    splits = prepared(path, "preference", tokenizer, max_dropped=0.2)
    assert len(splits.train) == 4 and splits.reports["train"].dropped == {"with identical chosen and rejected": 1}


def test_too_long_is_dropped_and_counted_never_cut(tmp_path, tokenizer):
    long = {"messages": [{"role": "user", "content": "cat " * 100}, MESSAGES[1]]}
    path = write_rows(tmp_path / "x.jsonl", [*conversations(3), long])
    with pytest.raises(
        errors.DataError, match=r"longer than 64 tokens.*\n.*raise --max_length \(the longest row has \d+ tok"
    ):
        prepared(path, "sft", tokenizer)
    assert len(prepared(path, "sft", tokenizer, max_too_long=0.3).train) == 3


def test_nothing_left_is_an_error_whatever_is_accepted(tmp_path, tokenizer):
    with pytest.raises(errors.DataError, match="no row would be left"):
        prepared(write_rows(tmp_path / "x.jsonl", conversations(3)), "sft", tokenizer, max_too_long=1.0, max_length=3)


def test_a_mixture_has_the_shares_that_were_asked_for(tmp_path):
    a = write_rows(tmp_path / "a.jsonl", [{"text": "a"}] * 100)
    b = write_rows(tmp_path / "b.jsonl", [{"body": "b"}] * 100)
    entries = [{"path": str(a), "fraction": 3, "rows": 60}, {"path": str(b), "fraction": 1, "columns": ["body=text"]}]
    rows = load.load(DataArguments(datasets=entries), "train", seed=0)
    texts = [row["text"] for row in rows]
    assert (texts.count("a"), texts.count("b")) == (60, 20)  # 60 rows are three quarters of 80
    again = load.load(DataArguments(datasets=entries), "train", seed=1)
    assert texts != [row["text"] for row in again]


def test_formats_on_disk(tmp_path):
    rows = Dataset.from_list([{"text": "one"}, {"text": "two"}])
    rows.to_parquet(tmp_path / "x.parquet")
    rows.to_csv(tmp_path / "x.csv")
    rows.save_to_disk(tmp_path / "saved")
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("x.parquet", "x.csv", "saved", "x.jsonl.gz"):
        loaded = load.load(DataArguments(dataset_name=str(tmp_path / name)), "train", seed=0)
        assert [row["text"] for row in loaded] == ["one", "two"], name


def test_the_fingerprint_is_of_the_rows():
    a = splits.fingerprint([{"x": 1, "y": 2}])
    assert a == splits.fingerprint([{"y": 2, "x": 1}]) and a != splits.fingerprint([{"x": 1, "y": 3}])
