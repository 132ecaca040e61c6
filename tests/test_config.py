"""The configuration is strict: every problem in one message, with the nearest right key, before a model is loaded."""

from __future__ import annotations

import pytest
from conftest import ROOT
from trl import ModelConfig, SFTConfig

from align.run.arguments import BatchArguments, DataArguments, derive_batch
from align.run.errors import ConfigError
from align.run.parse import parse

CLASSES = (BatchArguments, DataArguments, ModelConfig, SFTConfig)


def read(*argv: str, **kwargs):
    return parse(*CLASSES, nano=None, argv=["--output_dir", "out", "--dataset_name", "hub/rows", *argv], **kwargs)


def test_every_problem_is_reported_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rat: 1\nlora_r: many\nmax_steps: [1, 2]\n")
    with pytest.raises(ConfigError) as caught:
        read(
            "--config",
            str(tmp_path / "c.yaml"),
            "--bet",
            "3",
            "--seed",
            "x",
            "--dataset_name",
            "nowhere.jsonl",
            "stray",
        )
    message = str(caught.value)
    for part in (
        "7 problems", "unknown key learning_rat; did you mean learning_rate?", "lora_r: invalid int value: 'many'",
        "max_steps takes one value", "unknown key bet", "seed: invalid int value: 'x'", "stray argument 'stray' after --dataset_name",
        "nowhere.jsonl does not exist",
    ):  # fmt: skip
        assert part in message, message


def test_command_line_wins_over_file_wins_over_recipe(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nmax_length: 7\nuse_peft: true\n")
    config = ["--config", str(tmp_path / "c.yaml")]
    defaults, lora = {"learning_rate": 1e-5, "max_steps": 3}, {"learning_rate": 1e-4}
    *_, args = read(*config, "--max_length", "9", defaults=defaults, lora_defaults=lora)
    assert (args.learning_rate, args.max_length, args.max_steps) == (1e-3, 9, 3)
    *_, args = read("--use_peft", defaults=defaults, lora_defaults=lora)
    assert args.learning_rate == 1e-4
    *_, args = read(defaults=defaults, lora_defaults=lora)
    assert args.learning_rate == 1e-5


def test_flags_and_lists():
    run, data, model, args = read("--overwrite", "--use_peft", "--columns", "q=user", "a=assistant")
    assert run.overwrite is True and model.use_peft is True and data.columns == ["q=user", "a=assistant"]
    *_, args = read("--learning_rate=0.5")
    assert args.learning_rate == 0.5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gradient_accumulation_steps", "4"], "derived: state --global_batch_size"),
        (["--assistant_only_loss", "true"], "always on the assistant's tokens"),
        (["--load_in_4bit", "true"], "needs a GPU and the package bitsandbytes"),
        (["--use_liger_kernel", "true"], "needs a GPU and the package liger-kernel"),
        (["--attn_implementation", "flash_attention_2"], "needs a GPU and the package flash-attn"),
        (["--packing", "true", "--packing_strategy", "wrapped"], "cuts rows in two, and rows are never cut; use bfd"),
        (["--packing", "true", "--neftune_noise_alpha", "5"], "leave out either"),
        (["--packing_strategy", "bfd"], "nothing reads this without --packing"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--model_name_or_path", "runs/nano/sft9/x.jsonl"], "does not exist"),
    ],
)
def test_impossible_here(argv, message):
    with pytest.raises(ConfigError, match=message):
        read(*argv)


def test_a_missing_parent_names_the_stage_that_makes_it(monkeypatch, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    made = r"runs/nano/pretrain does not exist; make it with: python recipes/pretrain.py --config recipes/nano/pretrain.yaml"
    with pytest.raises(ConfigError, match=made):
        read("--model_name_or_path", "runs/nano/pretrain")
    with pytest.raises(ConfigError, match="runs/mine/pretrain does not exist; give an existing path or a hub id"):
        read("--model_name_or_path", "runs/mine/pretrain")


@pytest.mark.parametrize("text", ["", "stages: [{name: x}]", "stages: [{config: gone.yaml, run: x}]", "{"])
def test_a_chain_that_is_being_written_hides_no_message(monkeypatch, tmp_path, text):
    (tmp_path / "recipes/mine").mkdir(parents=True)
    (tmp_path / "recipes/mine/pipeline.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="runs/mine/pretrain does not exist; give an existing path"):
        read("--model_name_or_path", "runs/mine/pretrain")


def test_what_is_given_wrongly_is_not_called_missing():
    with pytest.raises(ConfigError) as caught:
        parse(*CLASSES, nano=None, argv=["--output_dir", "out", "--config", str(ROOT / "tests/conftest.py")])
    assert "is needed" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "reason"), [("--ties", "learn from pairs"), ("--dataset_streaming", "only sft and pretraining stream")]
)
def test_a_flag_of_other_recipes_is_no_flag_of_this_one(flag, reason):
    with pytest.raises(ConfigError, match=f"{flag[2:]} is not a flag of this recipe.*{reason}"):
        read(flag, "half")


def test_a_value_has_its_type_before_it_is_checked():
    """`false` from a command line is no truth: nothing is refused that was switched off."""
    *_, args = read("--packing", "false", "--use_liger_kernel", "False", "--load_in_4bit", "no", "--use_peft", "0")
    assert args.packing is False and args.use_liger_kernel is False


def test_a_cpu_gets_fp32_without_checkpointing():
    *_, args = read()
    assert args.bf16 is False and args.gradient_checkpointing is False and args.use_cpu is True


@pytest.mark.parametrize(("world", "micro", "steps"), [(1, 8, 6), (2, 8, 3), (3, 8, 2), (16, 3, 1)])
def test_the_global_batch_stays_what_was_stated(world, micro, steps):
    """48 rows a step with at most 8 at once: 1 x 8 x 6, 2 x 8 x 3, 3 x 8 x 2, 16 x 3 x 1."""
    run, *_, args = read("--global_batch_size", "48", "--per_device_train_batch_size", "8")
    derive_batch(run, args, world)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (micro, steps)
    assert world * micro * steps == 48


def test_a_batch_that_cannot_be_shared_is_refused():
    run, *_, args = read("--global_batch_size", "5")
    with pytest.raises(ConfigError, match="cannot be shared by 2 processes"):
        derive_batch(run, args, 2)


def test_a_flag_that_is_on_can_be_switched_off():
    """`--no_flag` is a second action of the same name, which once hid the type of the first."""
    from align.ppo.config import PPOArguments

    for text, expected in (("false", False), ("true", True)):
        classes = (BatchArguments, DataArguments, ModelConfig, PPOArguments)
        argv = ["--output_dir", "out", "--dataset_name", "hub/rows", "--whiten_advantages", text]
        assert parse(*classes, nano=None, argv=argv)[-1].whiten_advantages is expected
