"""REINFORCE leave-one-out (Ahmadian et al. 2024), TRL's own trainer: a third arm for `recipes/compare.py`.

    accelerate launch recipes/rloo.py                                         # the nano family's settings
    accelerate launch recipes/rloo.py --model_name_or_path runs/mine/sft --reward_model_path runs/mine/reward \
        --dataset_name my_prompts.jsonl --use_peft --output_dir runs/mine/rloo

Each prompt gets `num_generations` completions; a completion's baseline is the mean reward of the others. `beta` is the
coefficient of the KL to the SFT model, which TRL puts into the reward.
"""

from dataclasses import dataclass, field

from transformers import set_seed
from trl import ModelConfig, RLOOConfig, RLOOTrainer

from align import data, fit, launch, model, record
from align.config import BatchArguments, DataArguments, derive_batch, parse, resolved

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
MAX_PROMPT_LENGTH = 512  # longer prompts are dropped and counted


@dataclass
class RewardArguments:
    """Where the reward comes from."""

    reward_model_path: str | None = field(default=None, metadata={"help": "Reward model of the policy's vocabulary."})


def main():
    run_args, data_args, model_args, reward_args, args = parse(
        BatchArguments, DataArguments, ModelConfig, RewardArguments, RLOOConfig,
        nano="recipes/nano/rloo.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "reward_model_path", "output_dir"),
    )  # fmt: skip
    parent, judge = model_args.model_name_or_path, reward_args.reward_model_path
    launch.check()
    derive_batch(run_args, args, launch.world_size())
    set_seed(args.seed)
    model.check_checkpoint(parent)
    model.check_checkpoint(judge, reward_model=True)
    tokenizer, own = model.load_tokenizer(parent), model.load_tokenizer(judge)
    rows = data.prepare(data_args, "prompt", tokenizer, max_length=MAX_PROMPT_LENGTH, seed=args.seed)

    config, resume = resolved(run_args, data_args, model_args, reward_args, args), launch.resumes(args)
    with record.start("rloo", args.output_dir, config, overwrite=run_args.overwrite, resume=resume) as run:
        run.note(
            parents=record.lineage(dict(model=parent, reference=parent, reward_model=judge, **data_args.parents()))
        )
        trainer = RLOOTrainer(
            model.load_policy(model.resolve_parent(parent, args.output_dir), model_args, tokenizer),
            model.load_trained(judge, own, reward_model=True), args, train_dataset=rows.train,
            processing_class=tokenizer, reward_processing_classes=own, peft_config=model.lora_config(model_args),
            callbacks=fit.callbacks(run),
        )  # fmt: skip
        fit.describe(trainer, run, rows, args, "rloo", parent)
        metrics = fit.train_and_save(trainer, run, tokenizer)
        run.finish("complete", metrics=metrics, tokens=metrics["tokens"])
    fit.show("rloo", metrics, ("train_loss", "steps", "tokens"))


if __name__ == "__main__":
    launch.run(main)
