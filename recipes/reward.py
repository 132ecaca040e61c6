"""Train a reward model on preference pairs or rankings (Bradley-Terry loss on a scalar head).

    accelerate launch recipes/reward.py                                       # the nano family's stage
    accelerate launch recipes/reward.py --model_name_or_path runs/mine/sft --dataset_name my_pairs.jsonl \
        --use_peft --output_dir runs/mine/reward
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from transformers import set_seed
from trl import ModelConfig, RewardConfig

from align.data import prepare
from align.models import adapters, checkpoints
from align.run import gates, launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments, PairArguments, derive_batch
from align.run.parse import parse, resolved
from align.train import loop, measuring, preflight, reward

DEFAULTS = dict(
    learning_rate=1e-5,  # Ouyang et al. 2022, appendix C.2: 9e-6
    lr_scheduler_type="cosine",
    warmup_steps=0.03,
    num_train_epochs=1,  # one: reward models overfit fast (Ouyang et al. 2022, section 3.5)
    max_length=1024,
    global_batch_size=64,
    per_device_train_batch_size=8,
    center_rewards_coefficient=0.01,  # Eisenstein et al. 2023, eq. 2: the loss alone leaves the offset free
    lora_dropout=0.0,
    **launch.TRAINER_DEFAULTS,
)
LORA_DEFAULTS = dict(learning_rate=1e-4)


def main():
    run_args, data_args, pair_args, model_args, args = parse(
        BatchArguments, DataArguments, PairArguments, ModelConfig, RewardConfig,
        nano="recipes/nano/reward.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "output_dir"), size=adapters.of_settings,
    )  # fmt: skip
    parent = model_args.model_name_or_path
    launch.check(seed=args.seed)
    derive_batch(run_args, args, launch.world_size())
    checkpoints.check(parent, revision=model_args.model_revision)
    tokenizer = checkpoints.load_tokenizer(
        parent, chat_template=args.chat_template_path, revision=model_args.model_revision, date=data_args.template_date
    )
    rows = prepare.rows(
        data_args, "preference", tokenizer, max_length=args.max_length, seed=args.seed, pairing=pair_args,
        answers_only=True,
    )  # fmt: skip
    preflight.check(args, model_args, parent, rows, reward_model=True)
    train, test = reward.whole(rows.train), reward.whole(rows.test) if rows.test is not None else None

    config = resolved(run_args, data_args, pair_args, model_args, args)
    with record.start(
        "reward", args.output_dir, config, overwrite=run_args.overwrite, resume=launch.resumes(args)
    ) as run:
        roles = {"model": parent, **data_args.parents()}
        run.note(parents=lineage.parents(roles, model_args.model_revision), data=rows.as_dict())
        args.chat_template_path = None  # it is in the tokenizer now
        set_seed(args.seed)  # the score head is drawn here
        weights = checkpoints.resolve_parent(parent, args.output_dir, model_args, tokenizer)
        trainer = loop.build(
            reward.ScoreTrainer, checkpoints.load_reward_model(weights, model_args, tokenizer), args,
            train_dataset=train, eval_dataset=test, processing_class=tokenizer,
            peft_config=checkpoints.lora_config(model_args, reward_model=True), callbacks=loop.callbacks(run),
            pairs_together=pair_args.pairs_together,
        )  # fmt: skip
        loop.describe(trainer, run, rows, args, "reward", parent)
        metrics = loop.train_and_save(trainer, tokenizer)
        metrics |= measuring.take(run, {"held-out pairs": lambda: reward.held_out(trainer, train, test)})
        gates.keep(args.output_dir, gates.reward(metrics), missing=run.not_measured)
        loop.finish(run, metrics)
    keys = ("accuracy", "accuracy_low", "accuracy_high", "length_only_accuracy", "reward_mean", "reward_std", "n")
    loop.show("held-out pairs", metrics, keys)


if __name__ == "__main__":
    launch.run(main)
