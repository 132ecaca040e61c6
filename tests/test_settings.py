"""Settings that the trainers' classes take and that cannot work: one sentence, before a model is loaded where it can be."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, stage_arguments

from align.models import scorers
from align.run import errors
from align.run.errors import ConfigError, RunError


@pytest.fixture
def told(monkeypatch, capsys, tmp_path, world):
    """Run a recipe in this process; what it ends with (nothing where it works)."""
    from align.models import checkpoints

    def no_model(*_, **__):
        raise AssertionError("a model was loaded before the settings were judged")

    monkeypatch.chdir(ROOT)

    def run(words: str, *, loads: bool = False) -> str:
        stage, *flags = words.split()
        if not loads:
            for name in ("load_policy", "load_reward_model"):
                monkeypatch.setattr(checkpoints, name, no_model)
        arguments = stage_arguments(stage, world)
        if "--train_file" in flags:
            flags.remove("--train_file")
            arguments[arguments.index("--dataset_name") + 1] += "/train.jsonl"
        for flag in flags:
            if flag.startswith("--") and flag in arguments:
                arguments[arguments.index(flag) : arguments.index(flag) + 2] = []
        steps = [] if "--max_steps" in flags else ["--max_steps", "2"]
        out = ["--output_dir", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", [f"recipes/{stage}.py", *arguments, *steps, *out, *flags])
        try:
            runpy.run_path(f"recipes/{stage}.py", run_name="__main__")
        except SystemExit as stop:
            assert stop.code == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        _, error, sentence = said.rpartition("\nerror: ")
        return sentence if error else ""

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("sft --train_file --eval_strategy steps", "eval_strategy=steps: there are no held-out rows; hold some out"),
        ("dpo --train_file --eval_strategy epoch", "eval_strategy=epoch: there are no held-out rows"),
        ("reward --train_file --eval_on_start true", "eval_on_start: there are no held-out rows"),
        ("pretrain --train_file --eval_strategy steps", "eval_strategy=steps: there are no held-out rows"),
        ("sft --report_to nosuch", "report_to=nosuch cannot be used here: ValueError: nosuch is not supported"),
        (
            "sft --optim galore_adamw --optim_target_modules q_proj",
            "optim=galore_adamw cannot be used here: ImportError",
        ),
        ("dpo --lr_scheduler_type cosine_with_min_lr", "One of min_lr or min_lr_rate should be set"),
        ("sft --lr_scheduler_type warmup_stable_decay", "num_decay_steps"),
        ("sft --lr_scheduler_type cosin", "lr_scheduler_type: invalid choice: 'cosin' (choose from 'linear', 'cosine'"),
        ("sft --attn_implementation nosuch", 'ValueError: Specified `attn_implementation="nosuch"` is not supported'),
        ("pretrain --attn_implementation nosuch", "is not supported. The only possible arguments are"),
        ("sft --attn_implementation flex_attention", "flex_attention cannot train on a CPU"),
        ("sft --use_peft --lora_target_modules nosuch", "the model has no nosuch; it has down_proj, embed_tokens"),
        ("dpo --use_peft --lora_target_modules q_proj nosuch", "lora_target_modules: the model has no nosuch"),
        ("sft --use_peft --lora_target_modules .*nosuch.*", "no module's whole name is like '.*nosuch.*'"),
        (
            "sft --use_peft --lora_target_modules layers",
            "lora_target_modules: the model has no layers; it has down_proj",
        ),
        ("sft --use_peft --lora_modules_to_save nosuch", "lora_modules_to_save: the model has no nosuch"),
        ("reward --use_peft --lora_modules_to_save lm_head", "lora_modules_to_save: the model has no lm_head"),
        ("sft --use_peft --lora_target_parameters nosuch", "the model has no parameter nosuch"),
        ("dpo --use_peft --lora_target_parameters q_proj.weight", "use --lora_target_modules q_proj"),
        ("sft --lora_r 4 --use_dora", "lora_r, use_dora: nothing reads this without --use_peft"),
        ("sft --load_best_model_at_end true", "load_best_model_at_end cannot be set"),
        ("sft --metric_for_best_model nosuch", "metric_for_best_model cannot be set"),
        ("sft --save_strategy best", "save_strategy=best: the last model is the one that is saved"),
        ("sft --label_names nosuch", "label_names cannot be set"),
        ("pretrain --label_smoothing_factor 0.1", "label_smoothing_factor cannot be set"),
        ("sft --activation_offloading true", "there is none here; leave it out"),
        ("dpo --padding_free true", "padding_free cannot be set"),
        ("dpo --loss_type exo_pair", "needs --label_smoothing above 0"),
        ("dpo --sync_ref_model true --use_peft", "needs full fine-tuning"),
        ("dpo --sync_ref_model true --resume_from_checkpoint last", "cannot be resumed"),
        ("sft --dataloader_persistent_workers true", "--dataloader_num_workers 1 or more"),
        ("sft --push_to_hub true", "log in first (hf auth login)"),
        ("sft --use_peft --lora_target_modules *.q_proj", "and this is none (nothing to repeat at position 0)"),
        ("ppo --use_peft --lora_target_modules (", "lora_target_modules=(: a single one is a regular expression"),
        ("reward --use_peft --lora_target_modules [", "give names (q_proj v_proj), or for example '.*q_proj'"),
        ("ppo --reference_device nope", "reference_device=nope is no device of this machine"),
        ("ppo --reference_device cuda:99", "use cpu, or leave it out"),
        ("ppo --reference_device meta", "it holds no numbers"),
        ("ppo --save_strategy epoch", "save_strategy=epoch: PPO's steps are rollouts"),
        ("ppo --batch_size 4", "batch_size cannot be set: it is worked out from --global_batch_size"),
        ("ppo --world_size 2", "world_size cannot be set"),
        ("ppo --local_mini_batch_size 2", "local_mini_batch_size cannot be set"),
        ("ppo --num_total_batches 2", "num_total_batches cannot be set"),
        ("ppo --stop_token eos", "stop_token cannot be set: the stop token is read off the chat template"),
        ("ppo --ref_adapter_name x", "ref_adapter_name cannot be set: the policy's adapter is `default`"),
        ("ppo --sft_model_path x", "sft_model_path cannot be set: use --model_name_or_path"),
        ("ppo --ds3_gather_for_generation false", "ds3_gather_for_generation=False gathers every weight"),
        (
            "sft --activation_checkpointing true --gradient_checkpointing false",
            "are two names of one thing: give the first",
        ),
        ("sft --optim_target_modules q_proj", "optim_target_modules: only GaLore and APOLLO read this"),
        ("sft --model_revision v2", "only hub ids have revisions; leave it out"),
        ("dpo --annotators bob", "holds pairs and no rankings, and annotators would change nothing"),
        ("reward --aggregate majority", "holds pairs and no rankings, and aggregate would change nothing"),
    ],
)
def test_before_a_model_is_loaded(told, words, sentence, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert sentence in told(words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("dpo --loss_type nosuch", "training cannot begin like this: ValueError: Unknown loss type: nosuch"),
        ("sft --loss_type nosuch", "nosuch"),
        ("dpo --f_divergence_type nosuch", "Unknown f_divergence_type: nosuch (trl/trainer/dpo_trainer.py"),
    ],
)
def test_what_only_the_trainer_knows(told, words, sentence):
    assert sentence in told(words, loads=True)


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("learning_rate", "0 -1"), ("num_train_epochs", "0 -1"), ("max_steps", "0 -5"), ("global_batch_size", "0 -8"),
        ("per_device_train_batch_size", "0"), ("per_device_eval_batch_size", "0"), ("seed", "-1 99999999999"),
        ("weight_decay", "-1"), ("max_grad_norm", "-1"), ("adam_beta1", "1 -1"), ("adam_epsilon", "0"),
        ("max_length", "0 -3 1"), ("pad_to_multiple_of", "0"), ("max_train_rows", "0"), ("max_eval_rows", "0"),
        ("neftune_noise_alpha", "-1"), ("save_steps", "0"), ("dataloader_num_workers", "-1"),
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing(told, flag, values):
    for value in values.split():
        assert f"{flag}=" in (said := told(f"sft --{flag} {value}")) and ": must be " in said


@pytest.mark.parametrize("words", ["--beta 0", "--label_smoothing 0.7", "--ld_alpha 2", "--discopop_tau 0"])
def test_numbers_of_dpo(told, words):
    assert ": must be " in told(f"dpo {words}")


@pytest.mark.parametrize(
    "words",
    [
        "--kl_coef -1", "--kl_coef nan", "--cliprange -1", "--cliprange inf", "--cliprange_value 0", "--gamma 2",
        "--lam 2", "--vf_coef -1", "--value_warmup_rollouts -1", "--total_episodes 0", "--collapse_patience -1",
        "--temperature 0", "--reward_weights nan", "--length_penalty inf", "--learning_rate inf",
    ],
)  # fmt: skip
def test_numbers_of_ppo(told, words):
    name, value = words.removeprefix("--").split()
    assert f"{name}={value}: must be " in told(f"ppo {words}")


@pytest.mark.parametrize(
    ("known", "given", "refused"),
    [
        ("num_iterations", dict(epsilon=-1.0, num_iterations=0, top_p=2.0, temperature=0.0, top_k=-5, num_generations=0), 6),
        ("num_iterations", dict(num_generations=1, beta=-0.1), 2),
        ("num_iterations", dict(beta=0.0, top_k=0, top_p=1.0, num_generations=2), 0),
        ("max_new_tokens", dict(temperature=-1.0, max_new_tokens=0), 2),
        ("max_new_tokens", dict(temperature=0.0, max_new_tokens=1, num_generations=1), 0),
        ("kl_coef", dict(kl_coef=0.0, gamma=1.0, lam=0.95, collapse_patience=0, max_steps=-1), 0),
        ("kl_coefs", dict(kl_coefs=[0.0, 0.5], betas=[0.1, 0.0], rloo_betas=[float("inf")]), 2),
        ("a_float_of_any_recipe", dict(a_float_of_any_recipe=float("nan")), 1),
    ],
)  # fmt: skip
def test_one_table_of_limits(known, given, refused):
    from align.run.checks import limits

    found = limits.numbers(given, {known, *given})
    assert len(found) == refused and all(": must be " in said for said in found), found


def test_a_test_split_leaves_nothing_to_hold_out(capsys):
    """Said in a line of its own: the flag changes nothing there."""
    from align.data import splits
    from align.run.arguments import DataArguments

    args = DataArguments(dataset_name="rows", test_split_size=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits.load, "load", lambda _, split, **__: [split])
        said = splits.read(args, seed=0)
    assert said == {"train": ["train"], "test": ["test"]}
    assert "test_split_size: nothing is held out, as rows has a split test" in capsys.readouterr().out


def test_one_name_for_lora_is_a_name(told):
    """TRL hands it on as a pattern that a module's whole name must match."""
    assert told("sft --use_peft --lora_target_modules q_proj", loads=True) == ""


def test_references_computed_in_advance_reach_the_evaluation(told):
    assert told("dpo --precompute_ref_log_probs true", loads=True) == ""


@pytest.mark.slow
def test_a_stream_with_workers_comes_to_an_end(world, tmp_path):
    """A tokenizer that uses threads waits for ever in a process that was forked after they were started."""
    from conftest import run_recipe

    run_recipe("pretrain", *stage_arguments("pretrain", world), "--dataset_streaming", "--dataloader_num_workers", "2",
               "--max_steps", "2", "--output_dir", str(tmp_path / "run"))  # fmt: skip


def test_a_row_longer_than_the_model_reads(told, tmp_path, world):
    """128 positions; the message has the flag to type."""
    from conftest import write_rows

    words = " ".join(["cat"] * 200)
    rows = [{"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": words}]}]
    path = write_rows(tmp_path / "long.jsonl", rows)
    said = told(f"sft --dataset_name {path} --max_length 4096")
    assert "the model has positions for 128; give --max_length 128" in said
    said = told("ppo --response_length 127")
    assert "an answer may have 127, and the model has room for 128 positions: lower --max_prompt_length" in said


@pytest.fixture
def scoreless(tmp_path, world):
    """A Cohere checkpoint: transformers has no class for it that scores."""
    import torch
    from transformers import AutoTokenizer, CohereConfig, CohereForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    folder = tmp_path / "cohere"
    CohereForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_family_that_has_no_class_with_a_score(told, scoreless, world):
    """Neither a reward model nor a critic is loaded; the sentence has the family and two ways on."""
    from trl import ModelConfig

    from align.ppo.assemble import build

    said = told(f"reward --model_name_or_path {scoreless}")
    assert "is of a family (cohere) that transformers has no class with a score for" in said
    assert "train the reward model from another family" in said and "--value_model head, or adapter" in said
    with pytest.raises(ConfigError, match=r"is of a family \(cohere\)"):  # without a reward model it is the policy's
        build(str(scoreless), None, "full", ModelConfig(), None, longest=8, output_dir=str(scoreless.parent))


def test_liger_s_losses_are_refused_where_they_are_not_the_model_s(scoreless, world):
    """Cohere scales its logits after the head; a Llama does not."""
    from trl import ModelConfig

    from align.train import preflight

    args = SimpleNamespace(use_liger_kernel=True)
    for base, refused in ((scoreless, True), (world / "base", False)):
        model_args = ModelConfig(model_name_or_path=str(base))
        problems, _ = preflight._logits(args, preflight.skeleton(str(base), model_args), model_args)
        assert ("use_liger_kernel: Liger's losses do not see what cohere models do" in " ".join(problems)) is refused


def test_a_share_of_no_rows_held_out_is_none(told, capsys):
    """Taken as it is meant, and nothing is said of measurements that there are none of."""
    assert told("dpo --train_file --test_split_size 0", loads=True) == ""
    assert "test_split_size=-1: must be" in told("dpo --test_split_size -1")


def test_nothing_measured_nothing_shown(capsys):
    from align.train import loop

    loop.show("held-out pairs", {"loss": 1.0}, ("eval_loss",))
    assert capsys.readouterr().out == ""
    loop.show("held-out pairs", {"eval_loss": 1.0}, ("eval_loss", "eval_rewards/margins"))
    assert capsys.readouterr().out == "held-out pairs: eval_loss 1\n"


# --------------------------------------------------------------------------------------------------- errors of others


def test_errors_of_our_own_code_keep_their_traceback():
    """The frame that raised is one of ours: a slip of ours is not dressed up as a wrong setting."""
    from align.train.pair_batches import PromptSampler

    with pytest.raises(AttributeError), errors.one_sentence("refused"):
        PromptSampler(None, 0, lambda: 0)  # type: ignore[arg-type]


def test_memory_that_runs_out_says_what_to_lower():
    import torch

    with pytest.raises(RunError, match="lower --per_device_train_batch_size"), errors.one_sentence("refused"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RunError, match="lower --per_device_train_batch_size"), errors.one_sentence("refused"):
        torch.empty(2**48)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("    return 1 / 0", r"the function score failed: ZeroDivisionError: division by zero \(.*mine.py, line 2\)"),
        ("    return prompts[99]", r"the function score failed: IndexError: .*mine.py, line 2"),
        ("    return None", "gave NoneType; it must give a list"),
        ("    return ['good'] * len(prompts)", "gave 'good' as a reward"),
        ("    return [None] * len(prompts)", "gave None as a reward"),
        ("    return [1.0]", "gave 1 rewards for 2 completions"),
    ],
)
def test_a_reward_function_that_fails(tmp_path, body, sentence):
    (tmp_path / "mine.py").write_text(f"def score(prompts, **_):\n{body}\n")
    scorer = scorers.from_function(f"{tmp_path}/mine.py:score")
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    said = [SimpleNamespace(text="x", stopped=True, reasoning="") for _ in rows]
    with pytest.raises(RunError, match=sentence):
        scorer.score(rows, said)


def test_a_file_of_functions_that_cannot_be_read(tmp_path):
    (tmp_path / "mine.py").write_text("import json\njson.loads('{')\n")
    with pytest.raises(ConfigError, match="its file cannot be read: JSONDecodeError"):
        scorers.load_function(f"{tmp_path}/mine.py:score")
