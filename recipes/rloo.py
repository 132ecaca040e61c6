"""REINFORCE leave-one-out (Ahmadian et al. 2024), TRL's own trainer: a third arm for `recipes/compare.py`.

    accelerate launch recipes/rloo.py                                         # the nano family's settings
    accelerate launch recipes/rloo.py --model_name_or_path runs/mine/sft --reward_model_path runs/mine/reward \
        --dataset_name my_prompts.jsonl --use_peft --output_dir runs/mine/rloo

A completion's baseline is the mean reward of its prompt's others; `beta` weighs the KL, which is in the reward.
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from dataclasses import dataclass, field

from trl import ModelConfig, RLOOConfig, RLOOTrainer

from align.data import prepare
from align.models import adapters, checkpoints, scorers
from align.ppo.config import check_rloo
from align.run import launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments, PromptArguments, derive_batch
from align.run.parse import parse, resolved
from align.train import loop, preflight

DEFAULTS = dict(
    learning_rate=1e-6,  # TRL's
    num_generations=4,
    beta=0.05,  # TRL's
    max_completion_length=128,
    global_batch_size=512,  # completions per step
    per_device_train_batch_size=8,
    lora_dropout=0.0,
    **launch.TRAINER_DEFAULTS | dict(include_num_input_tokens_seen="no"),  # TRL counts them itself
)
LORA_DEFAULTS = dict(learning_rate=1e-5)


@dataclass
class RewardArguments(PromptArguments):
    """Where the reward comes from, and which prompts it is for."""

    reward_model_path: str | None = field(default=None, metadata={"help": "Reward model of the policy's vocabulary."})


def main():
    run_args, data_args, model_args, reward_args, args = parse(
        BatchArguments, DataArguments, ModelConfig, RewardArguments, RLOOConfig,
        nano="recipes/nano/rloo.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "reward_model_path", "output_dir"), size=adapters.of_settings,
    )  # fmt: skip
    parent, judge = model_args.model_name_or_path, reward_args.reward_model_path
    launch.check(seed=args.seed)
    derive_batch(run_args, args, launch.world_size())
    checkpoints.check(parent, revision=model_args.model_revision)
    checkpoints.check(judge, reward_model=True)
    tokenizer = checkpoints.load_tokenizer(parent, revision=model_args.model_revision, date=data_args.template_date)
    rows = prepare.rows(data_args, "prompt", tokenizer, max_length=reward_args.max_prompt_length, seed=args.seed)
    check_rloo(args, model_args, launch.resumes(args), rows.train.column_names)
    preflight.check(args, model_args, parent, rows, answer=args.max_completion_length)

    config, resume = resolved(run_args, data_args, model_args, reward_args, args), launch.resumes(args)
    with record.start("rloo", args.output_dir, config, overwrite=run_args.overwrite, resume=resume) as run:
        roles = dict(model=parent, reference=parent, reward_model=judge, **data_args.parents())
        run.note(parents=lineage.parents(roles, model_args.model_revision), data=rows.as_dict())
        weights = checkpoints.resolve_parent(parent, args.output_dir, model_args, tokenizer)
        policy = checkpoints.load_policy(weights, model_args, tokenizer)
        scorer = scorers.of_checkpoint(judge, tokenizer, batch_size=args.per_device_train_batch_size)
        trainer = loop.build(
            RLOOTrainer, policy, scorers.for_trl(scorer, tokenizer, policy.generation_config), args,
            train_dataset=rows.train, eval_dataset=rows.test, processing_class=tokenizer,
            peft_config=checkpoints.lora_config(model_args), callbacks=loop.callbacks(run),
        )  # fmt: skip
        loop.describe(trainer, run, rows, args, "rloo", parent)
        metrics = loop.train_and_save(trainer, tokenizer)
        loop.finish(run, metrics)
    loop.show("rloo", metrics, ("train_loss", "steps", "tokens"))


if __name__ == "__main__":
    launch.run(main)
