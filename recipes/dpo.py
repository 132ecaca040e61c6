"""Direct preference optimisation (Rafailov et al. 2023) from an SFT model and preference pairs or rankings.

    accelerate launch recipes/dpo.py                                          # the nano family's stage
    accelerate launch recipes/dpo.py --model_name_or_path runs/mine/sft --dataset_name my_pairs.jsonl \
        --use_peft --output_dir runs/mine/dpo

The reference is the recorded parent, also where that parent is an adapter. Both chosen and rejected log-probabilities
may fall while the margin grows: DPO optimises the margin only.
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from trl import DPOConfig, ModelConfig

from align.data import prepare
from align.models import adapters, checkpoints
from align.run import launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments, PairArguments, derive_batch
from align.run.parse import parse, resolved
from align.train import loop, measuring, preflight
from align.train.dpo import PairTrainer

DEFAULTS = dict(
    learning_rate=5e-7,  # Zephyr's (Tunstall et al. 2023, and its revision in the alignment handbook)
    beta=0.1,  # Rafailov et al. 2023, appendix B
    lr_scheduler_type="cosine",
    warmup_steps=0.1,
    num_train_epochs=1,
    max_length=1024,
    global_batch_size=64,  # Rafailov et al. 2023, appendix B
    per_device_train_batch_size=4,
    lora_dropout=0.0,  # dropout would make the margins random
    pairs_together=False,  # measured: LOG.md, rankings
    **launch.TRAINER_DEFAULTS,
)
LORA_DEFAULTS = dict(learning_rate=5e-6)


def main():
    run_args, data_args, pair_args, model_args, args = parse(
        BatchArguments, DataArguments, PairArguments, ModelConfig, DPOConfig,
        nano="recipes/nano/dpo.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "output_dir"), size=adapters.of_settings,
    )  # fmt: skip
    parent = model_args.model_name_or_path
    launch.check(seed=args.seed)
    derive_batch(run_args, args, launch.world_size())
    checkpoints.check(parent, revision=model_args.model_revision)
    tokenizer = checkpoints.load_tokenizer(parent, revision=model_args.model_revision, date=data_args.template_date)
    rows = prepare.rows(
        data_args, "preference", tokenizer, max_length=args.max_length, seed=args.seed, pairing=pair_args
    )
    preflight.check(args, model_args, parent, rows)

    config = resolved(run_args, data_args, pair_args, model_args, args)
    with record.start("dpo", args.output_dir, config, overwrite=run_args.overwrite, resume=launch.resumes(args)) as run:
        roles = {"model": parent, "reference": parent, **data_args.parents()}
        run.note(parents=lineage.parents(roles, model_args.model_revision), data=rows.as_dict())
        weights = checkpoints.resolve_parent(parent, args.output_dir, model_args, tokenizer)
        precomputes = args.precompute_ref_log_probs and launch.asked_kind() != "fsdp2"  # there TRL loads one of its own
        needs_reference = not model_args.use_peft and not precomputes
        trainer = loop.build(
            PairTrainer, checkpoints.load_policy(weights, model_args, tokenizer),
            ref_model=checkpoints.load_policy(weights, model_args, tokenizer) if needs_reference else None, args=args,
            train_dataset=rows.train, eval_dataset=rows.test, processing_class=tokenizer,
            peft_config=checkpoints.lora_config(model_args), callbacks=loop.callbacks(run),
            pairs_together=pair_args.pairs_together,
        )  # fmt: skip
        loop.describe(trainer, run, rows, args, "dpo", parent)
        metrics = loop.train_and_save(trainer, tokenizer)
        metrics |= measuring.take(run, {"held-out pairs": lambda: measuring.held_out(trainer)})
        loop.finish(run, metrics)
    loop.show("held-out pairs", metrics, ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"))


if __name__ == "__main__":
    launch.run(main)
