"""Rows that are read as they arrive: the same rows, the same refusals, each row once, and nothing read that is not used."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from types import SimpleNamespace

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import conversations, launch, losses, make_tokenizer, run_recipe, stage_arguments, write_rows
from fsspec.implementations.local import LocalFileSystem

from align.data import load, prepare, splits
from align.data.large import stream
from align.run.arguments import DataArguments
from align.run.checks import resumed
from align.run.errors import DataError, OneProcess, RunError
from align.train import loop, pretrain


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def chat(number: int) -> dict:
    said = " ".join("the cat sits on a mat"[: 1 + number % 20].split() or ["no"])
    return {"messages": [{"role": "user", "content": f"what is {number}"}, {"role": "assistant", "content": said}]}


def streamed(path, tokenizer, *, readers: int = 1, buffer: int = 0, seed: int = 0, **settings):
    args = DataArguments(dataset_name=str(path), **settings)
    return prepare.rows(args, "sft", tokenizer, max_length=64, seed=seed, how=stream.How(readers, buffer))


def ids(rows) -> list[tuple]:
    return [tuple(row["input_ids"]) for row in rows]


def once(rows, count: int) -> list[tuple]:
    """The first pass, of as many examples."""
    return ids(itertools.islice(rows.train, count))


# ------------------------------------------------------------------------------------------------- the same as prepared


KINDS = ("jsonl", "jsonl.gz", "csv", "parquet", "saved")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_the_rows_that_reading_first_gives(kind, tmp_path, tokenizer):
    rows = [{"prompt": f"what is {n}", "completion": "the cat"} for n in range(250)]
    made = datasets.Dataset.from_list(rows)
    path = tmp_path / f"train.{kind}"
    if kind == "saved":
        made.save_to_disk(path)
    elif kind == "parquet":
        made.to_parquet(path)
    elif kind == "csv":
        made.to_csv(path)
    else:
        made.to_json(path, compression="gzip" if kind.endswith("gz") else None)
    first = prepare.rows(DataArguments(dataset_name=str(path)), "sft", tokenizer, max_length=64, seed=0)
    arriving = streamed(path, tokenizer)
    taken = list(itertools.islice(arriving.train, 250))
    assert [(row["input_ids"], row["labels"]) for row in taken] == [
        (row["input_ids"], row["labels"]) for row in first.train
    ]
    assert arriving.reports["train"].rows_in == 0 and "as they arrive" in str(arriving)


def test_objects_that_parquet_merged_are_taken_apart_in_a_stream_too(tmp_path):
    """Each row's tool has arguments of its own; in one column each has those of all, null where it had none."""
    rows = [{"messages": chat(1)["messages"], "tools": [{"name": "f", "parameters": {key: 1}}]} for key in ("a", "b")]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "x.parquet")
    args = DataArguments(dataset_name=str(tmp_path / "x.parquet"))
    found = [[row["tools"] for row in load.load(args, "train", seed=0, stream=how)] for how in (False, True)]
    assert found[1] == found[0] == [rows[0]["tools"], rows[1]["tools"]]


# --------------------------------------------------------------------------------------------------------- the refusals


def refusal(call) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_a_malformed_row_at_the_start_ends_before_a_model_is_loaded(tmp_path, tokenizer):
    rows = [*map(chat, range(60)), {"messages": [{"role": "user", "content": 5}]}]
    path = write_rows(tmp_path / "x.jsonl", rows)
    args = DataArguments(dataset_name=str(path))
    first = refusal(lambda: prepare.rows(args, "sft", tokenizer, max_length=64, seed=0))
    arriving = refusal(lambda: streamed(path, tokenizer))
    assert "row 61" in arriving and arriving == first.replace("(train)", "(train, streamed)")


@pytest.mark.parametrize("readers", [1, 2])
def test_a_malformed_row_later_is_named_by_its_number(readers, tmp_path, tokenizer):
    """Also where it is one of every other row, which is what each of two readers of one file reads."""
    rows = [*map(chat, range(150)), {"messages": [{"role": "user", "content": 5}]}]
    rows = streamed(write_rows(tmp_path / "x.jsonl", rows), tokenizer, readers=readers)
    said = refusal(lambda: list(itertools.islice(rows.train, 150)))
    assert "x.jsonl (train, streamed), row 151.messages" in said


def test_a_malformed_row_among_several_files_is_told_from_where(tmp_path, tokenizer):
    """Of two files one is each reader's; where files are read in random order, a row has no number of its own."""
    for part in range(2):
        write_rows(
            tmp_path / f"train-{part}.jsonl", [*map(chat, range(150)), {"messages": [{"role": "user", "content": 5}]}]
        )
    for readers, where in ((2, ", part 1 of 2, row 151"), (1, ", files in random order, row 151")):
        rows = streamed(tmp_path, tokenizer, readers=readers, buffer=5)
        assert f"(train, streamed){where}.messages" in refusal(
            lambda rows=rows: list(itertools.islice(rows.train, 500))
        )


def test_more_readers_than_rows(tmp_path, tokenizer):
    rows = streamed(write_rows(tmp_path / "x.jsonl", [chat(1)]), tokenizer, readers=2)
    said = refusal(lambda: next(iter(rows.train.shard(num_shards=2, index=1))))
    assert "not one row to train on; 2 processes and workers share it: use fewer" in said


def test_a_line_that_is_not_json_is_named(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [*map(chat, range(150))])
    path.write_text(path.read_text() + "{no\n")
    rows = streamed(path, tokenizer)
    assert "x.jsonl, line 151: not JSON" in refusal(lambda: list(itertools.islice(rows.train, 151)))


def test_a_file_that_breaks_off_ends_in_a_sentence(tmp_path, tokenizer):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([chat(n) for n in range(600)]), path, row_group_size=200)
    content = path.read_bytes()
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    path.write_bytes(content[:middle] + b"\0" * 3000 + content[middle + 3000 :])
    said = refusal(lambda: once(streamed(path, tokenizer), 600))
    assert said.startswith(f"{path} (train, streamed)") and " cannot be read: OSError" in said


def empty(number: int) -> dict:
    return {"prompt": "what", "completion": "" if number % 20 == 7 else "the cat"}


def test_dropped_rows_are_held_to_their_share_of_what_was_read(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [empty(n) for n in range(3_000)])
    rows = streamed(path, tokenizer)
    said = refusal(lambda: list(itertools.islice(rows.train, 2_000)))
    assert "the 1,000 rows read so far: 50 of 1000 rows (5.0%) cannot be used" in said and "--max_dropped 0.06" in said
    assert len(once(streamed(path, tokenizer, max_dropped=0.05), 2_850)) == 2_850
    long = write_rows(tmp_path / "y.jsonl", [{"prompt": "what " * 100, "completion": "no"}, *map(empty, range(6))])
    assert "--max_too_long 0.15" in refusal(lambda: once(streamed(long, tokenizer), 7))


def test_what_was_dropped_is_told_in_the_end(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [empty(n) for n in range(200)])
    rows = streamed(path, tokenizer, max_dropped=0.05)
    once(rows, 500)  # more than one pass: a row is counted the first time
    run = SimpleNamespace(note=lambda **facts: run.__dict__.update(facts), main=False)
    loop.count(run, rows)
    assert run.data["train"]["rows_in"] == 200 and run.data["train"]["rows_out"] == 190
    assert run.data["train"]["dropped"] == {"with an empty answer": 10}


# ------------------------------------------------------------------------------------------- who reads what, and in which order


@pytest.mark.parametrize("files", ["one file", "four files", "parts of a file"])
@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (1, 2), (2, 2)])
def test_processes_and_their_workers_read_every_row_once(files, processes, workers, tmp_path, tokenizer):
    rows = [chat(n) for n in range(120)]
    if files == "one file":
        write_rows(tmp_path / "train.jsonl", rows)
    elif files == "four files":
        for part in range(4):
            write_rows(tmp_path / f"train-{part}.jsonl", rows[30 * part : 30 * (part + 1)])
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=30)
    readers = processes * max(1, workers)
    arriving = streamed(tmp_path, tokenizer, readers=readers, buffer=10)
    found = []
    for rank in range(processes):
        mine = arriving.train if processes == 1 else arriving.train.shard(num_shards=processes, index=rank)
        loader = torch.utils.data.DataLoader(mine, batch_size=5, num_workers=workers, collate_fn=ids)
        found += itertools.chain.from_iterable(itertools.islice(loader, 24 // processes))
    assert len(found) == len(set(found)) == 120
    arriving.stream.finish()
    assert arriving.stream.report.rows_in == arriving.stream.report.rows_out == 120


def test_the_order_is_random_and_the_seeds(tmp_path, tokenizer):
    path = write_rows(tmp_path / "x.jsonl", [chat(n) for n in range(100)])
    plain, one, again, other = (
        ids(itertools.islice(streamed(path, tokenizer, buffer=buffer, seed=seed).train, 200))
        for buffer, seed in ((0, 0), (50, 0), (50, 0), (50, 1))
    )
    assert one == again and one != other and one[:100] != plain[:100]
    assert sorted(one[:100]) == sorted(one[100:]) == sorted(plain[:100]) and one[:100] != one[100:]


def test_a_mixture_streams_by_its_fractions_or_in_turns(tmp_path):
    for name, count in (("a", 90), ("b", 30)):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name}{n}"} for n in range(count)])
    entries = [{"path": str(tmp_path / "a.jsonl")}, {"path": str(tmp_path / "b.jsonl")}]
    turns = [row["text"] for row in load.load(DataArguments(datasets=entries), "train", seed=0, stream=True)]
    assert turns[:4] == ["a0", "b0", "a1", "b1"] and len(turns) == len(set(turns)) == 120
    shares = [one | {"fraction": share} for one, share in zip(entries, (0.75, 0.25), strict=True)]
    drawn = [row["text"] for row in load.load(DataArguments(datasets=shares), "train", seed=0, stream=True)]
    assert len(drawn) == len(set(drawn)) > 60 and 0.6 < sum(text[0] == "a" for text in drawn) / len(drawn) < 0.9


# --------------------------------------------------------------------------------------------------------- what is read


class Counted(LocalFileSystem):
    """Local files under another name, and which blocks of 64 KiB were read of each."""

    protocol = "counted"
    read: dict[str, set[int]] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("counted:").lstrip("/")

    def _open(self, path, mode="rb", block_size=None, **kwargs):
        file = super()._open(path, mode, block_size, **kwargs)
        plain, blocks = file.read, self.read.setdefault(path.rsplit("/", 1)[-1], set())

        def read(*args):
            begin = file.tell()
            data = plain(*args)
            blocks.update(range(begin >> 16, (begin + len(data) + (1 << 16) - 1) >> 16))
            return data

        file.read = read
        return file


def test_no_more_is_read_of_a_stream_than_is_used(tmp_path, monkeypatch, tokenizer):
    """A stand-in for the hub whose files count what is read of them: of 15,000 rows in 25 MiB what the first 1,000 take."""
    rows = [{"prompt": f"what is {n}", "completion": "the cat", "notes": os.urandom(800).hex()} for n in range(15_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=100, use_dictionary=False,
                   compression="none")  # fmt: skip
    (tmp_path / "test.parquet").symlink_to("train.parquet")
    fsspec.register_implementation("counted", Counted, clobber=True)
    monkeypatch.setattr(Counted, "read", {})
    real = datasets.load_dataset

    def hub(name, config=None, *, split, streaming=False, **_):
        assert streaming
        return real("parquet", data_files=f"counted://{tmp_path}/{split}.parquet", split="train", streaming=True)

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config=None: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", hub)
    rows = streamed("some/chats", tokenizer, buffer=100)
    assert len(rows.test) == splits.HELD_OUT
    assert len(once(rows, 900)) == 900
    whole = (tmp_path / "train.parquet").stat().st_size >> 16
    for name in ("train", "test"):
        assert 0 < len(Counted.read[f"{name}.parquet"]) < 60 < whole / 6, name
    assert len(streamed("some/chats", tokenizer, max_eval_rows=7).test) == 7


def test_texts_read_no_more_of_a_test_split_either(tmp_path, tokenizer):
    """What lies behind the rows that are used may be anything: nobody looks at it."""
    for name in ("train", "test"):
        path = write_rows(tmp_path / f"{name}.jsonl", [{"text": "the cat sits on the mat"}] * 1_500)
        path.write_text(path.read_text() + "{no\n")
    args = DataArguments(dataset_name=str(tmp_path))
    found = pretrain.corpus(args, tokenizer, length=8, seed=0, how=stream.How(buffer=10))
    assert found.test_bytes > 0 and found.reports["test"].rows_in == splits.HELD_OUT
    assert len(list(itertools.islice(found.train, 100))) == 100


# ------------------------------------------------------------------------------------------------------------ in training


def test_a_workers_sentence_is_all_that_is_said(tmp_path, tokenizer, monkeypatch):
    """Torch raises it again with the worker's traceback in front; where there are several processes, each may tell."""
    rows = [*map(chat, range(150)), {"messages": [{"role": "user", "content": 5}]}]
    rows = streamed(write_rows(tmp_path / "x.jsonl", rows), tokenizer)
    loader = torch.utils.data.DataLoader(rows.train, batch_size=5, num_workers=1, collate_fn=ids)
    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=3), train=lambda **_: list(itertools.islice(loader, 40))
    )
    said = refusal(lambda: loop._train(trainer, None))
    assert said.startswith(f"{tmp_path}") and "row 151.messages" in said and "Traceback" not in said
    monkeypatch.setattr(loop.launch, "world_size", lambda: 2)
    with pytest.raises(OneProcess, match="row 151"):
        loop._train(trainer, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "a stream has no length, so say when to stop: --max_steps 1000"),
        (["--max_steps", "2", "--test_split_size", "0.1"], "cannot be cut off a stream"),
        (["--max_steps", "2", "--max_length", "4096"], "the model has positions for 128; give --max_length 128"),
    ],
)
@pytest.mark.slow
def test_what_a_stream_cannot_have_is_refused(more, said, world, tmp_path):
    done = run_recipe("sft", *stage_arguments("sft", world), "--dataset_streaming", *more, "--output_dir", tmp_path / "a",
                      check=False)  # fmt: skip
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--packing"], ["--dataloader_num_workers", "2"]])
def test_a_streamed_run_resumes_where_it_stopped(world, tmp_path, more):
    arguments = ["sft", *stage_arguments("sft", world), "--dataset_streaming", "--save_steps", "2", "--save_total_limit", "5",
                 "--max_steps", "5", *more]  # fmt: skip
    run_recipe(*arguments, "--output_dir", tmp_path / "a")
    shutil.copytree(tmp_path / "a/checkpoint-2", tmp_path / "b/checkpoint-2")
    (tmp_path / "b/run.json").write_text(json.dumps({"status": "running"}))
    run_recipe(*arguments, "--output_dir", tmp_path / "b", "--resume_from_checkpoint", "last")
    assert losses(tmp_path / "b") == losses(tmp_path / "a")[2:]


def test_other_readers_of_a_stream_do_not_resume():
    """They would share the rows in another way: some would be read again, and some never."""
    config = {"dataset_streaming": True, "dataloader_num_workers": 2}
    before = {"world_size": 1, "config": config}
    assert resumed.check_settings(before, config | {"save_steps": 3}) == {}
    with pytest.raises(RunError, match=r"who reads the stream \(processes x dataloader_num_workers\): 1 x 2 -> 1 x 1"):
        resumed.check_settings(before, config | {"dataloader_num_workers": 0})
    assert (
        resumed.check_settings({**before, "config": {"dataloader_num_workers": 0}}, {"dataloader_num_workers": 2}) == {}
    )


@pytest.mark.slow
def test_two_processes_stream_each_its_own_rows(world, tmp_path):
    """48 rows in three steps of 16: all of them, once. A malformed one ends both with its sentence."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/ddp.yaml",
               "--num_processes", "2", "recipes/sft.py", *stage_arguments("sft", world), "--dataset_streaming",
               "--global_batch_size", "16", "--max_steps", "3"]  # fmt: skip
    launch([*command, "--output_dir", tmp_path / "a"])
    rows = json.loads((tmp_path / "a/run.json").read_text())["data"]["train"]
    assert rows["rows_in"] == rows["rows_out"] == 48
    bad = [*conversations(130), {"messages": [{"role": "user", "content": 5}]}, *conversations(5)]
    write_rows(tmp_path / "bad/train.jsonl", bad)
    done = launch([*command, "--dataset_name", str(tmp_path / "bad"), "--max_steps", "40", "--output_dir", tmp_path / "b"],
                  check=False)  # fmt: skip
    assert done.returncode and "error: " in done.stderr and "row 131.messages" in done.stderr
