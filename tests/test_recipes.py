"""Recipes, really launched: they train, record, save what plain libraries load, resume bitwise and repeat bitwise."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, losses, run_recipe, stage_arguments, write_rows
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
STAGES = ["pretrain", "sft", "reward", "dpo", "ppo"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = run.glob("*.safetensors")
    return load_file(str(file))


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Every stage trained for six steps (PPO: rollouts), once, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("trained")
    for stage in STAGES:
        run_recipe(stage, *stage_arguments(stage, world), "--max_steps", "6", "--save_steps", "3",
                   "--save_total_limit", "5", "--output_dir", str(folder / stage))  # fmt: skip
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_the_record_is_whole(trained, world, stage):
    run = json.loads((trained / stage / "run.json").read_text())
    assert run["status"] == "complete" and run["recipe"] == stage and run["global_batch_size"] == 8
    assert run["world_size"] == 1 and run["sharding"] == "no sharding" and run["parameters"] > 0
    assert run["data"]["train"]["rows_out"] > 0 and len(run["data"]["train"]["fingerprint"]) == 64
    assert run["parents"]["model"]["path"] == str(world / "base") and len(run["parents"]["model"]["hash"]) == 64
    assert run["config"]["max_steps"] == 6 and "torch" in run["versions"]
    assert len(losses(trained / stage)) == 6


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_saved_loads_with_plain_transformers(trained, stage):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    cls = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
    model, info = cls.from_pretrained(trained / stage, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(trained / stage)
    assert tokenizer.chat_template and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    if stage != "reward":
        assert tokenizer.eos_token_id in torch.tensor(model.generation_config.eos_token_id).flatten().tolist()


@pytest.mark.parametrize("stage", STAGES)
def test_same_seed_same_weights(trained, world, stage, tmp_path):
    run_recipe(stage, *stage_arguments(stage, world), "--max_steps", "6", "--save_steps", "3", "--output_dir",
               str(tmp_path / "again"))  # fmt: skip
    assert same(trained / stage, tmp_path / "again")
    moved = {name: t for name, t in weights(trained / stage).items() if "score" not in name}
    start = weights(world / "base")
    assert any(not torch.equal(tensor, start[name]) for name, tensor in moved.items())


@pytest.mark.parametrize("stage", STAGES)
def test_stop_and_resume_is_straight_through(trained, world, stage, tmp_path):
    """What a kill after step 3 leaves: a checkpoint and a record that says `running`."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(trained / stage / "checkpoint-3", run / "checkpoint-3")
    (run / "run.json").write_text(json.dumps({"status": "running"}))
    arguments = [*stage_arguments(stage, world), "--max_steps", "6", "--save_steps", "3", "--output_dir", str(run)]
    refused = run_recipe(stage, *arguments, check=False)
    assert refused.returncode == 1 and "holds an interrupted run" in refused.stderr
    run_recipe(stage, *arguments, "--resume_from_checkpoint", "last")
    assert same(trained / stage, run)
    assert len(losses(run)) == 3, "steps 1 to 3 must not be trained again"


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_killed_run_resumes_to_the_same_weights(world, tmp_path, stage):
    """kill -9 in the middle of training, then --resume_from_checkpoint last."""
    extra = ["--kl_target", "0.1", "--save_steps", "2"] if stage == "ppo" else ["--save_steps", "5"]
    steps = "20" if stage == "ppo" else "60"
    arguments = [*stage_arguments(stage, world), "--max_steps", steps, "--save_total_limit", "3", *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"recipes/{stage}.py", *arguments, "--output_dir", str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list((tmp_path / "killed").glob("checkpoint-*/trainer_state.json")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed/run.json").read_text())["status"] == "running"
    run_recipe(stage, *arguments, "--output_dir", str(tmp_path / "killed"), "--resume_from_checkpoint", "last")
    run_recipe(stage, *arguments, "--output_dir", str(tmp_path / "straight"))
    assert same(tmp_path / "killed", tmp_path / "straight")
    if stage == "ppo":
        assert same(tmp_path / "killed/critic", tmp_path / "straight/critic")


@pytest.mark.parametrize("how", [["--use_peft", "--value_model", "adapter"], ["--value_model", "full"]])
def test_ppo_resumes_every_critic(world, tmp_path, how):
    """Policy adapter, value adapter or whole critic, optimizer, scale, coefficient: 2 + 2 rollouts are 4, bitwise. A
    checkpoint that was half-written when the process died is put aside and the one before it is used."""
    arguments = [
        *stage_arguments("ppo", world),
        *how,
        "--max_steps",
        "4",
        "--save_steps",
        "2",
        "--save_total_limit",
        "3",
    ]
    run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / "straight"))
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "straight/checkpoint-2", run / "checkpoint-2")
    shutil.copytree(tmp_path / "straight/checkpoint-4", run / "checkpoint-3")
    whole = (run / "checkpoint-3/trainer_state.json").read_text()
    (run / "checkpoint-3/trainer_state.json").write_text(whole[: len(whole) // 2])
    write_rows(run / "run.json", [{"status": "running"}])
    run_recipe("ppo", *arguments, "--output_dir", str(run), "--resume_from_checkpoint", "last")
    assert same(tmp_path / "straight", run) and same(tmp_path / "straight/critic", run / "critic")
    assert (run / "broken-checkpoint-3").is_dir()
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in kept] == [3, 4]


REWARD = """
def score(prompts, completions, stopped, **columns):
    return [len(set(c[0]["content"].split())) - 2.0 * (not s) for c, s in zip(completions, stopped)]
def same(prompts, completions, **_):
    return [1.0 for _ in prompts]
"""


def test_ppo_with_functions_and_every_switch(world, tmp_path):
    """A mix of reward model and function, K completions of a prompt, adaptive KL, warm-up, following reference, held-out
    judge: it runs, and the record, the episodes on disk and the best weights are there."""
    import pyarrow.parquet as pq

    (tmp_path / "mine.py").write_text(REWARD)
    mine = f"{tmp_path}/mine.py:score"
    done = run_recipe(
        "ppo", *stage_arguments("ppo", world), "--max_steps", "4", "--reward_funcs", mine, "--reward_weights", "0.5", "2",
        "--num_generations", "2", "--kl_target", "0.5", "--value_warmup_rollouts", "1", "--sync_ref_model", "true",
        "--eval_strategy", "steps", "--eval_steps", "2", "--eval_reward_funcs", mine, "--length_penalty", "0.01",
        "--reward_clip", "3", "--whiten_rewards", "true", "--kl_estimator", "k3", "--output_dir", str(tmp_path / "p"),
    )  # fmt: skip
    run = json.loads((tmp_path / "p/run.json").read_text())
    assert run["metrics"]["best"]["rollout"] in (2, 4) and (tmp_path / "p/best/config.json").is_file()
    rows = [json.loads(line) for line in (tmp_path / "p/metrics.jsonl").read_text().splitlines()]
    rollouts = [row for row in rows if "objective/kl" in row]
    assert len({row["objective/kl_coef"] for row in rollouts}) == 4, "the coefficient adapts"
    assert {"rewards/score/mean", "rewards/reward_model/mean", "time/update", "mfu/update"} <= set(rollouts[0])
    assert sum("eval_objective/scores" in row for row in rows) == 2
    episodes = pq.read_table(tmp_path / "p/rollouts/rollout-000001.parquet").to_pydict()
    assert len(episodes["prompt"]) == 8 and episodes["prompt"][0] == episodes["prompt"][1]
    assert {"completion", "score", "kl", "advantage_mean", "reward_score"} <= set(episodes)
    assert "4 prompts x 2 completions" in done.stdout and "2 a rollout = 2 epochs x 1 minibatches" in done.stdout
    assert "GFLOP/s" in done.stdout and "completion" in done.stdout


def test_ppo_stops_where_it_should(world, tmp_path):
    """Over its KL budget: complete, and it says why. A reward that is the same for everything: an error before training.
    A reward that is not a number: an error that names it."""
    (tmp_path / "mine.py").write_text(REWARD + "def none(prompts, **_):\n    return [float('nan')] * len(prompts)\n")
    arguments = [*stage_arguments("ppo", world), "--max_steps", "30", "--learning_rate", "1e-2", "--kl_budget", "0.05"]
    done = run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / "a"))
    run = json.loads((tmp_path / "a/run.json").read_text())
    assert run["status"] == "complete" and "over kl_budget=0.05" in run["metrics"]["stopped_by"] in done.stdout
    assert run["metrics"]["steps"] < 30
    for name, message in (("same", "nothing to learn from"), ("none", "the reward none is nan")):
        arguments = [*stage_arguments("ppo", world), "--max_steps", "1", "--reward_funcs", f"{tmp_path}/mine.py:{name}"]
        if name == "same":
            arguments += ["--reward_weights", "0", "1"]
        failed = run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / name), check=False)
        assert failed.returncode == 1 and message in failed.stderr and "Traceback" not in failed.stderr


def test_ppo_notices_a_collapse_and_keeps_the_last_good_weights(world, tmp_path):
    """A learning rate that ruins the policy: the run ends in one sentence with the cause, before saving over."""
    arguments = [*stage_arguments("ppo", world), "--max_steps", "40", "--learning_rate", "1.0", "--save_steps", "1",
                 "--collapse_patience", "2", "--kl_coef", "0"]  # fmt: skip
    done = run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / "p"), check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "collapsed for 2 rollouts" in done.stderr or "not finite" in done.stderr, done.stderr[-500:]
    assert json.loads((tmp_path / "p/run.json").read_text())["status"] == "failed"


@pytest.mark.parity
def test_trls_own_engine_is_one_flag_away(world, tmp_path):
    arguments = [*stage_arguments("ppo", world), "--engine", "trl", "--max_steps", "2"]
    run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / "p"))
    assert json.loads((tmp_path / "p/run.json").read_text())["metrics"]["steps"] == 2
    again = run_recipe("ppo", *arguments, "--output_dir", str(tmp_path / "q"), "--resume_from_checkpoint", "last")
    assert again.returncode == 0  # nothing to resume there


def test_accumulation_changes_nothing(world, tmp_path):
    """Traps b14 and c10: 8 rows at once, or one by one, is the same step in every trainer."""
    for stage in ("sft", "reward", "dpo", "pretrain", "ppo"):
        for size in ("8", "1"):
            run_recipe(stage, *stage_arguments(stage, world), "--per_device_train_batch_size", size, "--max_steps", "3",
                       "--output_dir", str(tmp_path / stage / size))  # fmt: skip
        together, one_by_one = losses(tmp_path / stage / "8"), losses(tmp_path / stage / "1")
        assert together == pytest.approx(one_by_one, abs=2e-4), stage


def test_dpo_starts_at_ln_2(trained):
    assert losses(trained / "dpo")[0] == pytest.approx(0.6931, abs=1e-3)


def test_ppo_starts_with_no_kl_and_ratio_one(trained):
    first = json.loads((trained / "ppo/metrics.jsonl").read_text().splitlines()[0])
    assert first["objective/kl"] == 0 and first["val/ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_lora_from_an_sft_adapter(world, trained, stage, tmp_path):
    """The next phase starts from the SFT adapter's weights, keeps them as reference, and loads again by itself."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
    from transformers import AutoModelForCausalLM

    sft, run = tmp_path / "sft", tmp_path / "run"
    run_recipe("sft", *stage_arguments("sft", world), "--use_peft", "--max_steps", "4", "--output_dir", str(sft),
               "--learning_rate", "1e-2")  # fmt: skip
    arguments = [*stage_arguments(stage, world), "--use_peft", "--max_steps", "3", "--output_dir", str(run)]
    arguments[arguments.index("--model_name_or_path") + 1] = str(sft)
    run_recipe(stage, *arguments)
    settings = json.loads((run / "adapter_config.json").read_text())
    assert settings["task_type"] == ("SEQ_CLS" if stage == "reward" else "CAUSAL_LM")
    assert settings["base_model_name_or_path"] == str(run / "base")
    assert all(t.numel() and t.isfinite().all() for t in weights(run).values())
    assert any("lora_B" in name and tensor.any() for name, tensor in weights(run).items())
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = AutoModelForCausalLM.from_pretrained(run / "base")
    parent = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world / "base"), sft)
    torch.testing.assert_close(merged(ids).logits, parent(ids).logits, atol=1e-5, rtol=1e-5)
    if stage == "reward":
        assert any("score" in name for name in weights(run))
        model = AutoPeftModelForSequenceClassification.from_pretrained(run, num_labels=1)
        again = AutoPeftModelForSequenceClassification.from_pretrained(run, num_labels=1)
        torch.testing.assert_close(model(ids).logits, again(ids).logits)  # no head is drawn anew (trap d3)
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(run).eval()
        assert not torch.equal(model(ids).logits, merged(ids).logits)
    if stage == "dpo":
        assert losses(run)[0] == pytest.approx(0.6931, abs=1e-3)
    if stage == "ppo":
        first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert first["objective/kl"] == pytest.approx(0, abs=1e-3)


def test_lora_reward_model_drives_ppo(world, tmp_path):
    """As an adapter of the policy's own weights it shares their backbone; full PPO merges it. The scores are the same."""
    run_recipe("reward", *stage_arguments("reward", world), "--use_peft", "--max_steps", "3", "--output_dir",
               str(tmp_path / "rm"))  # fmt: skip
    arguments = [*stage_arguments("ppo", world), "--max_steps", "1", "--output_dir", str(tmp_path / "ppo")]
    arguments[arguments.index("--reward_model_path") + 1] = str(tmp_path / "rm")
    arguments += ["--accept_failed", str(tmp_path / "rm")]  # its gate: length alone does as well on these rows
    run_recipe("ppo", *arguments, "--value_model", "full")
    assert json.loads((tmp_path / "ppo/run.json").read_text())["parents"]["reward_model"]["recipe"] == "reward"
    arguments[arguments.index("--output_dir") + 1] = str(tmp_path / "shared")
    done = run_recipe("ppo", *arguments, "--use_peft")
    assert "an adapter on the policy's own backbone" in done.stdout
    first = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("ppo", "shared")]
    assert first[0]["objective/scores"] == pytest.approx(first[1]["objective/scores"], abs=1e-4)


def test_pretraining_streams_and_starts_from_nothing(world, tmp_path):
    run_recipe(
        "tokenizer",
        "--dataset_name",
        str(world / "texts"),
        "--vocab_size",
        "300",
        "--output_dir",
        str(tmp_path / "tok"),
    )
    config = '{"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'
    arguments = ["--tokenizer_name_or_path", str(tmp_path / "tok"), "--model_config", config, "--dataset_name",
                 str(world / "texts"), "--max_length", "16", "--max_steps", "3", "--global_batch_size", "4"]  # fmt: skip
    run_recipe("pretrain", *arguments, "--output_dir", str(tmp_path / "a"))
    metrics = json.loads((tmp_path / "a/run.json").read_text())["metrics"]
    assert metrics["bits_per_byte"] > 0 and metrics["perplexity"] > 1
    run_recipe("pretrain", *arguments, "--dataset_streaming", "--output_dir", str(tmp_path / "b"))
    stream = run_recipe(
        "pretrain", *arguments[:-4], "--dataset_streaming", "--output_dir", str(tmp_path / "c"), check=False
    )
    assert stream.returncode == 1 and "--max_steps" in stream.stderr


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_tokenizers(world, tmp_path, kind):
    from transformers import AutoTokenizer

    done = run_recipe("tokenizer", "--dataset_name", str(world / "texts"), "--tokenizer_type", kind, "--vocab_size", "300",
                      "--output_dir", str(tmp_path / "t"))  # fmt: skip
    assert "tokens per word" in done.stdout and "bytes per token" in done.stdout
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t")
    assert tokenizer.chat_template and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("the cat sits", add_special_tokens=False)["input_ids"]) == "the cat sits"


def test_sampling_resumes_and_becomes_a_data_set(world, tmp_path):
    arguments = ["--model_name_or_path", str(world / "base"), "--dataset_name", str(world / "prompts"), "--num_generations",
                 "2", "--max_new_tokens", "4", "--per_device_eval_batch_size", "8"]  # fmt: skip
    run_recipe("sample", *arguments, "--output_dir", str(tmp_path / "a"))
    whole = (tmp_path / "a/data/train.jsonl").read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert len(lines) == 48 and all(len(row["completions"]) == 2 for row in lines)
    write_rows(tmp_path / "b/run.json", [{"status": "running"}])
    part = [{"index": i, **{k: lines[i][k] for k in ("stopped", "lengths")}, "reasoning": ["", ""],
             "completions": [c[0]["content"] for c in lines[i]["completions"]]} for i in range(20)]  # fmt: skip
    write_rows(tmp_path / "b/data/.train.0.part", part)
    with (tmp_path / "b/data/.train.0.part").open("a") as stream:
        stream.write('{"index": 20, "compl')  # what a kill leaves
    run_recipe("sample", *arguments, "--output_dir", str(tmp_path / "b"), "--resume_from_checkpoint", "last")
    assert (tmp_path / "b/data/train.jsonl").read_text() == whole
    assert json.loads((tmp_path / "b/run.json").read_text())["metrics"]["completions"] == 2 * (48 + 16)


@pytest.mark.parametrize(
    ("before", "launcher", "threads"),
    [({}, [], "all"), ({"OMP_NUM_THREADS": "1"}, [], 1), ({}, ["--num_cpu_threads_per_process", "1"], 1)],
    ids=["unsaid", "by the environment", "by the launcher's flag"],
)
def test_a_launcher_does_not_hold_training_back_to_one_core(tmp_path, before, launcher, threads):
    """`accelerate launch` without a config file sets OMP_NUM_THREADS=1."""
    from align.run.device import cores

    program = tmp_path / "program.py"
    program.write_text("import torch\nfrom align.run import launch\nlaunch.check()\nprint(torch.get_num_threads())")
    settings = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | before
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, str(program)]
    done = subprocess.run(command, cwd=ROOT, env=settings | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout.split()[-1] == str(cores() if threads == "all" else threads), done.stderr
