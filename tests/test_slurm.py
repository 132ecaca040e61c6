"""`align slurm`: the script that it writes, by hand, and run by stand-ins for SLURM, which start two "machines" here."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, launch, losses, run_recipe, stage_arguments
from transformers import TrainerControl, TrainerState

from align import cli
from align.machine import slurm
from align.machine.slurm import SlurmConfig
from align.run.errors import ConfigError
from align.train import progress

# Of sbatch's long options (its manual, 24.11) those that take a value, and those that take none
NAMES = """account array begin bb bbf chdir clusters comment constraint container core-spec cores-per-socket cpu-freq
cpus-per-gpu cpus-per-task deadline dependency distribution error exclude export export-file extra-node-info gid gpu-bind
gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses
mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu network nice nodefile nodelist nodes ntasks
ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition power prefer priority profile
qos reservation segment signal sockets-per-node switches thread-spec threads-per-core time time-min tmp tres-bind
tres-per-task uid wait-all-nodes wckey wrap"""
VALUED = set(NAMES.split())
BARE = {"exclusive", "contiguous", "hold", "ignore-pbs", "no-requeue", "overcommit", "oversubscribe", "parsable", "quiet",
        "reboot", "requeue", "spread-job", "test-only", "use-min-nodes", "verbose", "wait"}  # fmt: skip

STEPS = 40  # of a training here, some 30 ms each

SBATCH = '''#!{python}
"""Takes a script as sbatch does, and runs it; what scontrol put back runs once more."""
import os, re, subprocess, sys, time
VALUED, BARE = {valued!r}, {bare!r}
(script,) = sys.argv[1:]
options = {{}}
for line in open(script).read().splitlines()[1:]:
    if line and not line.startswith("#"):
        break  # sbatch reads no further
    if not line.startswith("#SBATCH "):
        continue
    name, equals, value = line.removeprefix("#SBATCH --").partition("=")
    if (name in VALUED) != bool(equals and value) or (name not in VALUED and name not in BARE) or " " in value:
        sys.exit(f"sbatch: error: {{line}}")
    options[name] = value
assert options["signal"].startswith("B:USR1@"), "the signal is for the script"
state, after = os.environ["STANDIN"], os.environ.get("STANDIN_LIMIT")
for restart in range(5):
    told = dict(os.environ, SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="node[1-9]", SLURM_JOB_NUM_NODES=options["nodes"])
    told |= {{"SLURM_RESTART_COUNT": str(restart)}} if restart else {{}}
    with open(options["output"].replace("%j", "4711"), options["open-mode"][0]) as log:
        job = subprocess.Popen(["bash", script], env=told, stdout=log, stderr=log)
    while restart == 0 and after and job.poll() is None:
        file, lines = after.rsplit(":", 1)
        if os.path.exists(file) and open(file).read().count('"loss":') >= int(lines):
            job.send_signal(10)
            break
        time.sleep(0.05)
    status = job.wait()
    again = os.path.join(state, "requeue")
    if "requeue" not in options or not os.path.exists(again):
        sys.exit(status)
    os.remove(again)
'''
SRUN = '''#!{python}
"""Starts the command once a "machine"; a signal goes to all, and one that fails ends the others."""
import os, signal, subprocess, sys, time
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
count = int(os.environ["SLURM_JOB_NUM_NODES"])
tasks = [subprocess.Popen(words, env=dict(os.environ, SLURM_PROCID=str(n), SLURM_NODEID=str(n))) for n in range(count)]
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):
        time.sleep(5)
        [task.terminate() for task in tasks if task.poll() is None]
    time.sleep(0.1)
sys.exit(max(abs(task.returncode) for task in tasks))
'''
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then for n in $(seq "$SLURM_JOB_NUM_NODES"); do echo 127.0.0.1; done
elif [ "$1 $2" = "requeue 4711" ]; then touch "$STANDIN/requeue"
else exit 1; fi
"""


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """An environment in which `sbatch`, `srun` and `scontrol` are stand-ins."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    told = {"python": sys.executable, "valued": VALUED, "bare": BARE}
    for name, text in (("sbatch", SBATCH.format(**told)), ("srun", SRUN.format(**told)), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "STANDIN": str(folder)}


def written(folder: Path, *words: str, after: tuple[str, ...] = ()) -> str:
    """The script that `align slurm recipes/sft.py …` writes, run from the repository."""
    path = folder / "job.sbatch"
    slurm.main(
        ["--recipe", str(ROOT / "recipes/sft.py"), "--script", str(path), *words, *(("--", *after) if after else ())]
    )
    return path.read_text()


@pytest.fixture
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


# -------------------------------------------------------------------------------------------------------- what it says


def test_two_nodes_with_four_gpus_each(here, tmp_path, capsys):
    text = written(tmp_path, "--nodes", "2", "--gpus", "8", "--time", "04:00:00", "--partition", "long", "--account", "us",
                   "--cpus_per_task", "32", "--config_file", "accelerate_configs/zero2.yaml", "--sbatch_args", "exclusive",
                   "mail-user=me@example.org", "--env_command", "module load cuda",
                   after=("--config", "recipes/qwen3-0.6b/sft.yaml", "--run_name", "two words"))  # fmt: skip
    head = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert head == [
        "--job-name=sft", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=32", "--time=04:00:00",
        "--partition=long", "--account=us", "--output=sft-%j.log", "--open-mode=append", "--signal=B:USR1@180", "--requeue",
        "--exclusive", "--mail-user=me@example.org",
    ]  # fmt: skip
    assert text.startswith("#!/bin/bash\n#SBATCH") and f"cd {ROOT} || exit 1" in text and "\nmodule load cuda\n" in text
    assert "--num_machines 2 --num_processes 8" in text and "--config_file accelerate_configs/zero2.yaml" in text
    assert "--deepspeed_multinode_launcher standard" in text and "--cpus-per-task=32 \\" in text
    words = shlex.split(re.search(r"^recipe=\((.*)\)$", text, re.MULTILINE)[1])
    assert words[1:] == ["--config", "recipes/qwen3-0.6b/sft.yaml", "--run_name", "two words"]
    assert "recipe+=(--resume_from_checkpoint last)" in text
    assert "2 nodes with 4 GPUs each: 8 processes, accelerate_configs/zero2.yaml" in capsys.readouterr().out
    assert subprocess.run(["bash", "-n", tmp_path / "job.sbatch"]).returncode == 0


def test_gpus_of_a_node_and_none(here, tmp_path, capsys):
    assert "--num_processes 16" in written(tmp_path, "--nodes", "2", "--gpus_per_node", "8")
    text = written(tmp_path, "--nodes", "2")
    assert "--num_processes 2" in text and "gpus" not in text and "accelerate_configs/ddp.yaml" in text
    assert "pdsh" not in text and "multinode_launcher" not in text
    assert "one core" in capsys.readouterr().out
    assert "accelerate_configs/gpu.yaml" in written(tmp_path, "--gpus", "1")
    assert "accelerate_configs/cpu.yaml" in written(tmp_path)


def test_going_on(here, tmp_path):
    """Not twice, not over what is to be begun anew at the first start, and not of a recipe that has no checkpoints."""
    assert "recipe+=" not in written(tmp_path, after=("--resume_from_checkpoint=runs/x/checkpoint-5",))
    line = next(one for one in written(tmp_path, after=("--overwrite",)).splitlines() if "recipe+=" in one)
    assert line.startswith('[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || recipe+=(--resume_from_checkpoint last)')
    path = tmp_path / "eval.sbatch"
    slurm.main(["--recipe", "recipes/eval.py", "--script", str(path), "--no_requeue"])
    assert "recipe+=" not in path.read_text() and "#SBATCH --no-requeue" in path.read_text()
    assert "scontrol requeue" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nodes", "2", "--gpus", "7"], "gpus=7 cannot be shared by 2 nodes"),
        (["--gpus", "8", "--gpus_per_node", "4"], "were both given"),
        (["--nodes", "0"], "nodes=0: at least 1"),
        (["--cpus_per_task", "0"], "cpus_per_task=0: at least 1"),
        (["--time", "4h"], "time='4h': expected"),
        (["--signal", "20"], "signal=20: at least 60"),
        (["--partition", "a b"], "partition='a b': one word"),
        (["--job_name", "../x"], "job_name='../x'"),
        (["--sbatch_args", "Exclusive"], "sbatch_args: 'Exclusive'"),
        (["--config_file", "accelerate_configs/zero9.yaml"], "config_file: accelerate_configs/zero9.yaml is not there"),
        (["--node", "2"], "unknown key node; did you mean nodes?"),
    ],
)
def test_what_cannot_be_is_refused_before_a_job_waits_for_hours(here, tmp_path, words, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        written(tmp_path, *words)
    assert not (tmp_path / "job.sbatch").exists()


def test_a_recipe_of_one_process_and_one_that_is_not_there(here, tmp_path):
    for recipe, told in (("recipes/eval.py", "runs in one process"), ("recipes/sftt.py", "is not there")):
        with pytest.raises(ConfigError, match=told):
            slurm.main(["--recipe", recipe, "--nodes", "2", "--script", str(tmp_path / "x.sbatch")])
    with pytest.raises(ConfigError, match="recipe is needed"):
        slurm.main([])


def test_only_its_own_scripts_are_written_over(here, tmp_path):
    written(tmp_path)
    written(tmp_path, "--nodes", "2")
    (tmp_path / "job.sbatch").write_text("#!/bin/bash\nmy own work\n")
    with pytest.raises(ConfigError, match="was not written by this command"):
        written(tmp_path)


@pytest.mark.parametrize("value", ["4", "4:00", "4:00:00", "2-0", "2-00:30", "2-00:30:00"])
def test_times_as_sbatch_writes_them(value):
    assert slurm.TIME.fullmatch(value)


def test_bare_words_are_the_recipe_and_the_rest_is_the_recipes():
    assert cli.arguments("recipe", ["recipes/sft.py", "--nodes", "2", "--", "--config", "x"]) == [
        "--recipe", "recipes/sft.py", "--nodes", "2", "--", "--config", "x",
    ]  # fmt: skip
    assert SlurmConfig(recipe="a/b.py").name == "b" and SlurmConfig(nodes=3).processes == 3


# ------------------------------------------------------------------------------------------------------- what leaves


class Noted:
    def __init__(self) -> None:
        self.status = "running"

    def finish(self, status: str) -> None:
        self.status = status


def test_a_training_saves_and_leaves_when_the_file_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGN_LEAVE", str(tmp_path / "leave"))
    run, control, state = Noted(), TrainerControl(), TrainerState(global_step=3, max_steps=9)
    leave = progress.Leave(run)
    leave.on_train_begin(None, state, control)
    leave.on_step_end(None, state, control)
    leave.on_save(None, state, control)
    assert not control.should_save and run.status == "running"
    (tmp_path / "leave").touch()
    leave.on_step_end(None, state, control)
    assert control.should_save and not control.should_training_stop, "or the run would end as a whole one"
    with pytest.raises(KeyboardInterrupt):
        leave.on_save(None, state, control)
    assert run.status == "interrupted"


# --------------------------------------------------------------------------------------------------------- run by them


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory) -> list[float]:
    """The losses of one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    run_recipe("sft", *arguments(world, out))
    return losses(out)


def arguments(world: Path, out: Path) -> list[str]:
    return [
        *stage_arguments("sft", world),
        "--max_steps",
        str(STEPS),
        "--learning_rate",
        "1e-3",
        "--output_dir",
        str(out),
    ]


def submit(cluster: dict[str, str], world: Path, out: Path, *words: str, **more: str) -> str:
    """Write the script, hand it to sbatch, and return the job's log."""
    script = out.parent / "job.sbatch"
    launch([sys.executable, "-m", "align.cli", "slurm", "recipes/sft.py", "--nodes", "2", "--script", str(script),
            "--sbatch_args", f"output={out.parent}/job-%j.log", *words, "--", *arguments(world, out)])  # fmt: skip
    done = launch(["sbatch", str(script)], env=cluster | more, check=False)
    log = (out.parent / "job-4711.log").read_text()
    assert done.returncode == 0, done.stderr + log[-5000:]
    return log


def same(found: list[float], wanted: list[float]) -> bool:
    return len(found) == len(wanted) == STEPS and max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_two_machines_have_the_losses_of_one_process(kind, cluster, world, straight, tmp_path):
    submit(cluster, world, tmp_path / "run", "--config_file", f"accelerate_configs/{kind}.yaml")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["world_size"]) == ("complete", 2)
    assert same(losses(tmp_path / "run"), straight)


@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_is_put_back_and_goes_on(cluster, world, straight, tmp_path):
    """Told after two of its steps. Nothing is saved but by that: `save_steps` is 500."""
    out = tmp_path / "run"
    log = submit(cluster, world, out, STANDIN_LIMIT=f"{out}/metrics.jsonl:2")
    saved = int(re.search(rf"saved at step (\d+) of {STEPS}: the job's time is nearly up", log)[1])
    assert 2 <= saved < STEPS
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete" and len(record["resumptions"]) == 1
    assert same(losses(out), straight), "no step twice, none left out"
    assert not list(ROOT.glob("*.leave"))
