"""A chain skips what is finished, runs again what has changed, goes on where it stopped, and stops at a missed gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from conftest import ROOT

from align.run import pipeline
from align.run.errors import ConfigError, RunError


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """A one-stage chain whose recipe is replaced by writing a record."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "stage.yaml").write_text("dataset_name: rows.jsonl\noutput_dir: runs/nano/sft\n")
    stage = {"name": "sft", "run": "recipes/sft.py", "config": "stage.yaml", "gate": {"accuracy": ">= 0.9"}}
    args = pipeline.PipelineConfig(output_dir="runs/other", family_dir="runs/nano", stages=[stage])
    calls = []

    def execute(stage, extra):
        calls.append(extra)
        stage.folder.mkdir(parents=True, exist_ok=True)
        record = {
            "status": "complete",
            "reopens": False,
            "metrics": {"accuracy": 0.95},
            "wall_seconds": 1,
            "peak_memory_bytes": 1,
        }
        (stage.folder / "run.json").write_text(json.dumps(record))
        return 0

    monkeypatch.setattr(pipeline, "execute", execute)
    return args, calls, tmp_path / "runs/other/sft"


def test_finished_stages_are_skipped_until_an_input_changes(chain, tmp_path):
    args, calls, _ = chain
    pipeline.run_stages(args)
    pipeline.run_stages(args)
    assert calls == [[]]
    (tmp_path / "rows.jsonl").write_text('{"new": 1}\n')
    pipeline.run_stages(args)
    assert calls == [[], ["--overwrite"]]


def test_an_interrupted_stage_goes_on(chain):
    args, calls, folder = chain
    pipeline.run_stages(args)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (folder / "checkpoint-5").mkdir()
    pipeline.run_stages(args)
    assert calls[-1] == ["--resume_from_checkpoint", "last"]


def test_what_may_go_on_is_read_off_the_record_not_off_a_name(chain):
    """A stage without checkpoints that said `resumable`; and a finished one that reopens its folder."""
    args, calls, folder = chain
    pipeline.run_stages(args)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted", "resumable": True}))
    pipeline.run_stages(args)
    assert calls[-1] == ["--resume_from_checkpoint", "last"]
    (folder / "run.json").write_text(json.dumps({**record, "reopens": True}))
    args.seed = 1
    pipeline.run_stages(args)
    assert calls[-1] == []


def test_work_of_an_earlier_version_is_not_removed_unasked(chain, tmp_path):
    """Its record does not say whether the folder is gone on with (an evaluation's cache, a comparison's arms)."""
    args, calls, folder = chain
    pipeline.run_stages(args)
    record = json.loads((folder / "run.json").read_text())
    del record["reopens"]
    (folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    with pytest.raises(RunError, match="stage sft: runs/other/sft is an earlier version's .interrupted."):
        pipeline.run_stages(args)
    (folder / "run.json").write_text(json.dumps(record))
    pipeline.run_stages(args)
    (tmp_path / "rows.jsonl").write_text('{"new": 1}\n')
    with pytest.raises(RunError, match="stage sft: runs/other/sft is an earlier version's.*remove it"):
        pipeline.run_stages(args)
    assert calls == [[]]


def test_a_stage_that_does_not_move_is_refused(chain):
    """Without family_dir nothing moves, and another run's folder would be overwritten."""
    args, _, _ = chain
    args.family_dir = None
    with pytest.raises(
        ConfigError, match="stage sft would write to runs/nano/sft, which is not below output_dir runs/other"
    ):
        pipeline.plan(args.stages[0], args)
    args.output_dir = "runs/nano"
    assert pipeline.plan(args.stages[0], args).argv[:2] == ["--config", "stage.yaml"]
    args.stages[0]["run"] = "-m nosuch.module"
    with pytest.raises(ConfigError, match="there is no module nosuch.module"):
        pipeline.plan(args.stages[0], args)


def test_a_mixture_moves_with_the_chain(chain, tmp_path):
    """A command line cannot say `datasets:`, so the stage reads a file of the chain's own."""
    args, _, _ = chain
    (tmp_path / "runs/other/clean").mkdir(parents=True)
    (tmp_path / "runs/other/clean/rows.jsonl").write_text("{}\n")
    mixture = [{"path": "runs/nano/clean", "fraction": 0.5}, {"path": "rows.jsonl", "fraction": 0.5}]
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump({"datasets": mixture, "output_dir": "runs/nano/sft"}))
    stage = pipeline.plan(args.stages[0], args)
    assert stage.argv == ["--config", "runs/other/stages/sft.yaml", "--seed", "0"]
    told = yaml.safe_load((tmp_path / "runs/other/stages/sft.yaml").read_text())
    assert told["datasets"] == [{"path": "runs/other/clean", "fraction": 0.5}, {"path": "rows.jsonl", "fraction": 0.5}]
    assert told["output_dir"] == "runs/other/sft"
    (tmp_path / "runs/other/clean/rows.jsonl").write_text('{"new": 1}\n')
    assert pipeline.plan(args.stages[0], args).inputs != stage.inputs


def test_a_missed_gate_and_a_failure_stop_the_chain(chain, monkeypatch):
    args, _, _ = chain
    args.stages[0]["gate"] = {"accuracy": ">= 0.99"}
    with pytest.raises(RunError, match="stage sft missed its gate: accuracy is 0.95, must be >= 0.99"):
        pipeline.run_stages(args)
    args.stages[0]["gate"] = {"speed": "> 1"}
    with pytest.raises(RunError, match="no metric speed; it has accuracy"):
        pipeline.run_stages(args)
    args.seed = 7
    monkeypatch.setattr(pipeline, "execute", lambda stage, extra: 1)
    with pytest.raises(RunError, match="stage sft failed with exit status 1"):
        pipeline.run_stages(args)


def test_paths_and_seed_follow_the_command_line(chain):
    args, _, folder = chain
    stage = pipeline.plan(args.stages[0], args)
    assert stage.folder.resolve() == folder.resolve() and stage.argv[-2:] == ["--output_dir", "runs/other/sft"]
    assert stage.argv[2:4] == ["--seed", "0"]


def test_a_stage_ends_with_a_killed_pipeline(tmp_path):
    """The stage writes its number and would sleep for a minute; after a kill -9 of the chain it is gone."""
    (tmp_path / "stage.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    code = (
        "import sys; from pathlib import Path; from align.run import pipeline; pipeline.PRELOAD = []; "
        "pipeline.execute(pipeline.Stage('s', ['stage.py'], Path('out'), [], None, {}, True, ''), [])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    chain = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    stage = int(chain.stdout.readline())
    chain.kill()
    chain.wait()
    for _ in range(100):
        try:
            if psutil.Process(stage).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)
    os.kill(stage, 9)
    raise AssertionError("the stage goes on")


def test_the_nano_chain_is_well_formed():
    stages = yaml.safe_load((ROOT / "recipes/nano/pipeline.yaml").read_text())["stages"]
    pipeline.PipelineConfig(output_dir="x", stages=stages)
    with pytest.raises(ValueError, match="unknown key"):
        pipeline.PipelineConfig(output_dir="x", stages=[{**stages[0], "gat": {}}])
