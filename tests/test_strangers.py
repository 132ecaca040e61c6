"""What strangers send, opened with every command that reads such: nothing is written, run, sent or printed that it asks
for. The folders are made here, in a home of their own; programs start in this process, and no socket connects."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import runpy
import shutil
import socket
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, write_rows
from huggingface_hub import constants
from test_house import RECIPES

from align import cli
from align.data.chat import bounds
from align.label.exchange import imports
from align.label.store.store import Store

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"  # the title, the screen, a colour, the direction of writing
SHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TINY = ["--max_length", "64", "--max_steps", "1"]
MODELS = ("code", "pickle", "endless", "linked")  # checkpoints, each with one thing of its own


class Bomb:
    """A pickle that writes a file where it is read."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


# ------------------------------------------------------------------------------------------------- what strangers send


def record(folder: Path, recipe: str, secret: Path, **more: Any) -> None:
    """A run's record that names files of the reader's, commands and addresses."""
    named = dict.fromkeys(("decisions", "output_dir", "dataset_name", "model_name_or_path", "tokenizer"), str(secret))
    parents = {"model": {"path": "evil/base", "hash": "0"}, "data": {"path": "https://evil.example/rows.jsonl"}}
    told = {"recipe": recipe, "status": "complete", "hash": f"{EVIL}0", "command": f"{EVIL} rm -rf ~", "seed": 0}
    config = {**named, "dataset_name": "evil/rows", "trust_remote_code": True}
    (folder / "run.json").write_text(json.dumps({**told, "config": config | {"decisions": str(secret)},
                                                 "parents": parents, "metrics": {}} | more))  # fmt: skip


def checkpoints(home: Path, world: Path) -> None:
    """Of each kind a checkpoint: code, a pickle, a template without an end, a link to the reader's keys."""
    for kind in (*MODELS, "told"):  # the last is as it should be, but for its record
        folder = home / "got" / kind
        shutil.copytree(world / "base", folder)
        record(folder, "sft", home / "diary.jsonl")
    got = home / "got"
    ran = f"open({str(home / 'ran')!r}, 'w')\n"
    config = json.loads((got / "code/config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    (got / "code/config.json").write_text(json.dumps(config))
    tokenizer = json.loads((got / "code/tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", None]}}
    (got / "code/tokenizer_config.json").write_text(json.dumps(tokenizer))
    (got / "code/own.py").write_text(ran)
    (got / "pickle/model.safetensors").unlink()
    import torch

    torch.save({"a": Bomb(home / "ran")}, got / "pickle/pytorch_model.bin")
    (got / "pickle/training_args.bin").write_bytes(pickle.dumps(Bomb(home / "ran")))
    (got / "endless/chat_template.jinja").write_text(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    (got / "linked/gate.json").symlink_to(home / "keys.txt")  # evaluation writes a gate there
    (got / "linked/chat_template.jinja").unlink()
    (got / "linked/chat_template.jinja").symlink_to(home / "keys.txt")


def labels(home: Path) -> None:
    """Labels files: one with a trigger; one of ours, whose words move the cursor, between planted links."""
    for name in ("trigger", "ours", "fine"):
        with Store(home / f"got/{name}/labels.sqlite") as store:
            store.add([{"prompt": f"p{n}{EVIL}", "completions": ["a", f"b{EVIL}"], f"x{EVIL}": 1} for n in range(2)])
            who = store.annotator(f"judge{EVIL}"[:5], "model")
            while task := store.next(who):
                store.answer(task.id, who, ranking=[1, 2], reason=f"so{EVIL}")
        with sqlite3.connect(home / f"got/{name}/labels.sqlite") as db:
            db.execute("UPDATE annotators SET name = ?", (f"judge{EVIL}",))
    with sqlite3.connect(home / "got/trigger/labels.sqlite") as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON answers BEGIN UPDATE answers SET ranking = '[2, 1]'; END")
    folder = home / "got/ours"
    for name in ("guidelines.md", "labels.sqlite.holds.part", "guidelines.md.part"):
        (folder / name).symlink_to(home / "keys.txt")
    (folder / "judges").symlink_to(home)
    (folder / "tokens.json").write_text('{"visitor": "known-to-the-sender", "manager": "known-to-the-sender"}')
    (folder / "tokens.json").chmod(0o666)


def rows(home: Path) -> None:
    """Rows: by a card, a saved state and a link from outside; nested, long, not finite; pictures by their address."""
    got = home / "got"
    (got / "card").mkdir()
    head = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "../../diary.jsonl"}]}]}
    (got / "card/README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n")
    (got / "saved").mkdir()
    (got / "saved/dataset_info.json").write_text("{}")
    (got / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": "../../diary.jsonl"}]}))
    (got / "link").mkdir()
    (got / "link/train.jsonl").symlink_to(home / "diary.jsonl")
    write_rows(got / "deep.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with (got / "deep.jsonl").open("a") as stream:
        stream.write('{"prompt": ' + "[" * 200_000 + "\n")
    (got / "digits.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "n": ' + "1" * 5000 + "}\n")
    evil = {"prompt": f"a{EVIL}", "completions": ["b", f"c{EVIL}"], "ranking": [1, 2], "annotator": f"n{EVIL}"}
    write_rows(got / "export/data/train.jsonl", [evil | {f"column{EVIL}": f"![](http://evil.example/{EVIL})"}])
    record(got / "export", "rankings", home / "diary.jsonl")
    write_rows(got / "pairs.jsonl", [{"prompt": f"a{EVIL}", "chosen": "b", "rejected": f"c{EVIL}"}])
    _pictures(got / "pictures")


def _pictures(folder: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    kinds = datasets.Features(
        {"prompt": datasets.Value("string"), "a": datasets.Image(), "b": datasets.List(datasets.Audio())}
    )
    seen = {"bytes": None, "path": "http://evil.example/seen"}
    table = pa.table({"prompt": ["what"], "a": [seen], "b": [[seen]]}, schema=kinds.arrow_schema)
    pq.write_table(table, folder / "train.parquet")


def cleaned(home: Path) -> None:
    """A cleaning run whose record says that its decisions are the reader's diary."""
    folder = home / "got/clean"
    queue = {"id": f"1{EVIL}", "source": f"s{EVIL}", "rule": f"r{EVIL}", "why": "unsure", "verdict": "review",
             "reason": f"x{EVIL}", "text": f"words{EVIL}"}  # fmt: skip
    write_rows(folder / "review/queue.jsonl", [queue])
    record(folder, "clean", home / "diary.jsonl")
    (folder / "corpus").mkdir()
    (folder / "corpus/more").symlink_to(home)
    chain = home / "got/chain"
    chain.mkdir()
    (chain / "pipeline.json").symlink_to(home / "keys.txt")
    (chain / "pipeline.json.part").symlink_to(home / "keys.txt")


@pytest.fixture(scope="module")
def sent(tmp_path_factory, world) -> Path:
    """A home with the reader's own files, and in `got` what others sent."""
    home = tmp_path_factory.mktemp("home")
    write_rows(home / "diary.jsonl", [{"text": "dear diary", "prompt": "mine", "completions": ["a", "b"]}])
    (home / "keys.txt").write_text("secret keys")
    for make in (lambda: checkpoints(home, world), lambda: labels(home), lambda: rows(home), lambda: cleaned(home)):
        make()
    return home


# ------------------------------------------------------------------------------------------- and how they are opened


def openings(home: Path, world: Path, out: Path) -> dict[str, list[list[str]]]:
    """Every command and recipe, with the arguments under which it opens something that was sent."""
    got = home / "got"
    new = ["--output_dir", str(out / "new")]

    def on(model: str, data: str, *more: str) -> list[list[str]]:
        fine = ["--dataset_name", str(world / data), *more, *new]
        foreign = ["--model_name_or_path", str(world / "base"), *more, *new, "--dataset_name"]
        return [*([f"--{model}", str(got / kind), *fine] for kind in MODELS),
                *([*foreign, str(got / name)] for name in ("card", "saved", "link", "deep.jsonl", "digits.jsonl"))]  # fmt: skip

    scores = ["--reward_model_path", str(world / "rm")]
    stores = [str(got / name) for name in ("trigger", "ours", "fine")]
    return {
        "fetch": [["--gguf", str(got / name), *new] for name in ("deep.jsonl", "digits.jsonl")],
        "chat": [[str(got / kind), "--max_new_tokens", "2"] for kind in (*MODELS, "told")],
        "doctor": [[], ["--json"]],
        "slurm": [[str(got / name), "--nodes", "2", "--script", str(out / "job.sbatch")] for name in ("code/own.py", "deep.jsonl")],
        "runs": [[str(got)], [str(got), "--json"]],
        "watch": [[str(got)], [str(got / "told"), str(got / "export")]],
        "plan": [[str(ROOT / "recipes/sft.py"), "--model_name_or_path", str(got / kind), "--dataset_name",
                  str(world / "chats"), *TINY] for kind in (*MODELS, "told")]
        + [[str(ROOT / "recipes/sft.py"), "--model_name_or_path", str(world / "base"), "--dataset_name", str(got / name)]
           for name in ("card", "saved", "link", "deep.jsonl")],
        "label": [[store] for store in stores] + [[str(got / name), *new] for name in ("card", "saved", "link", "export")],
        "judge": [[stores[1], "--judge_model_path", str(got / "code")], [stores[0], *scores], [stores[1], *scores], [stores[2], *scores]],
        "revise": [[str(got / "export"), "--model_name_or_path", str(got / "code"), *new, "--constitution",
                    str(ROOT / "recipes/constitution.yaml")]],
        "agreement": [[one] for one in (*stores, str(got / "export"), str(got / "link"))],
        "export": [[one, *new] for one in (*stores, str(got / "export"), str(got / "card"))],
        "import": [[str(got / name), *new] for name in ("deep.jsonl", "digits.jsonl", "pairs.jsonl", "long.jsonl")],
        "merge": [[one, "--output", str(out / "merged.sqlite")] for one in stores],
        "merge-adapter": [[str(got / kind), *new] for kind in (*MODELS, "told")],
        "gguf": [[str(got / kind), "--output", str(out / "new/x.gguf")] for kind in (*MODELS, "told")],
        "review": [[str(got / "clean")], [str(got / "export")]],
        "clean": [["--input", str(got / "clean/corpus"), *new, "--workers", "1"],
                  ["--input", str(got / "export"), *new, "--workers", "1", "--classifier_path", str(got / "code"),
                   "--classifier_label", "x"]],
        "tokenizer": [["--dataset_name", str(got / name), *new] for name in ("card", "saved", "link", "pictures")],
        "pretrain": on("model_name_or_path", "texts", *TINY),
        "sft": on("model_name_or_path", "chats", *TINY),
        "reward": on("model_name_or_path", "pairs", *TINY),
        "dpo": on("model_name_or_path", "pairs", *TINY),
        "ppo": on("model_name_or_path", "prompts", *scores, "--response_length", "6")
        + [["--model_name_or_path", str(world / "base"), "--reward_model_path", str(got / "code"), "--dataset_name",
            str(world / "prompts"), *new]],
        "rloo": on("model_name_or_path", "prompts", *scores, "--max_completion_length", "6"),
        "sample": on("model_name_or_path", "prompts", "--max_new_tokens", "4"),
        "leaks": [["--sets", f"train={got / name}", f"test={world / 'prompts'}:test", *new]
                  for name in ("card", "saved", "link", "deep.jsonl")],
        "eval": [["--models", f"a={got / kind}", "--dataset_name", str(world / "prompts"), *new] for kind in MODELS]
        + [["--models", f"a={world / 'base'}", "--dataset_name", str(got / "link"), *new],
           ["--models", f"a={world / 'base'}", f"b={got / 'told'}", "--dataset_name", str(world / "prompts"), *new,
            "--max_new_tokens", "4"]],
        "compare": [["--model_name_or_path", str(got / "code"), *scores, "--take", str(got / "linked"), "--dataset_name",
                     str(world / "prompts"), *new]],
        "pipeline": [["--config", str(out / "chain.yaml"), "--output_dir", str(got / "chain")]],
    }  # fmt: skip


def test_every_command_that_reads_a_folder_opens_what_strangers_send(tmp_path):
    """A new one must say here what it opens."""
    named = openings(tmp_path, tmp_path, tmp_path)
    assert set(named) == {*cli.COMMANDS, *(path.stem for path in RECIPES)}
    assert all(named.values())


@pytest.fixture
def alone(monkeypatch, tmp_path, sent):
    """No way out, nothing at the keyboard but consent, a cache of its own, and no page that waits for people."""
    tried: list[Any] = []

    def refuse(*told: Any, **_: Any) -> None:
        tried.append(told)
        raise OSError("the network is unreachable")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 99))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(bounds, "SECONDS", 0.5)
    monkeypatch.setattr(imports, "LINE", 1 << 20)
    monkeypatch.setattr(imports, "WHOLE", 1 << 20)
    (sent / "got/long.jsonl").write_text('{"prompt": "' + "x" * (3 << 20))
    write = ["name: a", f"run: {ROOT / 'recipes/leaks.py'}", f"config: {tmp_path / 'stage.yaml'}"]
    (tmp_path / "chain.yaml").write_text("stages:\n- " + "\n  ".join(write) + "\n")
    (tmp_path / "stage.yaml").write_text(f"output_dir: {sent / 'got/chain/a'}\ndatasets: []\n")
    import align.clean.review.server
    import align.follow.server
    import align.label.program

    def served(app: Any, args: Any, say: Any) -> None:
        say("http://127.0.0.1:1/#token=x")

    for program in (align.clean.review.server, align.follow.server, align.label.program):
        monkeypatch.setattr(program, "serve", served)
    return SimpleNamespace(tried=tried)


def state(folder: Path) -> dict[str, Any]:
    """What every file and link of a folder is."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in found
    }


def start(name: str, told: list[str], monkeypatch) -> int:
    """Run a command or a recipe to its end; its exit status."""
    program = ROOT / f"recipes/{name}.py"
    with monkeypatch.context() as changed:
        changed.chdir(ROOT)
        try:
            if name in cli.COMMANDS:
                changed.setattr(sys, "argv", ["align", name, *told])
                cli.main()
            else:
                changed.setattr(sys, "argv", [str(program), *told])
                changed.syspath_prepend(str(program.parent))
                runpy.run_path(str(program), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


# What a command may write beside what it was given: its own notes, under their own names
BESIDE = {
    "label": r"got/(ours|fine)/(labels\.sqlite(\.holds(\.part)?)?|guidelines\.md|judges/.*)",
    "judge": r"got/(ours|fine)/(labels\.sqlite(\.holds(\.part)?)?|guidelines\.md|judges/.*)",
    "pipeline": r"got/chain/(pipeline\.json|a/.*)",
}
NAMES = [
    (name, number) for name, told in openings(Path("h"), Path("w"), Path("o")).items() for number in range(len(told))
]


@pytest.mark.parametrize(("name", "number"), NAMES, ids=lambda one: str(one))
def test_nothing_is_written_run_sent_or_printed_that_a_stranger_asks_for(
    name, number, sent, world, alone, tmp_path, monkeypatch, capfd
):
    told = openings(sent, world, tmp_path)[name][number]
    before, theirs = state(sent), state(world)
    status = start(name, told, monkeypatch)
    out, err = capfd.readouterr()
    after = state(sent)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert not {path for path in changed if not re.fullmatch(BESIDE.get(name, "nothing"), path)}, (told, out, err)
    assert state(world) == theirs and not (sent / "ran").exists()
    assert not alone.tried, alone.tried
    assert not SHOWN.search(out + err), ascii(out + err)
    assert status in (0, 1) and "Traceback" not in err, err
    if status:
        assert err.strip().rpartition("\n\nerror: ")[2] or "error: " in err, err
    pages = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".md", ".html")]
    assert not any(SHOWN.search(page) or "![](http" in page for page in pages)
    secret = [path for path in tmp_path.rglob("*") if path.is_file() and b"secret keys" in path.read_bytes()]
    assert not secret and "secret keys" not in out + err
