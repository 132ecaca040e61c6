"""The record of a run survives everything, and nobody's work is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.run import lineage, record
from align.run.errors import RunError


def status(folder):
    return json.loads((folder / "run.json").read_text())["status"]


def test_a_run_tells_how_it_ended(tmp_path):
    with record.start("sft", str(tmp_path / "a"), {"seed": 3}) as run:
        assert status(tmp_path / "a") == "running"
        run.metrics(step=1, loss=2.0)
        run.finish("complete", metrics={"loss": 1.0})
    saved = lineage.read_record(tmp_path / "a")
    assert saved["status"] == "complete" and saved["seed"] == 3 and saved["peak_memory_bytes"] > 0
    assert {"command", "git", "versions", "hardware", "wall_seconds", "hash"} <= set(saved)
    assert json.loads((tmp_path / "a/metrics.jsonl").read_text())["loss"] == 2.0


@pytest.mark.parametrize(("error", "expected"), [(ValueError("boom"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_crashes_are_recorded(tmp_path, error, expected):
    with pytest.raises(type(error)), record.start("sft", str(tmp_path), {}):
        raise error
    assert status(tmp_path) == expected


def make(folder, state):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"status": state, "command": "recipes/sft.py"}))
    (folder / "model.safetensors").write_text("precious")


def test_a_finished_run_is_not_overwritten_unasked(tmp_path):
    make(tmp_path / "a", "complete")
    with (
        pytest.raises(RunError, match="holds a finished run.*--overwrite"),
        record.start("sft", str(tmp_path / "a"), {}),
    ):
        pass
    assert (tmp_path / "a/model.safetensors").read_text() == "precious" and status(tmp_path / "a") == "complete"
    with record.start("sft", str(tmp_path / "a"), {}, overwrite=True):
        assert not (tmp_path / "a/model.safetensors").exists()


def test_an_interrupted_run_asks_what_to_do(tmp_path):
    make(tmp_path / "a", "running")
    (tmp_path / "a/checkpoint-5").mkdir()
    with pytest.raises(RunError, match="--resume_from_checkpoint last"), record.start("sft", str(tmp_path / "a"), {}):
        pass


def test_work_without_checkpoints_is_kept_as_well(tmp_path):
    """What a cut-off run said that it can go on with, the resumed run still has where it is cut off at once."""
    folder = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt), record.start("sample", str(folder), {}) as run:
        run.note(resumable=True)
        raise KeyboardInterrupt
    for _ in range(2):
        with pytest.raises(RunError, match="interrupted run.*--resume_from_checkpoint last"):
            record.start("sample", str(folder), {}).__enter__()
        with pytest.raises(KeyboardInterrupt), record.start("sample", str(folder), {}, resume=True):
            raise KeyboardInterrupt
    with record.start("sample", str(folder), {}, overwrite=True):
        assert lineage.read_record(folder)["resumable"] is False


def test_an_interrupted_run_of_an_earlier_version_is_kept(tmp_path):
    """Its record does not say whether it can go on."""
    make(tmp_path / "a", "interrupted")
    with pytest.raises(RunError, match="holds an interrupted run"):
        record.start("sft", str(tmp_path / "a"), {}).__enter__()
    with pytest.raises(ValueError), record.start("sft", str(tmp_path / "a"), {}, resume=True):
        raise ValueError("other settings")
    with pytest.raises(RunError, match="holds an interrupted run"):
        record.start("sft", str(tmp_path / "a"), {}).__enter__()
    assert (tmp_path / "a/model.safetensors").read_text() == "precious"


def test_strange_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="files that no run wrote"), record.start("x", str(tmp_path), {}, overwrite=True):
        pass
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(RunError, match="is a file"), record.start("x", str(tmp_path / "thesis.txt"), {}):
        pass


def test_an_output_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="cannot be written"), record.start("x", "/proc/nothing/here", {}):
        pass


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_no_parent(tmp_path, state):
    make(tmp_path / "a", state)
    assert f"did not finish (status: {state})" in lineage.parent_problem(str(tmp_path / "a"), allow_hub=False)


def test_lineage_keeps_the_parents_hash(tmp_path):
    with record.start("sft", str(tmp_path / "a"), {}) as run:
        (tmp_path / "a/model.safetensors").write_bytes(b"weights")
        run.finish("complete")
    before = lineage.parents({"model": str(tmp_path / "a"), "data": None})
    assert set(before) == {"model"} and len(before["model"]["hash"]) == 64


def test_overwrite_empties_a_folder_behind_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for _ in range(2):
        with record.start("sample", str(tmp_path / "run"), {}, overwrite=True) as run:
            assert not (tmp_path / "disk/made").exists()
            (tmp_path / "disk/made/in").mkdir(parents=True)
            (tmp_path / "disk/link").symlink_to(tmp_path / "elsewhere")
            run.finish("complete")


@pytest.mark.parametrize("name", ["run", "run#2", "100%25", "what?"])
def test_overwrite_does_not_delete_what_people_have_ranked(tmp_path, name):
    from align.label.store.store import Store

    folder = tmp_path / name
    with record.start("sample", str(folder), {}) as run:
        run.finish("complete")
    for name, kind in (("robot", "simulated"), ("ada", "person")):
        with Store(folder / "label/labels.sqlite") as store:
            store.add([{"prompt": "p", "completions": ["a", "b"]}], shared_by=2)
            task = store.next(store.annotator(name, kind))
            store.answer(task.id, store.annotator(name, kind), ranking=[1, 2])
        if kind == "person":
            with pytest.raises(RunError, match="labels.sqlite holds people's rankings"):
                record.start("sample", str(folder), {}, overwrite=True).__enter__()
            assert (folder / "label/labels.sqlite").is_file()
            told = json.loads((folder / "run.json").read_text()) | {"status": "failed"}
            (folder / "run.json").write_text(json.dumps(told))  # one that can be started again without a flag
            with pytest.raises(RunError, match="labels.sqlite holds people's rankings"):
                record.start("sample", str(folder), {}).__enter__()
            assert (folder / "label/labels.sqlite").is_file()
        else:  # the chain's own, made again by the same stage
            with record.start("sample", str(folder), {}, overwrite=True) as run:
                assert not (folder / "label").exists()
                run.finish("complete")


def lay(folder, **files):
    """A folder with files by name (`__` for a slash, `_` before the suffix for a dot); its path as text."""
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_json", ".json").replace("_bin", ".bin").replace(
            "_st", ".safetensors"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(folder)


def hashes(**paths):
    return {role: parent["hash"] for role, parent in lineage.parents(paths).items()}


def test_what_lies_in_a_run_goes_by_its_own_hash(tmp_path):
    """A checkpoint, the best policy and each file of rows are other things than the run that holds them."""
    run = lay(
        tmp_path / "ppo", run_json=json.dumps({"recipe": "ppo", "status": "complete", "hash": "of the run"}),
        config_json="{}", model_st="last",
        **{"checkpoint-1__model_st": "first", "checkpoint-1__config_json": "{}"},
        best__model_st="best", best__config_json="{}", data__easy_jsonl="1", data__hard_jsonl="2",
    )  # fmt: skip
    names = ["", "checkpoint-1", "best", "data", "data/easy.jsonl", "data/hard.jsonl"]
    found = list(hashes(**{name or "run": f"{run}/{name}" for name in names}).values())
    assert found[0] == "of the run" and len(set(found)) == len(names)
    assert all(parent["recipe"] == "ppo" for parent in lineage.parents({"a": f"{run}/best"}).values())


def test_every_file_of_a_data_set_is_in_its_hash(tmp_path):
    """Also one beside `t*.jsonl`, in a folder below, or of another kind; not what a run notes about itself."""
    folder = tmp_path / "rows"
    lay(folder, t1_jsonl="a", b_jsonl="b", deep__c_jsonl="c")
    before = lineage.hash_files(folder)
    lay(folder, run_json="{}", metrics_jsonl="{}")
    assert lineage.hash_files(folder) == before
    for name in ("b.jsonl", "deep/c.jsonl", "d.tsv"):
        (folder / name).write_text("changed")
        after = lineage.hash_files(folder)
        assert after != before
        before = after


def test_a_model_is_hashed_by_all_that_is_read_of_it(tmp_path):
    """Two of which only the `.bin` weights differ are two; a template, too, changes what is learnt and sampled."""
    one, two = (Path(lay(tmp_path / name, config_json="{}", pytorch_model_bin=name)) for name in "ab")
    assert lineage.identity(str(one)) != lineage.identity(str(two))
    assert lineage.hash_files(one) != lineage.hash_files(two)
    (two / "pytorch_model.bin").write_text("a")
    assert lineage.identity(str(one)) == lineage.identity(str(two))
    assert lineage.hash_files(one) == lineage.hash_files(two)
    before = lineage.hash_files(one)
    (one / "training_args.bin").write_text("when and where")
    lay(one, **{"checkpoint-1__model_st": "older"})
    assert lineage.hash_files(one) == before and lineage.identity(str(one)) == lineage.identity(str(two))
    (one / "chat_template.jinja").write_text("other")
    assert lineage.hash_files(one) != before


def test_where_a_name_ends_and_contents_begin_is_in_the_hash(tmp_path):
    """{a: bc} is not {ab: c}, and one file with another's name and contents in it is not two."""
    folders = [Path(lay(tmp_path / str(n), **files)) for n, files in enumerate(
        [{"a": "bc"}, {"ab": "c"}, {"a": "1", "b": "2"}, {"a": "1b2"}])]  # fmt: skip
    assert len({lineage.hash_files(folder) for folder in folders}) == len(folders)


@pytest.mark.parametrize("stray", ["config.json", "tokenizer.json"])
def test_rows_beside_a_stray_file_of_a_model_are_in_the_hash(tmp_path, stray):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text("a")
    (folder / "deep").mkdir()
    (folder / "deep/b.csv").write_text("b")
    (folder / stray).write_text("{}")
    found = {lineage.hash_files(folder)}
    for name in ("train.jsonl", "deep/b.csv", stray):
        (folder / name).write_text("changed")
        found.add(lineage.hash_files(folder))
    assert len(found) == 4
    (folder / "model.safetensors").write_text("w")  # of a model, what lies beside is no part
    before = lineage.hash_files(folder)
    (folder / "train.jsonl").write_text("again")
    assert lineage.hash_files(folder) == before


def test_a_function_goes_by_its_file_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "grading/deep").mkdir(parents=True)
    for name in ("grade.py", "grading/__init__.py", "grading/deep/__init__.py", "grading/deep/rules.py"):
        (tmp_path / name).write_text(f"raise ValueError('{name}')")
    asked = {
        "reward_func_0": "grade.py:good", "reward_func_1": "grade:good", "a": "grading.deep.rules:good",
        "b": "grading:good", "c": "nowhere.at.all:good", "d": "nowhere.py:good", 
    }  # fmt: skip
    found = hashes(**asked)
    assert found["reward_func_0"] == found["reward_func_1"] == lineage.identity(str(tmp_path / "grade.py"))
    assert found["a"] == lineage.identity(str(tmp_path / "grading/deep/rules.py"))
    assert found["b"] == lineage.identity(str(tmp_path / "grading/__init__.py")) != found["a"]
    assert found["c"] is None and found["d"] is None
    (tmp_path / "grade.py").write_text("good = lambda **_: [0.0]")
    assert hashes(**asked)["reward_func_0"] != found["reward_func_0"]


def test_what_a_function_s_file_imports_of_ours_is_in_its_hash(tmp_path, monkeypatch):
    """Beside it, on the path, in a package, or imported by what it imports; what is installed is in `versions`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    files = {
        "grade.py": "import json, torch, helps, tools.rules as r\nfrom align.nano import grade\ndef good(): pass",
        "helps.py": "from tools import words",
        "more/far.py": "x = 1",
        "tools/__init__.py": "",
        "tools/rules.py": "from . import deep\nfrom .deep import y\nimport far, helps",
        "tools/words.py": "",
        "tools/deep.py": "y = 1",
        "aside.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {hashes(reward_func="grade.py:good")["reward_func"]}
    for name in sorted(files.keys() - {"aside.py"}):
        (tmp_path / name).write_text(files[name] + "\n# changed")
        found.add(hashes(reward_func="grade.py:good")["reward_func"])
    assert len(found) == len(files)
    (tmp_path / "aside.py").write_text("# changed")
    assert hashes(reward_func="grade.py:good")["reward_func"] in found


def test_a_model_on_the_hub_goes_by_the_commit_that_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache, main, tag = tmp_path / "models--owner--base", "a" * 40, "b" * 40
    for folder in (cache / "refs", cache / "snapshots" / main, cache / "snapshots" / tag):
        folder.mkdir(parents=True)
    (cache / "refs/main").write_text(main)
    (cache / "refs/v2").write_text(tag)
    roles = {"model": "owner/base", "reference": "owner/base/", "reward_model": "owner/base", "data": "owner/rows"}
    assert hashes(**roles) == {"model": main, "reference": main, "reward_model": main, "data": None}
    for revision in ("v2", tag):
        found = {role: entry["hash"] for role, entry in lineage.parents(roles, revision).items()}
        assert found == {"model": tag, "reference": tag, "reward_model": main, "data": None}
    assert lineage.parents(roles, "gone")["model"]["hash"] is None


def test_spellings_of_one_path_are_one_parent(tmp_path, monkeypatch):
    run = lay(tmp_path / "runs/sft", run_json=json.dumps({"status": "complete", "hash": "h"}), model_st="w")
    lay(tmp_path / "runs/other", model_st="w")
    monkeypatch.chdir(tmp_path)
    spelled = [run, run + "/", "runs/sft", "runs/sft/", "./runs/sft", "runs/other/../sft"]
    assert {found for path in spelled for found in hashes(model=path).values()} == {"h"}
    assert all(lineage.same(a, b) for a in spelled for b in spelled)
    assert not lineage.same(run, "runs/other") and not lineage.same(run, None)
    assert lineage.same("owner/model", "owner/model/") and lineage.identity("owner/model/") == "owner/model"
    (tmp_path / "grade.py").write_text("")
    assert lineage.same_function("grade.py:good", f"{tmp_path}/grade.py:good")
    assert not lineage.same_function("grade.py:good", "grade.py:other") and not lineage.same_function(None, None)


def test_the_training_reward_is_no_gold_grader_under_another_name(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from align.compare.verdict import gold_is_trained_on

    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "rm", config_json="{}", model_st="w")
    lay(tmp_path / "copy", config_json="{}", model_st="w")
    lay(tmp_path / "other", config_json="{}", model_st="x")
    (tmp_path / "grade.py").write_text("")

    def asked(gold, func=None, reward="rm", **config):
        args = SimpleNamespace(gold_model_path=gold, gold_func=func, reward_model_path=reward, second_func=None)
        return gold_is_trained_on(args, [{"config": config}])

    assert asked("rm") and asked("rm/") and asked(str(tmp_path / "rm")) and asked("copy")
    assert not asked("other") and not asked(None) and asked("other", reward_model_path="other/")
    assert asked(None, "./grade.py:good", reward_funcs=["grade.py:good"])
    assert not asked(None, "grade.py:good", reward_funcs=["grade.py:other"])
