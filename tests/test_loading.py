"""Files, folders and the hub: every row as it was written, every file read or named, nothing old, nothing fetched."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from conftest import ROOT, WORDS, conversations, write_rows

from align.data import arrow, folders, lines, load, prepare, splits
from align.data.forms import normal
from align.data.large import stream
from align.run.arguments import DataArguments
from align.run.errors import DataError
from align.train import pretrain

TEXT = [{"text": "one"}, {"text": "two"}]


def read(path, split="train", **kwargs):
    """The rows of a split as a list; None where there is none."""
    rows = load.load(DataArguments(dataset_name=str(path), **kwargs), split, seed=0)
    return None if rows is None else list(rows)


def texts(path, split="train", **kwargs):
    return [row["text"] for row in read(path, split, **kwargs)]


# ------------------------------------------------------------------------------------------------------- as it is written


def test_values_of_json_come_out_as_they_were_written(tmp_path):
    """Arguments with other keys in other rows, a text beside a list, numbers as text, nulls, beyond 64 bits, floats."""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"city": "x", "at": 128.4}}}]}
    other = {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments": {"n": None, "deep": [[1]]}}}]}
    rows = [
        {"messages": [call], "prompt": "6", "n": 1, "tags": [], "ranking": [1, 2]},
        {"messages": [other], "prompt": [{"role": "user", "content": "b"}], "n": 2, "tags": ["a"], "ranking": [2, 1]},
        {"messages": None, "prompt": "true", "n": 2**70, "tags": None, "ranking": [1, 1]},
    ]
    found = read(write_rows(tmp_path / "x.jsonl", rows))
    assert found == rows
    halves = datasets.concatenate_datasets([arrow.of_rows(rows), arrow.of_rows(rows)]).select([4, 3])
    assert list(halves) == [rows[1], rows[0]]


def test_a_column_may_change_its_kind_after_many_rows(tmp_path):
    rows = [{"note": None, "a": 1}] * (arrow.CHUNK + 1) + [{"note": "6", "b": {"x": 1}}, {"note": {"y": 2}}]
    found = read(write_rows(tmp_path / "x.jsonl", rows))
    assert found[0] == {"note": None, "a": 1, "b": None}
    assert found[-2:] == [{"note": "6", "a": None, "b": {"x": 1}}, {"note": {"y": 2}, "a": None, "b": None}]


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "one"},\n {"text": "two"}]',
        '{\n"text": ["one", "two"]\n}',
        '\ufeff\n{"text": "one"}\n\n{"text": "two"}',
        '[\n{\n"text":\n"one"}, {"text": "two"}]',
    ],
    ids=["list", "columns", "mark and blank lines", "spread over lines"],
)
def test_json_in_every_layout(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert texts(tmp_path / "x.json") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": "b"\n', "x.jsonl, line 2: not JSON"),
        ("x.jsonl", b'{"text": "a"}\n["b"]\n', "x.jsonl, line 2: expected an object with columns"),
        ("x.json", b'[{"text": "a"},\n {"text" "b"}]', "x.json, line 2: not JSON"),
        ("x.json", b'[{"text": "a"}, 3]', "x.json, row 2: expected an object"),
        ("x.json", b'{\n"version": 1,\n"data": [1]}', "x.json: one JSON object; write a row a line"),
        ("x.jsonl", b'{"text": "caf\xe9"}\n', "x.jsonl: not UTF-8 text at byte"),
        ("x.jsonl", b'{"text": "\\ud83d"}\n', "x.jsonl: holds half a character"),
        ("x.jsonl", b"", "x.jsonl: the file is empty"),
        ("x.csv", b"text,id\na,1,2\n", "x.csv, line 2: more cells than columns"),
        ("x.csv", b"text,text\na,b\n", "x.csv: more than one column is called 'text'"),
        ("x.jsonl.gz", b"no gzip", "x.jsonl.gz cannot be read"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "x.jsonl.gz cannot be read"),
        ("x.pdf", b"x", "x.pdf: cannot read .pdf; readable are .json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "between"), [("x.csv", ","), ("x.tsv", "\t")])
def test_words_of_a_table_stay_words(name, between, tmp_path):
    """`None`, `NA` and `6` are answers; numbers are read where all of another column are some."""
    rows = ["question,answer,margin,id", '"a, or\nb",None,0.5,01x', "NA,6,,2"]
    (tmp_path / name).write_text("\n".join(rows).replace("a, or", "a; or").replace(",", between) + "\n")
    assert read(tmp_path / name) == [
        {"question": "a; or\nb", "answer": "None", "margin": 0.5, "id": "01x"},
        {"question": "NA", "answer": "6", "margin": None, "id": "2"},
    ]
    mapped = read(tmp_path / name, columns=["margin=user"])
    assert [row["margin"] for row in mapped] == ["0.5", ""]


def test_a_file_of_nulls_names_row_and_field(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [{"messages": None}, {"messages": None}])
    with pytest.raises(DataError, match=r"x.jsonl \(train\), row 1"):
        prepare.rows(DataArguments(dataset_name=str(path)), "sft", tokenizer, max_length=64, seed=0)


@pytest.mark.parametrize(("by", "rows"), [("paragraph", 2), ("line", 4), ("document", 1)])
def test_plain_text_is_cut_as_asked(by, rows, tmp_path):
    (tmp_path / "x.txt").write_text("one\ntwo\n\nthree\n")
    found = texts(tmp_path / "x.txt", sample_by=by)
    assert len(found) == rows and found[0].startswith("one")
    if by == "paragraph":
        assert texts(tmp_path / "x.txt") == found == ["one\ntwo", "three\n"]


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.jsonl", "train"),
        ("test.jsonl.gz", "test"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/test-00001-of-00002-abc123.parquet", "test"),
        ("data/train_sft-00000-of-00001.parquet", "train_sft"),
        ("train/a.parquet", "train"),
        ("en/dev/b.csv", "validation"),
        ("my_eval_set.jsonl", "test"),
        ("testimonials/a.jsonl", None),
        ("trainer.jsonl", None),
        ("a.jsonl", None),
    ],
)
def test_a_files_split_is_in_its_name_or_its_folders(file, split):
    assert folders.split_of(Path(file)) == split


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def test_folders_are_read_at_every_depth_and_compressed(tmp_path):
    for number, (ending, compress) in enumerate(COMPRESS.items()):
        file = tmp_path / f"en/train/{number}.jsonl{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(compress(json.dumps({"text": ending}).encode()))
    write_rows(tmp_path / "de/test/a.jsonl", TEXT)
    assert texts(tmp_path) == [".gz", ".bz2", ".xz"]
    assert texts(tmp_path, "test") == ["one", "two"] and read(tmp_path, "validation") is None


def test_files_that_make_the_train_split_though_no_name_says_so_are_named(tmp_path, capsys):
    for name in ("mytrain", "mytest"):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": name}])
    assert texts(tmp_path) == ["mytest", "mytrain"]
    told = "no file's name says its split, so all make the split train: mytest.jsonl, mytrain.jsonl"
    assert told in capsys.readouterr().out
    (tmp_path / "mytest.jsonl").unlink()
    assert texts(tmp_path) == ["mytrain"] and capsys.readouterr().out == ""


def test_zstandard_is_read(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "one"}\n'))
    assert texts(tmp_path / "x.jsonl.zst") == ["one"]


def test_the_hubs_layouts(tmp_path):
    for split in ("train_sft", "test_sft", "train_gen"):
        for shard in range(2):
            file = tmp_path / f"data/{split}-0000{shard}-of-00002.parquet"
            file.parent.mkdir(exist_ok=True)
            datasets.Dataset.from_list([{"text": f"{split} {shard}"}]).to_parquet(file)
    args = DataArguments(dataset_name=str(tmp_path), dataset_train_split="train_sft", dataset_test_split="test_sft")
    found = splits.read(args, seed=0)
    assert found["train"]["text"][:] == ["train_sft 0", "train_sft 1"]
    assert found["test"]["text"][:] == ["test_sft 0", "test_sft 1"]
    with pytest.raises(
        DataError, match="has no split train; it has test_sft, train_gen, train_sft: --dataset_train_spl"
    ):
        splits.read(DataArguments(dataset_name=str(tmp_path)), seed=0)


def test_a_configuration_is_a_folder_of_a_local_data_set(tmp_path):
    write_rows(tmp_path / "en/train.jsonl", TEXT[:1])
    write_rows(tmp_path / "de/train.jsonl", TEXT[1:])
    assert texts(tmp_path, dataset_config="de") == ["two"] and texts(tmp_path) == ["two", "one"]
    with pytest.raises(DataError, match="has no folder fr: of what is here, a configuration is a folder"):
        read(tmp_path, dataset_config="fr")


CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/tr*
  - {split: test, path: [main/held.jsonl]}
- config_name: other
  data_files: other/*.jsonl
---
# Text
"""


def test_a_card_says_which_files_are_which_split(tmp_path):
    """Without it, the files of both configurations would be one train split."""
    write_rows(tmp_path / "main/tr.jsonl", TEXT[:1])
    write_rows(tmp_path / "main/held.jsonl", TEXT)
    write_rows(tmp_path / "other/train.jsonl", TEXT[1:])
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(DataError, match="has the configurations main, other: choose one with --dataset_config"):
        read(tmp_path)
    assert texts(tmp_path, dataset_config="main") == ["one"]
    assert texts(tmp_path, "test", dataset_config="main") == ["one", "two"]
    assert texts(tmp_path, dataset_config="other") == ["two"] and read(tmp_path, "test", dataset_config="other") is None
    (tmp_path / "README.md").write_text(CARD.replace("- config_name: main", "- config_name: main\n  default: true"))
    assert texts(tmp_path) == ["one"]
    (tmp_path / "main/tr.jsonl").unlink()
    with pytest.raises(DataError, match=r"its card names main/tr\* for train, and no such file is there"):
        read(tmp_path)


def test_a_card_may_name_the_folder_of_a_configuration(tmp_path):
    """Else all folders would be one train split, or the reader would fail; patterns are taken from there."""
    for name in ("main", "other"):
        write_rows(tmp_path / name / "train.jsonl", [{"text": name}])
        write_rows(tmp_path / name / "test-00000-of-00001.jsonl", [{"text": f"{name} held"}])
    head = "---\nconfigs:\n- config_name: main\n  data_dir: main\n- config_name: other\n  data_dir: other\n"
    (tmp_path / "README.md").write_text(f"{head}---\n")
    with pytest.raises(DataError, match="has the configurations main, other: choose one with --dataset_config"):
        read(tmp_path)
    for name in ("main", "other"):
        assert texts(tmp_path, dataset_config=name) == [name]
        assert texts(tmp_path, "test", dataset_config=name) == [f"{name} held"]
    (tmp_path / "README.md").write_text(f"{head}  data_files: test-*\n---\n")
    assert texts(tmp_path, dataset_config="other") == ["other held"]


def test_a_card_without_a_train_split_says_which_it_has(tmp_path):
    write_rows(tmp_path / "a.jsonl", TEXT)
    files = "- split: train_sft\n    path: a.jsonl\n  - split: test_sft\n    path: a.jsonl"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n  {files}\n---\n")
    with pytest.raises(
        DataError, match="no split train; its card has train_sft, test_sft: --dataset_train_split train_sft"
    ):
        read(tmp_path)
    assert texts(tmp_path, "train_sft") == ["one", "two"] and read(tmp_path, "test") is None


@pytest.mark.parametrize("content", ["[]", "\n\n", "{}\n{}\n"])
def test_a_file_without_rows_is_one_sentence(content, tmp_path, tokenizer):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="x.json .train.: the data set is empty"):
        prepare.rows(DataArguments(dataset_name=str(tmp_path / "x.json")), "sft", tokenizer, max_length=64, seed=0)


def test_what_save_to_disk_wrote(tmp_path):
    rows = datasets.Dataset.from_list(TEXT)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "both")
    assert texts(tmp_path / "one") == ["one", "two"] and read(tmp_path / "one", "test") is None
    assert texts(tmp_path / "both", "test") == ["two"] and read(tmp_path / "both", "validation") is None


def test_saved_text_that_datasets_would_change_is_refused(tmp_path):
    """Typed `Json` by `datasets` itself, as it types the hub's JSON, the text "6" would be read as a number."""
    mixed = {"prompt": ["6", [{"role": "user", "content": "b"}]], "id": ["x", "y"]}
    datasets.Dataset.from_dict(mixed, on_mixed_types="use_json").save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="saved: the column prompt is text in some rows and something else in others"):
        read(tmp_path / "saved")


def test_files_that_are_not_read_are_named_once(tmp_path, capsys):
    write_rows(tmp_path / "data/train.jsonl", TEXT)
    write_rows(tmp_path / "data/more.jsonl", TEXT)
    for name in ("README.md", ".gitattributes", "LICENSE", "dataset_infos.json", "notes.docx", "__MACOSX/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert splits.read(DataArguments(dataset_name=str(tmp_path)), seed=0)["train"].num_rows == 2
    assert capsys.readouterr().out == f"not read in {tmp_path}: data/more.jsonl, notes.docx\n"


def test_another_split_than_test_is_named(tmp_path, capsys):
    write_rows(tmp_path / "train.jsonl", TEXT)
    write_rows(tmp_path / "valid.jsonl", TEXT)
    args = DataArguments(dataset_name=str(tmp_path))
    assert splits.read(args, seed=0)["test"] is None
    assert "has no split test; it has validation (--dataset_test_split validation)" in capsys.readouterr().out
    assert read(tmp_path, "validation") == TEXT


def test_files_of_several_kinds_are_one_sentence(tmp_path):
    write_rows(tmp_path / "a.jsonl", TEXT)
    (tmp_path / "b.csv").write_text("text\nthree\n")
    with pytest.raises(DataError, match=r"the split train of .* has files of several kinds \(1 csv, 1 json\)"):
        read(tmp_path)
    with pytest.raises(DataError, match="no file to read; readable are"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")


# ------------------------------------------------------------------------------------------------------------ mixtures


def test_a_mixture_of_unlike_parts_keeps_every_column(tmp_path):
    chat = [{"role": "user", "content": "b"}]
    a = write_rows(tmp_path / "a.jsonl", [{"prompt": "6", "completion": "x", "tools": [{"a": 1}]}])
    b = write_rows(tmp_path / "b.jsonl", [{"prompt": chat, "completion": chat, "category": "c"}])
    rows = load.load(DataArguments(datasets=[{"path": str(a)}, {"path": str(b)}]), "train", seed=0)
    found = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert {"prompt": "6", "completion": "x", "tools": [{"a": 1}]} in found and len(found) == 2
    assert {"prompt": chat, "completion": chat, "category": "c"} in found


def test_shares_of_parts_that_have_one_unlike_column(tmp_path):
    """A table of messages beside JSON, each of which is shuffled and cut before the two are made alike."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    datasets.Dataset.from_list([{"messages": chat}] * 4).to_parquet(tmp_path / "a.parquet")
    write_rows(tmp_path / "b.jsonl", [{"messages": chat}] * 4)
    entries = [{"path": str(tmp_path / name), "fraction": 0.5} for name in ("a.parquet", "b.jsonl")]
    assert load.load(DataArguments(datasets=entries), "train", seed=0)["messages"][:] == [chat] * 8


def test_an_entry_of_a_mixture_may_name_its_split(tmp_path):
    write_rows(tmp_path / "a/train_sft.jsonl", TEXT)
    write_rows(tmp_path / "a/test_sft.jsonl", TEXT[:1])
    entries = [{"path": str(tmp_path / "a"), "split": "test_sft"}]
    assert load.load(DataArguments(datasets=entries), "train", seed=0)["text"][:] == ["one"]
    with pytest.raises(DataError, match="has no such split"):
        load.load(DataArguments(datasets=[{"path": str(tmp_path / "a"), "split": "nope"}]), "train", seed=0)


# ----------------------------------------------------------------------------------------------------- the hub, streams


class Hub:
    """Stands in for the hub: a data set with a train split, and an account of what was asked for."""

    def __init__(self, monkeypatch, *names):
        self.names, self.asked = names, []
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config=None: list(names))
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, name, config=None, *, split, streaming=False, **_):
        self.asked.append((split, streaming))
        if split not in self.names:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(self.names)}.')
        rows = datasets.Dataset.from_list([{"text": "the cat sits on the mat"}] * 8)
        return rows.to_iterable_dataset() if streaming else rows


@pytest.mark.parametrize(
    ("names", "asked"), [(("train",), ["train"]), (("train", "test"), ["train", "test"])], ids=["without test", "with"]
)
def test_a_stream_downloads_nothing_to_look_for_a_test_split(names, asked, monkeypatch, tokenizer):
    hub = Hub(monkeypatch, *names)
    corpus = pretrain.corpus(DataArguments(dataset_name="some/texts"), tokenizer, length=8, seed=0, how=stream.How())
    assert next(iter(corpus.train)) and (corpus.test is None) == (len(names) == 1)
    assert hub.asked == [(split, True) for split in asked]


def test_a_stream_without_its_train_split_says_so(monkeypatch, tokenizer):
    Hub(monkeypatch, "test")
    with pytest.raises(DataError, match="some/texts has no split 'train'; name one with --dataset_train_split"):
        pretrain.corpus(DataArguments(dataset_name="some/texts"), tokenizer, length=8, seed=0, how=stream.How())


def test_a_stream_begins_again_until_the_steps_are_made(tmp_path, tokenizer):
    """Also one that has fewer blocks than an optimizer step takes: the trainer waited for ever."""
    path = write_rows(tmp_path / "x.jsonl", [{"text": "the cat sits on the mat"}] * 3)
    corpus = pretrain.corpus(DataArguments(dataset_name=str(path)), tokenizer, length=8, seed=0, how=stream.How())
    blocks = list(itertools.islice(corpus.train, 20))
    once = len(pretrain.corpus(DataArguments(dataset_name=str(path)), tokenizer, length=8, seed=0).train)
    assert len(blocks) == 20 > once and blocks[once] == blocks[0] and "as they arrive" in str(corpus)
    long = pretrain.corpus(DataArguments(dataset_name=str(path)), tokenizer, length=512, seed=0, how=stream.How())
    with pytest.raises(DataError, match="fewer than max_length=512 tokens in all"):
        next(iter(long.train))


def test_streams_of_files_are_the_files_rows(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"text": "one", "m": {"a": 1}}, {"text": "two", "m": "b"}])
    args = DataArguments(dataset_name=str(path))
    assert [row["m"] for row in load.load(args, "train", seed=0, stream=True)] == [{"a": 1}, "b"]


# ---------------------------------------------------------------------------------------------------- what became of rows


def test_too_long_has_a_limit_and_a_line_of_its_own(tmp_path, tokenizer):
    long = {"prompt": "p", "completion": "cat " * 100}
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "completion": "a"}] * 19 + [long])
    rows = prepare.rows(DataArguments(dataset_name=str(path)), "sft", tokenizer, max_length=64, seed=0)
    report = rows.reports["train"]
    assert (report.rows_in, report.too_long, report.rows_out, len(rows.train)) == (20, 1, 19, 19)
    told = [line.strip() for line in str(rows).splitlines()]
    assert f"TOO LONG: 5.0% of the rows are left out; the longest has {report.longest} tokens" in told[1]
    assert f"--max_length {report.longest} would take them all" in told[1]
    with pytest.raises(DataError, match="--max_too_long 0.06") as stopped:
        args = DataArguments(dataset_name=str(path), max_too_long=0.04)
        prepare.rows(args, "sft", tokenizer, max_length=64, seed=0)
    assert f"raise --max_length (the longest row has {report.longest} tokens)" in str(stopped.value)
    with pytest.raises(DataError, match=r"raise --max_prompt_length"):
        prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "cat " * 100}])
        prepare.rows(DataArguments(dataset_name=str(prompts)), "prompt", tokenizer, max_length=64, seed=0)


def test_malformed_rows_stay_strict_beside_long_ones(tmp_path, tokenizer):
    same, long = {"prompt": "p", "chosen": "a", "rejected": "a"}, {"prompt": "p", "chosen": "a " * 99, "rejected": "b"}
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 18 + [same, long])
    with pytest.raises(DataError, match=r"1 with identical(.|\n)*1 longer than 64(.|\n)*loss with --max_dropped 0.06$"):
        prepare.rows(DataArguments(dataset_name=str(path)), "preference", tokenizer, max_length=64, seed=0)


def test_columns_that_only_later_rows_have_are_kept(tmp_path, tokenizer):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "category": "c"},
    ]
    for some, kinds in ((rows, [None, "c"]), (rows[::-1], ["c", None])):
        path = write_rows(tmp_path / "x.jsonl", some)
        found = prepare.rows(DataArguments(dataset_name=str(path)), "preference", tokenizer, max_length=64, seed=0)
        assert found.train["category"][:] == kinds


def test_columns_that_are_not_read_and_what_prompts_were_taken_for_are_said(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "completion": "a", "id": 3, "source": "s"}] * 3)
    rows = prepare.rows(DataArguments(dataset_name=str(path)), "sft", tokenizer, max_length=64, seed=0)
    assert "not read: id, source" in str(rows)
    assert "prompts: plain text, without the chat template (--prompt_format chat" in str(rows)
    assert rows.as_dict()["train"]["not_read"] == ["id", "source"]
    chats = write_rows(tmp_path / "y.jsonl", conversations(3))
    told = str(prepare.rows(DataArguments(dataset_name=str(chats)), "sft", tokenizer, max_length=64, seed=0))
    assert "prompts: chat turns, through the chat template" in told and "not read" not in told


def test_prompts_keep_their_columns_as_they_were_written(tmp_path, tokenizer):
    rows = [{"prompt": [{"role": "user", "content": "a"}], "facts": {"x": 1}}, {"prompt": "6", "facts": {"y": [None]}}]
    path = write_rows(tmp_path / "x.jsonl", rows)
    found = prepare.rows(DataArguments(dataset_name=str(path)), "prompt", tokenizer, max_length=64, seed=0).train
    assert [{k: row[k] for k in ("prompt", "facts")} for row in found] == rows


PROGRAM = """
import sys
from align.data import prepare
from align.data.forms import schemas
from align.run.arguments import DataArguments
if sys.argv[2] == "new":  # as after a change of our code
    real = schemas.MAKERS["text"]
    schemas.MAKERS["text"] = lambda *args: real(*args) | {"text": "new"}
print(list(prepare.texts(DataArguments(dataset_name=sys.argv[1]), seed=0).train))
"""


def test_no_cache_gives_the_rows_of_older_code(tmp_path):
    """Two processes with one cache folder, the second with other code; then with another file of the same name."""
    path = write_rows(tmp_path / "x.jsonl", TEXT)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(code: str) -> str:
        env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, str(program), str(path), code], env=env, capture_output=True, text=True, check=True
        ).stdout

    assert run("old") == "['one', 'two']\n" and run("new") == "['new', 'new']\n"
    write_rows(path, [{"text": "six"}, {"text": "ten"}])
    assert run("old") == "['six', 'ten']\n"


@pytest.mark.parametrize("name", ["x.parquet", "x.txt", "x.txt.gz", "x.arrow", "x.jsonl"])
def test_another_file_of_the_same_name_length_and_date_is_another_file(name, tmp_path):
    """As rsync, `cp -p` and tar leave it."""
    file = tmp_path / name
    for word in ("one", "six"):
        rows = datasets.Dataset.from_list([{"text": word}])
        if name == "x.parquet":
            rows.to_parquet(file)
        elif name == "x.arrow":
            with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, rows.data.table.schema) as stream:
                stream.write_table(rows.data.table)
        else:
            told = json.dumps({"text": word}) if name == "x.jsonl" else word
            file.write_bytes(gzip.compress(told.encode()) if name.endswith("gz") else told.encode())
        os.utime(file, (10**9, 10**9))
        assert load.load(DataArguments(dataset_name=str(file)), "train", seed=0)["text"][:] == [word]


def test_nothing_is_written_beside_what_is_read(tmp_path):
    datasets.Dataset.from_list([{"text": word} for word in WORDS]).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    args = DataArguments(dataset_name=str(tmp_path / "saved"), test_split_size=0.2)
    assert len(splits.read(args, seed=0)["test"]) == 5 and sorted(tmp_path.rglob("*")) == before


def test_recipes_that_sample_share_one_limit_of_the_prompt():
    from align.compare.config import CompareConfig
    from align.evaluate.config import EvalConfig
    from align.models.sample import SampleConfig
    from align.ppo.config import PPOArguments
    from align.run.arguments import PromptArguments

    assert PromptArguments().max_prompt_length == 1024
    for config in (CompareConfig, EvalConfig, SampleConfig, PPOArguments):
        assert issubclass(config, PromptArguments) and "max_prompt_length" not in config.__dict__.get(
            "__annotations__", {}
        )


# --------------------------------------------------------------------------------------------- what Arrow's merging adds


def _calls(name: str, **arguments) -> dict:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    properties = {key: {"type": "string"} for key in arguments}
    tool = {"name": name, "parameters": {"type": "object", "properties": properties}}
    settings = {"thinking": True} if name == "price" else {"mode": "brief"}
    return {"messages": said, "tools": [tool], "chat_template_kwargs": settings, "facts": {name: 1}}


@pytest.mark.parametrize("how", ["parquet", "saved", "mapped", "mixed"])
def test_keys_that_merging_objects_invents_are_no_arguments_of_tools(how, tmp_path):
    rows = [_calls("price", symbol="AAPL"), _calls("find", where="mat", deep={"a": 1}), _calls("find", deep={"b": "x"})]
    written = [{**row, "offered": row["tools"]} if how == "mapped" else row for row in rows]
    merged = datasets.Dataset.from_list(written)
    place = tmp_path / "data"
    if how == "saved":
        merged.save_to_disk(place)
    else:
        place.mkdir()
        merged.to_parquet(place / "x.parquet")
    columns = ["offered=tools"] if how == "mapped" else []
    given = {"datasets": [{"path": str(place)}]} if how == "mixed" else {"dataset_name": str(place)}
    loaded = load.load(DataArguments(columns=columns, **given), "train", seed=0)
    found = list(normal.normalise(loaded, "sft", "x", columns))
    for name in ("messages", "tools", "chat_template_kwargs"):
        assert sorted(map(str, (row[name] for row in found))) == sorted(map(str, (row[name] for row in rows)))
    assert None in loaded[0]["facts"].values()  # what no template writes is as the file gives it


def test_a_null_that_json_has_in_a_call_is_an_argument(tmp_path):
    loaded = read(write_rows(tmp_path / "x.jsonl", [_calls("price", symbol=None), _calls("find", where="mat")]))
    assert loaded[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"symbol": None}


# ------------------------------------------------------------------------------------------- what the data set calls bad


def test_answers_that_their_label_calls_bad_are_counted_and_the_first_is_numbered(tmp_path, tokenizer):
    rows = [{"prompt": "p", "completion": word, "label": word == "a"} for word in "abab"]
    found = prepare.rows(
        DataArguments(dataset_name=str(write_rows(tmp_path / "x.jsonl", rows))), "sft", tokenizer, max_length=64, seed=0
    )
    assert "4 rows in, 2 whose label calls the answer bad, 2 used" in str(found) and "look" not in str(found)
    assert tokenizer.decode(found.train[1]["input_ids"]).endswith("a<|eos|>")
    assert found.reports["train"].first["whose label calls the answer bad"].startswith("row 2, ")
    path = write_rows(tmp_path / "y.jsonl", rows[1::2])
    with pytest.raises(DataError, match=r"2 of 2 rows.*\n.*2 whose label calls the answer bad, the first: row 1, "):
        prepare.rows(DataArguments(dataset_name=str(path)), "sft", tokenizer, max_length=64, seed=0)


def test_rows_are_written_as_they_were_read(tmp_path):
    """Calls of tools with other arguments in each row, a text among messages, nulls, one letter beyond ASCII."""
    rows = [
        {"messages": [{"role": "user", "content": "wörter"}], "tools": [{"a": None}], "n": 1},
        {"messages": "text", "tools": None, "n": 2},
    ]
    lines.write(lines.read([write_rows(tmp_path / "a.jsonl", rows)], ()), tmp_path / "b.jsonl")
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == rows


def test_rows_from_the_hub_are_recorded_with_their_commit(monkeypatch):
    """By the addresses that their files were read from; kept through renamed columns and a cut."""
    commit = "0123456789abcdef" * 2 + "01234567"

    def load_dataset(*_, split, **__):
        rows = datasets.Dataset.from_list([{"a": f"Q{n}", "b": "x"} for n in range(4)])
        rows.info.download_checksums = {f"hf://datasets/owner/rows@{commit}/{split}.parquet": {"num_bytes": 1}}
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from conftest import make_tokenizer

    tokenizer = make_tokenizer()
    named = DataArguments(dataset_name="owner/rows", columns=["a=prompt"], max_train_rows=3)
    done = prepare.rows(named, "prompt", tokenizer, max_length=64, seed=0).as_dict()
    assert done["train"]["commits"] == done["test"]["commits"] == [commit] and done["train"]["rows_in"] == 3
    assert splits.commits(datasets.Dataset.from_list([{"a": "x"}])) == []
