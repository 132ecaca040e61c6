"""Rows by the million: memory that does not grow, several processes that make what one makes, a cache that is right."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import psutil
import pytest
from conftest import ROOT, WORDS, make_tokenizer, pairs, write_rows

from align.data import arrow, lines, prepare
from align.data.large import cached, mapped, pace
from align.data.overlap import prompts
from align.run.arguments import DataArguments, PairArguments
from align.run.errors import ConfigError, DataError
from align.train import pretrain


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, and bounds that make a few rows many."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(mapped, "FEW", 5)
    monkeypatch.setattr(mapped, "BATCH", 4)
    monkeypatch.setattr(lines, "SMALL", 0)
    monkeypatch.setattr(arrow, "CHUNK", 16)
    monkeypatch.setattr(prompts, "PART", 8)
    return tmp_path / "cache" / "align"


def chats(n: int) -> list[dict]:
    """Conversations of one and two answers, of which some are empty, some long, and some have a column of their own."""
    rows = []
    for i in range(n):
        turns = [{"role": "user", "content": f"what is {WORDS[i % 9]} {i % 31}"}]
        turns += [{"role": "assistant", "content": "" if i % 11 == 3 else " ".join(WORDS[i % 7 :][: 3 + i % 17])}]
        turns += [{"role": "user", "content": "why"}, {"role": "assistant", "content": "no"}] if i % 3 else []
        rows.append({"messages": turns} | ({"id": i} if i % 5 else {"note": {"a": [i]}}))
    return rows


def take(path: Path, schema: str = "sft", processes: int | None = None, **given):
    args = {"max_dropped": 1.0, "max_too_long": 1.0, "dataset_num_proc": processes} | given
    pairing = PairArguments() if "ranking" in path.name else None
    return prepare.rows(
        DataArguments(dataset_name=str(path), **args), schema, make_tokenizer(), max_length=60, seed=0, pairing=pairing
    )


def told(splits) -> list:
    """All that a run learns of its rows."""
    rows = [None if some is None else list(some) for some in (splits.train, splits.test)]
    return [rows, str(splits), splits.as_dict(), {name: vars(report) for name, report in splits.reports.items()}]


RANKINGS = [
    {"prompt": f"what {i % 20}", "completions": ["a cat", f"dog {i}", "no"], "ranking": [1, 1 + i % 3, 2]}
    for i in range(40)
]
PROMPTS = [{"prompt": f"what is {i}", "facts": [i, "x"] if i % 2 else None, "n": i / 2} for i in range(40)]


@pytest.mark.parametrize(
    ("schema", "rows", "given"),
    [
        ("sft", chats(40), {}),
        ("sft", chats(40), {"test_split_size": 0.3}),
        ("preference", [*pairs(30), {**pairs(31)[30], "category": "c", "margin": 2}], {}),
        ("preference", RANKINGS, {"test_split_size": 8}),
        ("prompt", PROMPTS, {}),
    ],
    ids=["chats", "halves", "pairs", "rankings", "prompts"],
)
def test_any_number_of_processes_makes_what_one_makes_in_memory(schema, rows, given, tmp_path, cache, monkeypatch):
    path = write_rows(tmp_path / ("rankings.jsonl" if rows is RANKINGS else "x.jsonl"), rows)
    several = told(take(path, schema, 2, **given))
    assert len(list(cache.glob("*/rows_00001_of_00002.arrow"))) == 1 + ("test_split_size" in given)
    one = told(take(path, schema, 1, **given, max_train_rows=10_000))  # the same rows: the cache answers
    monkeypatch.setattr(cached, "code", lambda: "other")
    assert told(take(path, schema, 1, **given)) == one == several
    for bound in ("FEW", "BATCH"):
        monkeypatch.setattr(mapped, bound, 10_000)
    monkeypatch.setattr(lines, "SMALL", 1 << 20)
    assert told(take(path, schema, **given)) == several


@pytest.mark.parametrize("processes", [1, 2])
def test_of_malformed_rows_the_first_is_told_in_one_sentence(processes, tmp_path, cache):
    rows = chats(40)
    for at in (13, 22, 39):  # the second of two processes meets one before the first does
        rows[at] = {"messages": [{"role": "nobody", "content": "x"}]}
    path = write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError) as caught:
        take(path, processes=processes)
    assert str(caught.value).startswith(f"{path} (train), row 14.messages[0]: unknown role 'nobody'")
    assert not list(cache.glob("*.part"))


def entries(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir() if (entry / "account.json").exists()}


def test_the_cache_knows_rows_options_tokenizer_and_code(tmp_path, cache, monkeypatch):
    made = []
    real = mapped._map
    monkeypatch.setattr(mapped, "_map", lambda *args: made.append(1) or real(*args))
    path = write_rows(tmp_path / "x.jsonl", chats(40))
    first = told(take(path))
    assert told(take(path)) == first and len(made) == 1
    (known,) = entries(cache)
    write_rows(path, [*chats(39), {"question": "what", "answer": "a cat"}])
    take(path)
    assert len(made) == 2
    prepare.rows(DataArguments(dataset_name=str(path)), "prompt", make_tokenizer(), max_length=60, seed=0)
    assert len(made) == 3
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("User:", "Asked:")
    prepare.rows(
        DataArguments(dataset_name=str(path), max_dropped=1, max_too_long=1), "sft", tokenizer, max_length=60, seed=0
    )
    assert len(made) == 4
    monkeypatch.setattr(cached, "code", lambda: "changed")
    take(path)
    assert len(made) == 5 and known in entries(cache)


def test_a_file_that_lost_its_end_is_made_again(tmp_path, cache):
    path = write_rows(tmp_path / "x.jsonl", chats(40))
    first = told(take(path))
    for file in cache.glob("*/*.arrow"):
        file.write_bytes(file.read_bytes()[:-100])
    assert told(take(path)) == first


def test_nothing_is_left_beside_the_users_rows(tmp_path, cache):
    folder = tmp_path / "mine"
    write_rows(folder / "files/train.jsonl", chats(40))
    saved = datasets.Dataset.from_list([{"question": f"what {i}", "answer": "a cat"} for i in range(40)])
    saved.save_to_disk(folder / "saved")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    for name in ("files", "saved"):
        take(folder / name, processes=2, test_split_size=0.2)
    mixed = DataArguments(datasets=[{"path": str(folder / "saved"), "fraction": 1.0}], max_train_rows=30)
    prepare.rows(mixed, "sft", make_tokenizer(), max_length=60, seed=0)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


PROGRAM = """
import sys, threading, time, psutil, re, datasets
sys.path.insert(0, "{tests}")
from conftest import make_tokenizer
from align.data import lines, prepare
from align.data.large import mapped
from align.run.arguments import DataArguments
lines.SMALL, peak = 0, [0]
def look():
    while True:
        text = open("/proc/self/status").read()
        peak[0] = max(peak[0], sum(int(kib) for kib in re.findall(r"Rss(?:Anon|Shmem):\\s+(\\d+)", text)))
        time.sleep(0.01)
tokenizer = make_tokenizer()
mapped.FEW = 1_000
threading.Thread(target=look, daemon=True).start()
args = DataArguments(dataset_name=sys.argv[1], dataset_num_proc=1, test_split_size=100)
rows = prepare.rows(args, "sft", tokenizer, max_length=4096, seed=0)
print(len(rows.train), rows.reports["train"].fingerprint, peak[0])
"""


def program(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(tests=ROOT / "tests"))
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    return [sys.executable, str(file)], environment


def write_many(path: Path, count: int) -> Path:
    said = " ".join(WORDS) + " "
    with path.open("w") as stream:
        for i in range(count):
            stream.write(json.dumps({"question": f"what is {i}", "answer": said * 3 + str(i)}) + "\n")
    return path


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """18,000 rows more took 118 MiB more; now 4 MiB, most of it numbers of rows."""
    command, environment = program(tmp_path)
    peaks = []
    for count in (2_000, 20_000):
        path = write_many(tmp_path / f"{count}.jsonl", count)
        done = subprocess.run([*command, str(path)], env=environment, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 50 * 1024, peaks


def test_what_a_killed_program_left_is_not_used_and_is_cleaned_away(tmp_path):
    command, environment = program(tmp_path)
    path, root = write_many(tmp_path / "x.jsonl", 6_000), tmp_path / "cache" / "align"
    running = subprocess.Popen([*command, str(path)], env=environment, start_new_session=True)
    begun = time.monotonic()
    while not [file for file in root.glob("*.part/*.digests") if file.stat().st_size]:
        assert running.poll() is None and time.monotonic() - begun < 120
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert list(root.glob("*.part"))
    runs = [subprocess.run([*command, str(path)], env=environment, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0] and not list(root.glob("*.part"))
    assert runs[0].stdout.split()[:2] == runs[1].stdout.split()[:2] and runs[0].stdout.startswith("5900 ")


@pytest.mark.parametrize("ends", ["interrupted", "killed"])
def test_what_ends_the_processes_is_told_as_it_was(ends, tmp_path, cache, monkeypatch):
    """`datasets` raises its own TimeoutError over it, where a process is in the middle of a batch."""
    real = mapped.encode
    monkeypatch.setattr(mapped, "encode", lambda *args, **named: time.sleep(0.3) or real(*args, **named))
    path = write_rows(tmp_path / "x.jsonl", chats(200))

    def end() -> None:
        while not list(cache.glob("*.part/*.digests")):
            time.sleep(0.02)
        if ends == "interrupted":
            return os.kill(os.getpid(), signal.SIGINT)
        workers = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
        min(workers, key=psutil.Process.create_time).kill()  # the last one only passes on what the others made

    thread = threading.Thread(target=end)
    thread.start()
    kind, said = (KeyboardInterrupt, "") if ends == "interrupted" else (DataError, "--dataset_num_proc 1")
    with pytest.raises(kind) as caught:
        take(path, processes=2)
    thread.join()
    assert said in str(caught.value) and not list(cache.glob("*.part"))


def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(cache):
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"align: No space left on device, and prepared rows go there; free space, or"):
        cached.kept(["x"], make)
    assert not list(cache.iterdir())


def test_a_cache_that_may_only_be_read_is_read(cache, monkeypatch):
    def refused(*_args, **_named):
        raise PermissionError(errno.EACCES, "Permission denied")

    made = cached.kept(["x"], lambda folder: (folder / "x").write_text("x"))
    monkeypatch.setattr(Path, "touch", refused)
    assert cached.kept(["x"], lambda folder: pytest.fail("it is there")) == made
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(DataError, match=r"align: Permission denied, and prepared rows go there; .*HF_DATASETS_CACHE="):
        cached.kept(["y"], lambda folder: None)


def test_token_ids_become_arrow_without_a_data_set_in_between(monkeypatch):
    monkeypatch.setattr(mapped, "Dataset", None)
    ids = mapped._features("sft", datasets.Features(), None)["input_ids"]
    assert mapped._column([[1, 2], None], ids).to_pylist() == [[1, 2], None]


def test_a_tokenizer_in_python_alone_ends_in_a_sentence(tmp_path, cache):
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    slow.chat_template = make_tokenizer().chat_template
    for rows in (3, 40):  # in memory, and through files
        path = write_rows(tmp_path / f"{rows}.jsonl", chats(rows))
        with pytest.raises(ConfigError, match=r"^ByT5Tokenizer is a tokenizer in Python alone"):
            prepare.rows(DataArguments(dataset_name=str(path)), "sft", slow, max_length=60, seed=0)


def test_the_key_knows_which_rows_of_a_table_and_how_prompts_and_answers_are_read(tmp_path, cache, monkeypatch):
    table = datasets.Dataset.from_dict({"n": [1] * 10, "words": ["a"] * 5 + ["b"] * 5})
    slices = [table, *(table.select(range(*part)) for part in ((0, 5), (5, 10), (5, 9)))]
    assert len(set(map(cached.contents, slices))) == 4
    path, tokenizer = (
        write_rows(
            tmp_path / "x.jsonl", [{"prompt": f"what {i}", "chosen": " a cat", "rejected": " no"} for i in range(20)]
        ),
        make_tokenizer(),
    )

    def asked(**given) -> None:
        prepare.rows(
            DataArguments(dataset_name=str(path), prompt_format=given.pop("prompt_format", "auto")),
            "preference", tokenizer, max_length=60, seed=0, **given,
        )  # fmt: skip

    real, keys = cached.kept, []
    monkeypatch.setattr(lines, "SMALL", 1 << 20)
    monkeypatch.setattr(cached, "kept", lambda parts, make: keys.append(json.dumps(parts)) or real(parts, make))
    for given in ({}, {"prompt_format": "text"}, {"answers_only": True}):
        asked(**given)
    assert len(keys) == len(set(keys)) == 3


def test_how_special_tokens_in_texts_are_read_is_part_of_the_key():
    tokenizer = make_tokenizer()
    before = cached.tokens(tokenizer)
    tokenizer.split_special_tokens = not tokenizer.split_special_tokens
    assert cached.tokens(tokenizer) != before


@pytest.mark.parametrize("values", [[2**53 + 1, 0.5], [2**70, 0.5], [2**70, 1], [[2**70], [1]]])
def test_whole_numbers_that_no_column_of_numbers_holds_stay_as_written(values):
    assert [row["n"] for row in arrow.of_rows({"n": value} for value in values)] == values


def test_entries_that_nobody_reads_go(cache, monkeypatch):
    folders = [cached.kept([name], lambda folder: (folder / "x").write_text("x")) for name in ("old", "new")]
    os.utime(folders[0] / cached.DONE, (1, 1))
    cached.kept(["another"], lambda folder: None)
    assert [folder.exists() for folder in folders] == [False, True]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_files_are_read_into_files_as_they_are_into_memory(name, tmp_path, cache, monkeypatch):
    """Columns that are new, empty, of another kind in a later chunk, and numbers of a table that end in text."""
    rows = [{"a": i, "b": None, "c": "x", "f": i / 4} for i in range(40)]
    rows += [{"a": i, "b": [1, i], "c": "y", "d": 2.5, "f": 1} for i in range(20)]
    rows += [{"a": "six", "b": "z", "c": {"x": 1}, "d": 7, "f": 2}] * 20
    path = tmp_path / name
    if name == "x.csv":
        cells = [f"{r['a']},{r.get('d', '')},{'' if r['b'] is None else 3},{r['c']!r},{i}" for i, r in enumerate(rows)]
        path.write_text("\n".join(["a,d,b,c,words", *(cell.replace("{'x': 1}", "t") for cell in cells)]) + "\n")
    else:
        write_rows(path, rows)
    kept = lines.read([path], {"words"})
    assert kept.cache_files and str(cache) in kept.cache_files[0]["filename"]
    monkeypatch.setattr(lines, "SMALL", 1 << 20)
    held = lines.read([path], {"words"})
    assert not held.cache_files and (list(kept), kept.features) == (list(held), held.features)
    assert (
        list(held) == [{"b": None, "d": None} | row for row in rows] if name == "x.jsonl" else held[0]["words"] == "0"
    )


def test_documents_are_packed_from_files_as_from_memory(tmp_path, cache, monkeypatch):
    texts = [{"text": " ".join(WORDS[i % 9 :][: i % 13])} for i in range(60)]
    path = write_rows(tmp_path / "train.jsonl", texts)
    write_rows(tmp_path / "test.jsonl", texts[:20])
    monkeypatch.setattr(pretrain, "DOCUMENTS", 5)
    monkeypatch.setattr(pretrain, "AT_ONCE", 2)

    def read() -> list:
        found = pretrain.corpus(DataArguments(dataset_name=str(path.parent)), make_tokenizer(), length=16, seed=0)
        return [list(found.train), list(found.test), found.test_bytes, str(found), found.as_dict()]

    kept = read()
    for module, bound in ((mapped, "FEW"), (pretrain, "DOCUMENTS"), (pretrain, "AT_ONCE")):
        monkeypatch.setattr(module, bound, 10_000)
    assert read() == kept and len(kept[0]) > 5


def test_how_far_it_is_is_told_off_a_terminal_in_lines_and_not_at_all_where_it_is_quick(monkeypatch, capsys):
    monkeypatch.setattr(pace, "EVERY", 0.05)
    for first, count in ((5.0, 0), (0.01, 2)):
        monkeypatch.setattr(pace, "FIRST", first)
        with pace.told("preparing x", 400, lambda: 100):
            time.sleep(0.2)
        said = capsys.readouterr().err.splitlines()
        assert len(said) >= count if count else not said
    assert said[0].startswith("preparing x: 100 of 400 rows, 0:00 so far, about 0:0")
    monkeypatch.setenv("RANK", "1")
    with pace.told("preparing x", 400, lambda: 100):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_benchmark_runs_and_both_sides_make_the_same_tokens(tmp_path):
    command = [sys.executable, "benchmarks/data.py", "--rows", "60", "--kinds", "sft", "--output", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x").read_text())
    assert [(one["side"], one["rows"]) for one in found["results"]] == [("ours", 60), ("warm", 60), ("trl", 60)]
    assert all(one["memory_mib"] > 50 and one["summed_mib"] >= 0.9 * one["memory_mib"] for one in found["results"])
    assert "sft                 60  trl" in done.stdout
