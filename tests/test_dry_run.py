"""`--dry_run`: the first steps with the longest rows and a checkpoint, a report, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT, launch, run_recipe, stage_arguments, write_rows
from datasets import Dataset
from test_flags import asked
from test_house import RECIPES

from align.ppo.rollout import Sampler, prompts_of
from align.ppo.watch.report import Clock
from align.run import record
from align.run.errors import ConfigError, RunError
from align.run.flags import Flags
from align.run.parse import parse
from align.run.pipeline import PipelineConfig
from align.run.trial import listing, telling, throwaway
from align.train import preflight
from align.train.first import rehearsal

TRAINING = ["pretrain", "sft", "reward", "dpo", "ppo", "rloo"]


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """A dry run that has its folder's name; `.settings` is the configuration."""
    monkeypatch.setattr(throwaway.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    settings = PipelineConfig(output_dir=str(tmp_path / "runs" / "mine"), stages=[stage("one")])
    throwaway.begin((settings,), True)
    throwaway.settle(lambda names: None)
    yield throwaway.asked()
    throwaway.begin((), False)


def stage(name, config="x.yaml"):
    return {"name": name, "run": "recipes/sft.py", "config": str(config)}


# ------------------------------------------------------------------------------------------------- who has it, who not


def takers(flag):
    return {path.stem for path in RECIPES if flag in Flags(asked(f"recipes/{path.name}").classes).known}


def test_what_trains_samples_or_evaluates_has_it_and_the_pipeline():
    assert takers("dry_run") == {*TRAINING, "sample", "eval", "pipeline"}


@pytest.mark.parametrize("recipe", ["clean", "tokenizer", "leaks", "compare"])
def test_others_refuse_it_by_name(recipe):
    _, problems = Flags(asked(f"recipes/{recipe}.py").classes).typed({"dry_run": True}, {})
    assert len(problems) == 1 and problems[0].startswith("dry_run is not a flag here: what trains has it")


def test_it_does_not_resume():
    argv = ["--stages", "x", "--output_dir", "there", "--dry_run"]
    values = {"dry_run": True, "resume_from_checkpoint": "last"}
    assert throwaway.problems({**values, "dry_run": False}) == [] == throwaway.problems({"dry_run": True})
    assert "leave resume_from_checkpoint out" in throwaway.problems(values)[0]
    classes = asked("recipes/sft.py").classes
    with pytest.raises(ConfigError, match="leave resume_from_checkpoint out"):
        parse(
            *classes, nano=None, argv=[*argv[2:], "--model_name_or_path", str(ROOT), "--resume_from_checkpoint", "last"]
        )


# ------------------------------------------------------------------------------------------------------- its own folder


def test_the_configuration_points_at_a_folder_that_nobody_could_foresee(dry, tmp_path):
    assert dry.wanted == str(tmp_path / "runs" / "mine") == throwaway.destination("other")
    assert re.fullmatch(re.escape(str(tmp_path)) + "/tmp/dry-run-[0-9a-f]{16}", dry.settings.output_dir)


@pytest.mark.parametrize("end", [None, ValueError("x"), KeyboardInterrupt(), SystemExit(0)])
def test_however_it_ends_the_folder_goes_and_the_runs_own_was_never_made(dry, tmp_path, end):
    try:
        with record.start("sft", dry.settings.output_dir, {}) as run:
            assert json.loads((run.folder / "run.json").read_text())["status"] == "running"
            assert os.stat(run.folder).st_mode & 0o777 == 0o700
            if end is not None:
                raise end
    except BaseException as error:
        assert error is end
    assert os.listdir(tmp_path / "tmp") == [] and os.listdir(tmp_path) == ["tmp"]


def test_a_folder_that_the_run_could_not_use_is_told(dry, tmp_path):
    write_rows(Path(dry.wanted) / "run.json", [{"recipe": "sft", "status": "complete"}])
    with pytest.raises(RunError, match="mine holds a finished run"), record.start("sft", dry.settings.output_dir, {}):
        pass
    assert os.listdir(dry.wanted) == ["run.json"] and os.listdir(tmp_path / "tmp") == []
    with record.start("sft", dry.settings.output_dir, {}, overwrite=True):
        pass
    assert os.listdir(dry.wanted) == ["run.json"]  # nothing was emptied


def test_a_place_that_cannot_be_written_is_told(dry, monkeypatch):
    monkeypatch.setattr(throwaway.os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match="cannot be written"), record.start("sft", dry.settings.output_dir, {}):
        pass


# ------------------------------------------------------------------------------------------------------- longest first


def test_the_longest_rows_come_twice_and_then_rows_as_they_are_drawn():
    found = rehearsal.order(np.array([3, 9, 5, 9, 1, 4, 7, 2]), 2, seed=0)
    assert found[:4] == [1, 3, 1, 3] and len(found) == 8  # as many as before, so that the run has as many steps
    assert set(found[4:]) <= set(range(8)) and len(set(found[4:])) == 4
    assert rehearsal.order(np.array([3, 9]), 4, seed=0) == [1, 0]


def trainer_of(rows, apart):
    args = SimpleNamespace(train_batch_size=1, gradient_accumulation_steps=2, world_size=1, seed=0)
    model = SimpleNamespace() if apart else SimpleNamespace(score=None)
    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    return SimpleNamespace(args=args, train_dataset=Dataset.from_list(rows), model=model, accelerator=accelerator)


def test_a_pair_is_as_long_as_its_longer_side_and_the_prompt_where_it_is_apart():
    rows = [
        {"prompt_ids": [1] * 9, "chosen_ids": [1], "rejected_ids": [1, 2]},  # 11 tokens, or 2
        {"prompt_ids": [1], "chosen_ids": [1] * 8, "rejected_ids": [1]},  # 9, or 8
        *[{"prompt_ids": [1], "chosen_ids": [1], "rejected_ids": [1]}] * 4,
    ]
    for apart, order, longest in ((True, [0, 1, 0, 1], 11), (False, [1, 0, 1, 0], 8)):
        trainer = trainer_of(rows, apart)
        said = rehearsal._longest_first(trainer, 2)
        assert said == f"the longest first, of up to {longest} tokens (steps 1 and 2)"
        assert trainer.train_dataset[:4]["chosen_ids"] == [rows[i]["chosen_ids"] for i in order]
        assert trainer.args.train_sampling_strategy == "sequential" and len(trainer.train_dataset) == 6


def test_what_is_learnt_of_prepared_rows():
    assert rehearsal._learnt({"prompt": "a", "labels": "x", "input_ids": [5, 6]}) == {"input_ids": [5, 6]}
    assert rehearsal._learnt({"input_ids": [5, 6], "labels": [-100, 6]})["labels"] == [-100, 6]
    block = {"input_ids": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]}
    assert rehearsal._learnt(block)["labels"] == [-100, 6, -100, 8]
    assert rehearsal._learnt({"input_ids": [5, 6, 7]})["labels"] == [-100, 6, 7]


def test_ppo_begins_with_the_longest_prompts_and_lets_no_answer_end(monkeypatch):
    asked_for = []

    def episodes(rows, numbers, seed, stops):
        asked_for.append(([row["input_ids"] for row in rows], set(stops)))
        raise StopIteration

    ids = [[1], [1, 2, 3], [1, 2], [1, 2, 3, 4]]
    plan = SimpleNamespace(prompts=2, episodes=2, processes=1)
    args = SimpleNamespace(num_generations=1, seed=0, device=torch.device("cpu"))
    trainer = SimpleNamespace(
        args=args, plan=plan, accelerator=SimpleNamespace(process_index=0), processing_class=None, flops=None,
        train_rows=[{"input_ids": one} for one in ids], clock=Clock(), stops={9},
    )  # fmt: skip
    trainer.sampler = Sampler(trainer)
    monkeypatch.setattr(trainer.sampler, "_episodes", episodes)
    monkeypatch.setattr(args, "response_length", 7, raising=False)
    said = rehearsal._longest_prompts(trainer, 1)
    assert said == "the longest prompts first, of up to 4 tokens, and 7 sampled after each (rollout 1)"
    for number in (0, 1):
        with pytest.raises(StopIteration):
            trainer.sampler.next(number, None)
    (first, ends), (second, then) = asked_for
    assert first == [[1, 2, 3, 4], [1, 2, 3]] and ends == set() and then == {9}
    assert second == [ids[i] for i in prompts_of(1, 2, 4, 0)]


def test_no_tracker_is_told_and_nothing_is_pushed(dry, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(
        transformers.integrations, "get_reporting_integration_callbacks", lambda names: [lambda: made.append(names)]
    )
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    args.report_to, args.push_to_hub = ["wandb"], True
    preflight._optimizer(args, None)
    assert made == [["wandb"]], "that its package is there is asked all the same"
    assert args.report_to == [] and args.push_to_hub is False


# ------------------------------------------------------------------------------------------------------------ the report


def test_sizes_and_times():
    assert [telling.size(n) for n in (12, 1500, 12_340_000, 8.33e9, 2.5e12)] == [
        "12 bytes", "1.5 kB", "12.3 MB", "8.33 GB", "2,500 GB",
    ]  # fmt: skip
    assert [telling.clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_memory_is_the_largest_processs():
    one, other = {"peak": 1e9, "all": 8e9}, {"peak": 3e9, "all": 8e9}
    assert telling.memory([one]) == "memory    1 GB at most, of the machine's 8 GB"
    assert telling.memory([one, other]).endswith(
        "3 GB at most, of the machine's 8 GB (the largest of 2 processes; 4 GB together)"
    )
    gpus = [one | {"aside": 4e9}, other | {"aside": 5e9}]
    assert telling.memory(gpus).endswith("of the GPU's 8 GB; torch set 5 GB aside (the largest of 2 processes)")


def test_the_time_left_is_that_of_the_last_step(dry):
    observer = rehearsal.Observer(3, 2, lambda: None)
    observer.seconds, observer.total, observer.checkpoint, observer.saving = [9.0, 4.0, 3.0], 100, 2_000_000, 0.5
    lines = rehearsal.report(observer, "step", "the longest first", [{"peak": 1e9, "all": 8e9}], 8)
    assert "time      3 s a step (step 3, rows as they are drawn; before it 9, 4 s)" in lines
    assert any(line.startswith("ETA       5:00 for 100 steps") for line in lines)  # 3 s x 100
    assert "space     2 MB a checkpoint, saved in 0.5 s" in lines and not any("did not fit" in line for line in lines)
    observer.seconds = [9.0]
    assert "time      9 s a step (step 1, the longest rows)" in rehearsal.report(
        observer, "step", "", [{"peak": 1, "all": 2}], 8
    )


def test_the_observer_ends_a_training_after_a_checkpoint(tmp_path):
    ended, observer = [], rehearsal.Observer(3, 2, lambda: ended.append(True))
    state, control = SimpleNamespace(max_steps=7, global_step=0, is_world_process_zero=True), SimpleNamespace()
    observer.on_train_begin(None, state, control)
    for step, saves, ends in ((1, False, 0), (2, False, 1), (3, True, 1)):
        state.global_step = step
        observer.on_step_end(None, state, control)
        assert control.should_save is control.should_training_stop is saves and len(ended) == ends
        assert control.should_evaluate is False
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "weights").write_bytes(b"x" * 70)
    observer.on_save(SimpleNamespace(output_dir=tmp_path), state, control)
    assert (observer.total, observer.checkpoint, len(observer.seconds)) == (7, 70, 3)


def test_a_chain_lists_its_stages_and_writes_nothing(tmp_path, capsys):
    home, chain = tmp_path / "runs", tmp_path / "chain"
    for name in ("one", "two", "three"):
        write_rows(chain / f"{name}.yaml", [])
        (chain / f"{name}.yaml").write_text(f"output_dir: {home / name}\ndataset_name: {home / 'one'}\n")
    write_rows(home / "two" / "run.json", [{"recipe": "sft", "status": "failed", "reopens": False}])
    stages = [stage(name, chain / f"{name}.yaml") for name in ("one", "two", "three")]
    args = PipelineConfig(output_dir=str(home), stages=stages, dry_run=True)
    with pytest.raises(SystemExit):
        listing.show(args)
    out = capsys.readouterr().out
    assert re.search(r"1 one: would be made \(.*\n +2 two: would be made again \(.*\n +3 three: would be made \(", out)
    assert os.listdir(home) == ["two"]


# ------------------------------------------------------------------------------------------------------ really launched

# optimizer steps, rollouts of PPO: 48 rows of 8 a step (pretraining: see below), two epochs in SFT; RLOO's steps are 8
# completions of 2 prompts
STEPS = {"sft": 12, "reward": 6, "dpo": 6, "ppo": 6, "rloo": 24}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINING)
def test_a_training_is_tried_and_leaves_nothing(world, tmp_path, recipe):
    out, free = tmp_path / "runs" / "mine", tmp_path / "tmp"
    free.mkdir()
    more = ["--num_train_epochs", "1"] if recipe in ("ppo", "rloo") else []
    done = run_recipe(recipe, *stage_arguments(recipe, world), *more, "--dry_run", "--output_dir", out,
                      env={"TMPDIR": str(free)})  # fmt: skip
    assert os.listdir(tmp_path) == ["tmp"] and not list(free.glob("dry-run-*"))
    unit = "rollout" if recipe == "ppo" else "step"
    made = 2 if recipe == "ppo" else 3  # a rollout of PPO is two updates here
    told = re.search(rf"Dry run of {recipe}: {made} of (\d+) {unit}s and a checkpoint\.", done.stdout)
    assert told and int(told[1]) == STEPS.get(recipe, int(told[1])), done.stdout
    for line in ("rows ", "memory ", "time ", "ETA ", "space ", f"saved in  {out} "):
        assert re.search(rf"^  {re.escape(line)}", done.stdout, re.M), (line, done.stdout)
    assert re.search(r"^row 3: \d+ tokens$", done.stdout, re.M) and "row 4" not in done.stdout
    assert ("▸" in done.stdout) is (recipe in ("ppo", "rloo")) and ("⟦" in done.stdout) is not (
        recipe in ("ppo", "rloo")
    )
    space = re.search(r"space +([\d.]+) (kB|MB)", done.stdout)
    assert space and float(space[1]) > 0


@pytest.mark.slow
def test_sampling_and_evaluation_are_tried(world, tmp_path):
    base, prompts = str(world / "base"), str(world / "prompts")
    settings = ["--max_new_tokens", "7", "--per_device_eval_batch_size", "8", "--dry_run"]
    for recipe, more in (
        ("sample", ["--model_name_or_path", base, "--num_generations", "2"]),
        ("eval", ["--models", f"one={base}", f"two={base}", "--reward_model_path", str(world / "rm")]),
    ):
        done = run_recipe(
            recipe, *more, "--dataset_name", prompts, *settings, "--output_dir", tmp_path / "out" / recipe
        )
        assert os.listdir(tmp_path) == [] and f"Dry run of {recipe}: " in done.stdout
        assert re.search(r"^  ETA  ", done.stdout, re.M) and re.search(r"^row 3: ", done.stdout, re.M)
    assert "8 of the longest prompts" in done.stdout and "for 2 batches a model" in done.stdout  # of 16 prompts


@pytest.mark.slow
def test_an_error_and_ctrl_c_leave_nothing_either(world, tmp_path):
    free, code = tmp_path / "tmp", tmp_path / "rewards.py"
    free.mkdir()
    code.write_text("import time\ndef bad(prompts, completions, **_):\n    raise ValueError('no score')\n"
                    "def slow(prompts, completions, **_):\n    time.sleep(300)\n")  # fmt: skip
    command = [*stage_arguments("ppo", world), "--dry_run", "--output_dir", str(tmp_path / "out")]
    done = run_recipe("ppo", *command, "--reward_funcs", f"{code}:bad", env={"TMPDIR": str(free)}, check=False)
    assert done.returncode == 1 and "no score" in done.stderr and sorted(os.listdir(tmp_path)) == ["rewards.py", "tmp"]
    assert not list(free.glob("dry-run-*"))
    running = subprocess.Popen(
        [sys.executable, "recipes/ppo.py", *command, "--reward_funcs", f"{code}:slow"], cwd=ROOT,
        env={**os.environ, "TMPDIR": str(free)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in running.stdout:
        if "rollouts" in line:  # the plan, told before the first rollout
            break
    time.sleep(1)
    assert list(free.glob("dry-run-*"))
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130 and "interrupted" in told
    assert not list(free.glob("dry-run-*")) and sorted(os.listdir(tmp_path)) == ["rewards.py", "tmp"]


@pytest.mark.slow
def test_several_processes_tell_one_report(world, tmp_path):
    free = tmp_path / "tmp"
    free.mkdir()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/ddp.yaml",
               "--num_processes", "2", "--main_process_port", "0", "recipes/sft.py"]  # fmt: skip
    done = launch([*command, *stage_arguments("sft", world), "--dry_run", "--output_dir", tmp_path / "out"],
                  env={"TMPDIR": str(free)})  # fmt: skip
    assert done.stdout.count("Dry run of sft: 3 of 12 steps") == 1 and "the largest of 2 processes" in done.stdout
    assert os.listdir(tmp_path) == ["tmp"] and not list(free.glob("dry-run-*"))
