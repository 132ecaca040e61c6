"""What others send, piece by piece: planted links, foreign databases, control characters, templates, checkpoints' code."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, WORDS, make_checkpoint, make_tokenizer
from test_house import MODULES, short, tree_of
from trl import SFTConfig

from align.clean.review.queue import Queue
from align.data import chat, folders
from align.data.chat import bounds
from align.evaluate import held_out
from align.judge.cache import Cache
from align.label.exchange import imports
from align.label.store import source
from align.label.store.store import Store
from align.models import adapters, checkpoints
from align.run import gates, launch, lineage, record
from align.run.errors import ConfigError, DataError, RunError
from align.run.parse import parse
from align.run.received import files, outside, permission, screen

CONVERSATION = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_nothing_is_written_through_a_planted_name(tmp_path, plant):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for name in ("gate.json", "gate.json.part", "run.json", "run.json.part", "metrics.jsonl", "x.holds"):
        getattr(tmp_path / name, plant)(kept)
    gates.keep(tmp_path, [gates.at_least("a", 1.0, 0.0, "b")])
    record.write_json(tmp_path / "run.json", {})
    with pytest.raises(RunError, match="is a link|second name"):
        files.appended(tmp_path / "metrics.jsonl")
    assert not files.made(tmp_path / "x.holds", "new")
    assert kept.read_text() == "mine" and not (tmp_path / "gate.json").is_symlink()


def test_a_pipe_is_no_file_and_a_link_to_nothing_makes_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="it is no file"):
        files.text(tmp_path / "pipe")
    (tmp_path / "away").symlink_to(tmp_path / "nothing")
    for write in (lambda path: files.appended(path), lambda path: files.text(path)):
        with pytest.raises(RunError, match="is a link"):
            write(tmp_path / "away")
    assert not files.made(tmp_path / "away", "x") and not (tmp_path / "nothing").exists()


def test_an_output_folder_that_leads_elsewhere_is_refused(tmp_path):
    """What a trainer writes goes by names that we do not choose."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint-1").symlink_to(tmp_path)
    (run / "run.json").write_text(json.dumps({"recipe": "a", "status": "failed", "resumable": True}))
    with pytest.raises(RunError, match="checkpoint-1 leads out of it"), record.start("a", str(run), {}, resume=True):
        pass
    (run / "checkpoint-1").unlink()
    (run / "inside").symlink_to(run / "run.json")
    with record.start("a", str(run), {}, resume=True, compared=False):
        pass


@pytest.mark.parametrize(
    "content", ["[1]", "[" * 200_000, '{"config": []}', '{"parents": {"a": 1}}', '{"status": 5}', "{"]
)
def test_a_record_that_is_none_is_unreadable(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert lineage.read_record(tmp_path) == {"status": "unreadable"}


def test_the_command_of_a_record_is_not_proposed(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"status": "failed", "command": "rm -rf ~"}))
    assert "rm -rf" not in str(lineage.parent_problem(str(tmp_path), allow_hub=False))


def test_a_gate_that_is_none_ends_in_a_sentence(tmp_path):
    for content in ("[]", "{}", '{"passed": true, "checks": [{"name": 1}]}', "[" * 200_000):
        (tmp_path / "gate.json").write_text(content)
        with pytest.raises(RunError, match="is no gate of a run"):
            gates.read(tmp_path)


# ------------------------------------------------------------------------------------------------------------ labels


def stored(path: Path) -> Path:
    with Store(path) as store:
        store.add([{"prompt": "p", "completions": ["a", "b"]}])
        ada = store.annotator("Ada")
        store.answer(store.next(ada).id, ada, ranking=[1, 2])
    return path


FOREIGN = {
    "trigger": "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
    "view": "CREATE VIEW v AS SELECT * FROM answers",
    "table": "CREATE TABLE more (a)",
    "index": "CREATE INDEX i ON items (length(split))",
    "column": "ALTER TABLE answers ADD COLUMN more GENERATED ALWAYS AS (verdict || 'x')",
    "lacks": "DROP INDEX tasks_open",
    "log": "PRAGMA journal_mode = WAL",
    "version": "PRAGMA user_version = 9",
}


@pytest.mark.parametrize("sql", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_labels_file_holds_our_tables_and_nothing_else(tmp_path, sql, read_only):
    file = stored(tmp_path / "labels.sqlite")
    with sqlite3.connect(file) as db:
        db.execute(sql)
    db.close()
    before = file.read_bytes()
    with pytest.raises(RunError, match="is not ours|write-ahead log|version 9"):
        Store(file, create=False, read_only=read_only)
    assert file.read_bytes() == before


def test_what_lies_beside_a_labels_file_is_looked_at_first(tmp_path):
    """A journal is played back into the file, and may name another file to delete."""
    file = stored(tmp_path / "labels.sqlite")
    journal = tmp_path / "labels.sqlite-journal"
    journal.write_bytes(bytes(512) + bytes.fromhex("d9d505f920a163d7"))
    with pytest.raises(RunError, match="speaks of other files"):
        Store(file)
    journal.unlink()
    journal.symlink_to(tmp_path / "away")
    with pytest.raises(RunError, match="journal is a link"):
        Store(file)
    journal.unlink()
    (tmp_path / "other.sqlite").symlink_to(file)
    with pytest.raises(RunError, match="other.sqlite is a link"):
        Store(tmp_path / "other.sqlite")


def test_values_that_align_does_not_write_end_in_a_sentence(tmp_path):
    for table, column, value in (
        ("texts", "completions", "[" * 5000), ("texts", "prompt", "no json"), ("tasks", "shown", "[7, 8]"),
        ("answers", "ranking", '{"a": 1}'), ("texts", "meta", "[]"),
    ):  # fmt: skip
        file = stored(tmp_path / f"{table}-{column}.sqlite")
        with sqlite3.connect(file) as db:
            db.execute(f"UPDATE {table} SET {column} = ?", (value,))
        db.close()
        with pytest.raises((RunError, DataError)):
            source.read(str(file))


def test_a_judges_cache_holds_replies_and_nothing_else(tmp_path):
    with sqlite3.connect(tmp_path / "a.sqlite") as db:
        db.execute("CREATE TABLE replies (request TEXT PRIMARY KEY, model, verdict, reply, usage, time)")
        db.execute("CREATE TRIGGER t AFTER INSERT ON replies BEGIN DELETE FROM replies; END")
    db.close()
    (tmp_path / "b.sqlite").symlink_to(tmp_path / "a.sqlite")
    for name, why in (("a", "holds 't', which is not ours"), ("b", "is a link")):
        with pytest.raises(RunError, match=why):
            Cache(tmp_path / f"{name}.sqlite")


def test_what_only_reads_changes_nothing(tmp_path):
    file = stored(tmp_path / "labels.sqlite")
    (tmp_path / "labels.sqlite.holds").unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(source.read(str(file))) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_everything_that_loads_says_whether_code_may_run():
    """Left out, transformers asks at the keyboard. `TypeError` of a loader that takes no such argument is fine."""
    silent = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            loads = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("from_pretrained", "from_config")
            if not loads or path.name == "pretrain.py":  # a model of the user's own settings
                continue
            whose = ast.unparse(node.func)
            if whose.startswith(("Auto", "auto_class")) and "permission.code" not in ast.unparse(node):
                silent.append(f"{short(path)}: {whose}")
    assert not silent


def test_a_permission_is_the_commands_and_not_for_what_an_adapter_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(permission, "_withheld", set())
    monkeypatch.setattr(permission, "_given", {"trust_remote_code": False})
    assert permission.code("a/b") == {"trust_remote_code": False}
    permission.give(True)
    assert "--trust_remote_code" in capsys.readouterr().out and permission.code("a/b") == {"trust_remote_code": True}
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    assert adapters.base_of(tmp_path) == ("evil/base", "main")
    assert "evil/base, which is read from the hub" in capsys.readouterr().out
    assert permission.code("evil/base") == {"trust_remote_code": False}
    permission.give(False)
    assert permission.code("a/b") == {"trust_remote_code": False}


ENDLESS = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "product": "{{ 'a' * 100000000000 }}",
    "doubled": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "power": "{% generation %}{{ 9**(9**9) }}{% endgeneration %}",
    "macro": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_an_end_is_stopped(monkeypatch, template):
    monkeypatch.setattr(bounds, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="the chat template"):
        chat.set_up_tokenizer(make_tokenizer(), template + CONVERSATION)
    assert time.monotonic() - began < 20


def test_values_that_take_for_ever_to_compare_end_the_process():
    """No alarm reaches Python within one comparison, nor does Ctrl-C; the system ends what takes so long."""
    grow = "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}"
    template = "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}" + grow + "{% endfor %}{{ n.x == n.y }}"
    code = f"from align.data.chat import bounds, templates; bounds.KILLED = 1; import jinja2\nwith bounds.bounded({template!r}): jinja2.Template({template!r}).render()"  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert ended.returncode == -signal.SIGPROF


def test_a_template_that_begins_well_is_stopped_as_well(monkeypatch):
    """It renders what it is asked at first, and goes on for ever where a row has a certain word."""
    monkeypatch.setattr(bounds, "SECONDS", 0.5)
    tokenizer = make_tokenizer()
    chat.set_up_tokenizer(
        tokenizer, "{% if 'cat' in messages[0]['content'] %}" + ENDLESS["loops"] + "{% endif %}" + CONVERSATION
    )
    ask = [{"role": "user", "content": WORDS[0]}]
    for _ in range(bounds.FIRST + 1):
        chat.encode_prompt(tokenizer, ask)
    with pytest.raises(ConfigError, match="was stopped"):
        chat.encode_prompt(tokenizer, [{"role": "user", "content": "cat"}])


# ---------------------------------------------------------------------------------------------------------------- text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "kept"), [(io.StringIO, ""), (Terminal, "\x1b[1m")])
def test_no_control_character_reaches_a_screen_or_a_log(monkeypatch, stream, kept):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream())
    screen.guard()
    screen.guard()
    print("a\x1b]0;t\x07b\x9b31m\u202ec\x1b[8md\x1b[1me\tf\ng\rh")
    sys.stderr.write("\r 50%|█████")  # a progress bar's line, written anew
    said = sys.stdout.getvalue()
    assert said == f"a\\u001b]0;t\\u0007b\\u009b31m\\u202ec\\u001b[8md{kept or chr(92) + 'u001b[1m'}e\tf\ng\\u000dh\n"
    assert sys.stderr.getvalue() == "\r 50%|█████"


def test_an_import_is_read_a_line_at_a_time(tmp_path, monkeypatch):
    """600 MiB without a line's end took 3 GB; here a sixth of a gigabyte in a file with holes."""
    file = tmp_path / "a.jsonl"
    with file.open("wb") as stream:
        stream.write(b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
        stream.truncate(600 << 20)
    taken: list[int] = []
    read = imports._value
    monkeypatch.setattr(imports, "_value", lambda text: taken.append(len(text)) or read(text))
    with pytest.raises(DataError, match="line 2: over 64 MiB long"):
        imports.read(str(file))
    assert max(taken) < 100  # what is too long is not even decoded


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"a": ' * 200_000, "1" * 5000, "[1, 2", '{"a": "\\ud83d"}\n{', "NaN", ""]
)
def test_json_that_is_none_of_an_export_ends_in_a_sentence(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError):
        imports.convert(imports.read(str(tmp_path / "a.json")), "a.json", imports.ImportConfig())


def test_a_saved_state_and_a_card_name_files_of_their_folder(tmp_path):
    (tmp_path / "mine.arrow").write_text("mine")
    folder = tmp_path / "got"
    folder.mkdir()
    for state in ({"_data_files": [{"filename": "../mine.arrow"}]}, {"_data_files": [{"filename": 1}]}, {}, []):
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(DataError):
            outside.check_saved(folder)
    (folder / "dataset_dict.json").write_text('{"splits": [".."]}')
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "mine.arrow"}]}')
    with pytest.raises(DataError, match="leads out of"):
        outside.check_saved(folder)


def test_what_a_record_was_trained_on_is_read_and_never_asked_for(tmp_path, monkeypatch):
    """And settings of another kind than they should be are told, not used."""
    run = {"recipe": "sft", "status": "complete", "config": {"dataset_name": "evil/rows"}, "parents": {}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (sets, unknown) = held_out.trained_on([str(tmp_path)], {})
    assert [one.told for one in sets] == [False] and not unknown
    for wrong in ({"dataset_name": 5}, {"datasets": ["x"]}, {"columns": "a"}, {"max_train_rows": []}):
        (tmp_path / "run.json").write_text(json.dumps(run | {"config": wrong}))
        (sets, unknown) = held_out.trained_on([str(tmp_path)], {})
        assert not sets and "record that cannot be read" in unknown[0], wrong


BOMBS = {
    "parts": "[{split: x, path: *a}, {split: x, path: *a}]", "names": "[*a, *a]", "merges": "{<<: [*a, *a]}",
}  # fmt: skip


@pytest.mark.parametrize("line", BOMBS.values(), ids=BOMBS)
def test_a_card_whose_aliases_multiply_ends_in_a_sentence(tmp_path, line):
    """Sixty lines that have more parts than memory has bytes; a card that says one thing twice by an alias is read."""
    first = "a0: &a0 " + ("{x: y}" if "<<" in line else "[{split: train, path: a.jsonl}]")
    lines = [f"a{n}: &a{n} {line.replace('*a', f'*a{n - 1}')}" for n in range(1, 60)]
    card = tmp_path / "README.md"
    card.write_text("\n".join(["---", first, *lines, "configs: [{config_name: *a59, data_files: *a59}]", "---", ""]))
    with pytest.raises(DataError, match="aliases|merges"):
        folders.card(tmp_path, None)
    card.write_text("---\nn: &n a.jsonl\nconfigs: [{config_name: a, data_files: *n}]\n---\n")
    (tmp_path / "a.jsonl").write_text("{}")
    assert folders.card(tmp_path, None) == {"train": [tmp_path / "a.jsonl"]}


@pytest.mark.parametrize("where", ["additional_chat_templates", "additional_chat_templates/tool.jinja", "a.tiktoken"])
def test_no_text_of_a_checkpoint_is_a_link_out_of_it(tmp_path, where):
    """Templates beside the first one are read, and written beside a child."""
    outside_of_it = tmp_path / "mine"
    outside_of_it.mkdir()
    link = tmp_path / "got" / where
    link.parent.mkdir(parents=True)
    link.symlink_to(outside_of_it)
    with pytest.raises(DataError, match="leads out of"):
        outside.check_texts(tmp_path / "got")


def test_an_adapters_base_is_looked_at_as_well(tmp_path):
    """It is a folder of whoever sent the adapter, and its tokenizer is the child's."""
    base = make_checkpoint(tmp_path / "got/base")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (tmp_path / "got/adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "got/adapter_model.safetensors").write_text("")
    (tmp_path / "mine").write_text("mine")
    (base / "vocab.txt").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="vocab.txt leads out of"):
        checkpoints.check(str(tmp_path / "got"))


def test_a_checkpoint_that_lies_about_itself_ends_in_a_sentence(tmp_path):
    """Attention that is code from the hub; ends of an answer that are no tokens; weights whose header is none."""
    folder = make_checkpoint(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "evil/attention"}))
    with pytest.raises(ConfigError, match="evil/attention.*is code"):
        checkpoints.check(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = checkpoints.load_tokenizer(str(folder))
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ConfigError, match="a cannot be loaded: .*header"):
        checkpoints.load_trained(str(folder), tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [*range(10_000)]}))
    with pytest.raises(ConfigError, match="ids of no token"):
        checkpoints.load_tokenizer(str(folder))


def test_a_key_of_the_hub_is_not_taken_from_a_command_that_is_recorded():
    """`run.json` holds the command, and is pushed with the model."""
    with pytest.raises(ConfigError, match="hub_token cannot be set: .*HF_TOKEN"):
        parse(SFTConfig, nano=None, argv=["--output_dir", "a", "--hub_token", "hf_secret"])


ODD = {"spans": [[0, 1e999]], "beside": {"id": "a", "source": "b", "text": ["x"]}, "text": 5, "id": ["a"]}


@pytest.mark.parametrize("key", ODD)
def test_a_row_of_a_review_queue_is_looked_at_before_it_is_shown(tmp_path, key):
    row = {"id": "a", "source": "b", "rule": "c", "why": "unsure", "text": "words"}
    (tmp_path / "review").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "clean", "status": "complete"}))
    (tmp_path / "review/queue.jsonl").write_text(json.dumps(row | {key: ODD[key]}) + "\n")
    with pytest.raises(RunError, match="line 1 is no row of a review queue"):
        Queue(str(tmp_path))


def test_a_saved_state_that_is_more_than_weights_ends_in_a_sentence(capsys):
    def resume():
        raise pickle.UnpicklingError("Weights only load failed")

    with pytest.raises(SystemExit):
        launch.run(resume)
    assert "none of it was run" in capsys.readouterr().err
