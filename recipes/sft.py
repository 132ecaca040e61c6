"""Supervised fine-tuning on demonstrations: loss on the assistant's tokens and the stop token only.

    accelerate launch recipes/sft.py                                          # the nano family's stage
    accelerate launch recipes/sft.py --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name my_chats.jsonl \
        --use_peft --output_dir runs/mine/sft
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from trl import ModelConfig, SFTConfig, SFTTrainer

from align.data import prepare
from align.data.large import stream
from align.models import adapters, checkpoints
from align.run import gates, launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments, StreamArguments, derive_batch
from align.run.parse import parse, resolved
from align.train import logits, loop, measuring, packed, preflight

DEFAULTS = dict(
    learning_rate=2e-5,  # Tulu 3's full fine-tuning range
    lr_scheduler_type="cosine",
    warmup_steps=0.03,
    num_train_epochs=2,
    max_length=1024,
    global_batch_size=64,
    per_device_train_batch_size=8,
    lora_dropout=0.0,  # with all-linear LoRA, dropout buys nothing (Schulman et al. 2025)
    **launch.TRAINER_DEFAULTS,
)
LORA_DEFAULTS = dict(learning_rate=2e-4)  # ten times full fine-tuning's (Schulman et al. 2025)


def main():
    run_args, data_args, stream_args, model_args, args = parse(
        BatchArguments, DataArguments, StreamArguments, ModelConfig, SFTConfig,
        nano="recipes/nano/sft.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "output_dir"), size=adapters.of_settings,
    )  # fmt: skip
    parent = model_args.model_name_or_path
    launch.check(seed=args.seed)
    derive_batch(run_args, args, launch.world_size())
    checkpoints.check(parent, revision=model_args.model_revision)
    tokenizer = checkpoints.load_tokenizer(
        parent, chat_template=args.chat_template_path, revision=model_args.model_revision, date=data_args.template_date
    )
    how = stream.how(stream_args, args)
    rows = prepare.rows(data_args, "sft", tokenizer, max_length=args.max_length, seed=args.seed, how=how)
    whole = preflight.check(args, model_args, parent, rows)

    config = resolved(run_args, data_args, stream_args, model_args, args)
    with record.start("sft", args.output_dir, config, overwrite=run_args.overwrite, resume=launch.resumes(args)) as run:
        roles = {"model": parent, **data_args.parents()}
        run.note(parents=lineage.parents(roles, model_args.model_revision), data=rows.as_dict())
        args.chat_template_path = None  # it is in the tokenizer now
        weights = checkpoints.resolve_parent(parent, args.output_dir, model_args, tokenizer)
        policy = checkpoints.load_policy(weights, model_args, tokenizer)
        train = packed.rows(rows, args, policy, run)
        trainer = loop.build(
            logits.WholeLossTrainer if whole else SFTTrainer, policy, args, train_dataset=train,
            eval_dataset=rows.test, processing_class=tokenizer, callbacks=loop.callbacks(run),
            data_collator=packed.Collator(tokenizer.pad_token_id, args.pad_to_multiple_of),
            peft_config=checkpoints.lora_config(model_args),
        )  # fmt: skip
        loop.describe(trainer, run, rows, args, "sft", parent)
        metrics = measuring.take(run, {"loss_before": lambda: measuring.loss_before(trainer, rows.test)})
        metrics |= loop.train_and_save(trainer, tokenizer)
        loop.count(run, rows)
        metrics |= measuring.take(run, {
            "held-out loss": lambda: measuring.held_out(trainer),
            "stops": lambda: measuring.stop_rate(trainer, rows, tokenizer, metrics["tokens"]),
        })  # fmt: skip
        gates.keep(args.output_dir, gates.sft(metrics), missing=run.not_measured)
        loop.finish(run, metrics)
    loop.show("held-out demonstrations", metrics, ("loss_before", "eval_loss", "eval_mean_token_accuracy", "stops",
                                                  "stops_prompts"))  # fmt: skip


if __name__ == "__main__":
    launch.run(main)
