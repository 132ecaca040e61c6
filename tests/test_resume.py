"""A resumed run is the run that was interrupted, or it is refused before a model is loaded."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, conversations, make_checkpoint, stage_arguments, write_rows
from trl import RLOOConfig, SFTConfig

from align.ppo.arithmetic import plan
from align.ppo.config import PPOArguments
from align.run import lineage, record
from align.run.arguments import BatchArguments
from align.run.checks import resumed
from align.run.errors import RunError

CONFIG = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_steps": 10, "logging_steps": 1, "seed": 0,
          "per_device_train_batch_size": 4, "dataset_name": "a.jsonl", "resume_from_checkpoint": None,
          "dataloader_num_workers": 0, "dataloader_drop_last": False}  # fmt: skip


def interrupted(folder: Path, **facts) -> Path:
    """What a kill leaves of a run with a checkpoint."""
    with pytest.raises(KeyboardInterrupt), record.start("sft", str(folder), dict(CONFIG)) as run:
        run.note(**facts)
        (folder / "checkpoint-5").mkdir()
        raise KeyboardInterrupt
    return folder


def resume(folder: Path, note: dict | None = None, **changed) -> dict:
    config = CONFIG | {"resume_from_checkpoint": "last"} | changed
    with record.start("sft", str(folder), config, resume=True) as run:
        run.note(**(note or {}))
        run.finish("complete")
    return lineage.read_record(folder) or {}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("learning_rate", 5e-4, "learning_rate: 0.001 -> 0.0005"), ("seed", 1, "seed: 0 -> 1"),
     ("dataloader_drop_last", True, "dataloader_drop_last: false -> true"),
     ("max_steps", 20, "max_steps: 10 -> 20\n  (a longer run changes the learning rates")],
)  # fmt: skip
def test_another_setting_is_refused_and_the_record_stays(tmp_path, name, value, told):
    folder = interrupted(tmp_path / "run")
    before = (folder / "run.json").read_text()
    with pytest.raises(RunError) as caught:
        resume(folder, **{name: value})
    assert told in str(caught.value) and "--overwrite" in str(caught.value)
    assert (folder / "run.json").read_text() == before


def test_what_changes_nothing_that_is_learnt_may_differ(tmp_path):
    folder = interrupted(tmp_path / "run")
    found = resume(folder, logging_steps=7, per_device_train_batch_size=2, dataloader_num_workers=3, output_dir="x")
    (again,) = found["resumptions"]
    assert again["changed"] == {"per_device_train_batch_size": [4, 2]} and found["status"] == "complete"


def test_a_longer_run_goes_on_under_a_steady_schedule_and_both_are_recorded(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), record.start("sft", str(folder), CONFIG | {"lr_scheduler_type": "constant"}):
        (folder / "checkpoint-5").mkdir()
        raise KeyboardInterrupt
    found = resume(folder, lr_scheduler_type="constant", max_steps=20)
    assert found["config"]["max_steps"] == 20 and found["resumptions"][0]["changed"] == {"max_steps": [10, 20]}


def test_another_parent_or_other_rows_are_refused_and_the_record_stays(tmp_path):
    parents = {"model": {"path": "a", "hash": "1" * 64}, "data": {"path": "a.jsonl", "hash": "2" * 64}}
    rows = {"train": {"source": "a.jsonl (train)", "rows_out": 30, "fingerprint": "3" * 64}}
    folder = interrupted(tmp_path / "run", parents=parents, data=rows)
    before = (folder / "run.json").read_text()
    others = {"model": {"path": "a", "hash": "4" * 64}, "data": parents["data"]}
    for note, told in (
        ({"parents": others}, r"model: a \(11111111\) -> a \(44444444\)"),
        ({"data": {"train": rows["train"] | {"fingerprint": "5" * 64, "rows_out": 12}}}, "rows to train on: 30 rows"),
    ):
        with pytest.raises(RunError, match=told):
            resume(folder, note)
        assert (folder / "run.json").read_text() == before
    moved = {"model": {"path": "./a", "hash": "1" * 64}, "data": {"path": "b.jsonl", "hash": "2" * 64}}
    found = resume(folder, {"parents": moved, "data": rows}, dataset_name="b.jsonl")  # the same, by another name
    assert found["status"] == "complete"


def test_another_reward_function_is_refused_and_another_that_measures_is_recorded(tmp_path):
    def functions(**sources: str) -> dict:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        args = PPOArguments(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, reward_model_path=None, reward_funcs=[f"{tmp_path}/train.py:score"],
            eval_reward_funcs=[f"{tmp_path}/gold.py:score"],
        )  # fmt: skip
        return {"parents": lineage.parents(args.parents())}

    first = functions(train="plus", gold="one")
    assert set(first["parents"]) == {"reward_func_0", "eval_reward_func_0"}
    folder = interrupted(tmp_path / "run", **first)
    before = (folder / "run.json").read_text()
    with pytest.raises(RunError, match=r"reward_func_0: \S+train.py:score \(\w{8}\) -> \S+train.py:score"):
        resume(folder, functions(train="minus"))
    assert (folder / "run.json").read_text() == before
    second = functions(train="plus", gold="two")
    found = resume(folder, second)
    assert found["parents"] == second["parents"]
    then, now = found["resumptions"][0]["changed"]["eval_reward_func_0"]
    assert (then, now) == tuple(one["parents"]["eval_reward_func_0"] for one in (first, second))
    assert then["hash"] != now["hash"]


@pytest.mark.parametrize(
    "given",
    [{"gradient_checkpointing": True}, {"eval_strategy": "steps", "eval_steps": 2}, {"dataloader_num_workers": 2},
     {"logging_steps": 3}, {"per_device_train_batch_size": 2}],
)  # fmt: skip
@pytest.mark.parametrize("cls", [SFTConfig, RLOOConfig, PPOArguments])
def test_what_the_library_sets_from_a_free_setting_is_free(tmp_path, cls, given):
    usual = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    before, now = (cls(**usual | more).to_dict() for more in ({}, given))
    resumed.check_settings({"config": before}, now)


def test_a_setting_that_trl_renamed_is_the_same():
    before = {"config": {"loss_type": "chunked_nll", "router_aux_loss_coef": 0.001}}
    resumed.check_settings(before, {"loss_type": "nll", "router_aux_loss_coef": None})
    with pytest.raises(resumed.OtherRun, match="loss_type"):
        resumed.check_settings(before, {"loss_type": "dft", "router_aux_loss_coef": None})


def test_a_longer_run_of_ppo_under_a_steady_schedule_has_more_batches(tmp_path):
    usual = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "lr_scheduler_type": "constant"}
    configs = []
    for steps in (2, 4):
        args = PPOArguments(**usual, max_steps=steps)
        plan(BatchArguments(global_batch_size=8), args, 16, 1)
        configs.append(args.to_dict())
    changed = resumed.check_settings({"config": configs[0]}, configs[1])
    assert changed == {"max_steps": [2, 4], "total_episodes": [16, 32]}


def test_parents_of_a_resumption_that_failed_early_are_not_forgotten(tmp_path):
    """It fails before it notes its parents: the next one is compared with those of the first."""
    folder = interrupted(tmp_path / "run", parents={"model": {"path": "a", "hash": "1" * 64}})
    with pytest.raises(ValueError), record.start("sft", str(folder), dict(CONFIG), resume=True):
        raise ValueError
    with pytest.raises(RunError, match="model: a"):
        resume(folder, {"parents": {"model": {"path": "a", "hash": "2" * 64}}})


def test_nothing_to_go_on_with_is_a_run_from_the_beginning(tmp_path):
    folder = interrupted(tmp_path / "run")
    (folder / "checkpoint-5").rmdir()
    assert "resumptions" not in resume(folder, learning_rate=5e-4)


def test_a_checkpoint_of_another_folder_has_its_record_there(tmp_path):
    folder = interrupted(tmp_path / "run")
    (folder / "checkpoint-5/trainer_state.json").write_text("{}")
    with pytest.raises(RunError, match="learning_rate"):
        resume(tmp_path / "new", learning_rate=5e-4, resume_from_checkpoint=str(folder / "checkpoint-5"))
    found = resume(tmp_path / "new", resume_from_checkpoint=str(folder / "checkpoint-5"))
    assert len(found["resumptions"]) == 1
    (tmp_path / "alone").mkdir()
    shutil.copytree(folder / "checkpoint-5", tmp_path / "alone/checkpoint-5")
    with pytest.raises(RunError, match=r"no run\.json beside it"):
        resume(tmp_path / "other", resume_from_checkpoint=str(tmp_path / "alone/checkpoint-5"))


def test_the_date_of_a_template_is_the_one_that_the_run_began_with(tmp_path):
    folder = interrupted(tmp_path / "run")
    told = json.loads((folder / "run.json").read_text())
    told["config"]["template_date"] = "2026-11-20"
    (folder / "run.json").write_text(json.dumps(told))
    values = {"output_dir": str(folder), "resume_from_checkpoint": "last"}
    assert resumed.kept(values, ["template_date"]) == {"template_date": "2026-11-20"}
    assert resumed.kept(values | {"template_date": "2026-11-27"}, ["template_date"]) == {}
    assert resumed.kept(values | {"resume_from_checkpoint": None}, ["template_date"]) == {}


def test_a_recipe_refuses_before_a_model_is_loaded(monkeypatch, capsys, tmp_path, world):
    """SFT, interrupted after two steps, with another rate, other rows and another parent; then as it was."""
    from align.models import checkpoints

    monkeypatch.chdir(ROOT)
    out = tmp_path / "run"

    def run(*flags: str, **changed: str) -> int:
        arguments = [*stage_arguments("sft", world), "--max_steps", "4", "--save_steps", "2", "--save_total_limit", "3"]
        for key, value in changed.items():
            arguments[arguments.index(f"--{key}") + 1] = value
        monkeypatch.setattr(sys, "argv", ["recipes/sft.py", *arguments, "--output_dir", str(out), *flags])
        try:
            runpy.run_path("recipes/sft.py", run_name="__main__")
        except SystemExit as stop:
            return int(str(stop.code))
        return 0

    assert run("--learning_rate", "1e-3") == 0
    straight = (out / "model.safetensors").read_bytes()
    told = json.loads((out / "run.json").read_text()) | {"status": "interrupted"}
    (out / "run.json").write_text(json.dumps(told))
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink()
    others = write_rows(tmp_path / "others.jsonl", conversations(20))
    parent = make_checkpoint(tmp_path / "parent", seed=3)
    last = ["--resume_from_checkpoint", "last"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "load_policy", None)
        assert run(*last, "--learning_rate", "1e-4") == 1
        assert "learning_rate: 0.001 -> 0.0001" in capsys.readouterr().err
        assert run(*last, "--learning_rate", "1e-3", dataset_name=str(others)) == 1
        said = capsys.readouterr().err
        assert "data: " in said and "rows to train on: 48 rows" in said
        assert run(*last, "--learning_rate", "1e-3", model_name_or_path=str(parent)) == 1
        assert "model: " in capsys.readouterr().err
        assert json.loads((out / "run.json").read_text()) == told
    assert run(*last, "--learning_rate", "1e-3", "--per_device_train_batch_size", "4") == 0
    assert (out / "model.safetensors").read_bytes() == straight
