"""Pretrain a language model from scratch, or continue one, on plain text.

    accelerate launch recipes/pretrain.py                                     # the nano family's stage
    accelerate launch recipes/pretrain.py --model_name_or_path HuggingFaceTB/SmolLM2-135M \
        --dataset_name my_text/ --max_length 2048 --output_dir runs/mine/pretrain

Documents are packed into blocks; no document attends to another, and none predicts the next one's first token.
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from transformers import Trainer
from trl import ModelConfig

from align.data import prepare
from align.data.large import stream
from align.models import checkpoints
from align.run import launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments, StreamArguments, derive_batch
from align.run.parse import parse, resolved
from align.train import loop, measuring, preflight, pretrain

DEFAULTS = dict(
    learning_rate=3e-4,  # GPT-3's for models of this size and up (Brown et al. 2020, table 2.1)
    lr_scheduler_type="cosine",
    warmup_steps=0.02,
    adam_beta2=0.95,  # Brown et al. 2020
    weight_decay=0.1,  # Brown et al. 2020
    num_train_epochs=1,
    global_batch_size=64,
    per_device_train_batch_size=16,
    **launch.TRAINER_DEFAULTS,
)


def main():
    run_args, data_args, stream_args, model_args, args = parse(
        BatchArguments, DataArguments, StreamArguments, ModelConfig, pretrain.PretrainConfig,
        nano="recipes/nano/pretrain.yaml", defaults=DEFAULTS, refused=prepare.TEXTS_REFUSED, size=pretrain.size,
    )  # fmt: skip
    pretrain.check(model_args, args)
    launch.check(seed=args.seed)
    derive_batch(run_args, args, launch.world_size())
    source = model_args.model_name_or_path if args.model_config is None else args.tokenizer_name_or_path
    if args.model_config is None:
        checkpoints.check(source, revision=model_args.model_revision)
    tokenizer = checkpoints.load_tokenizer(source, revision=model_args.model_revision, date=data_args.template_date)
    how = stream.how(stream_args, args)
    corpus = pretrain.corpus(data_args, tokenizer, length=args.max_length, seed=args.seed, how=how)
    preflight.check(args, model_args, source if args.model_config is None else None, corpus)

    config = resolved(run_args, data_args, stream_args, model_args, args)
    with record.start(
        "pretrain", args.output_dir, config, overwrite=run_args.overwrite, resume=launch.resumes(args)
    ) as run:
        run.note(parents=lineage.parents({"model": source, **data_args.parents()}), data=corpus.as_dict())
        if args.model_config is None:
            policy = checkpoints.load_policy(
                checkpoints.resolve_parent(source, args.output_dir, model_args, tokenizer), model_args, tokenizer
            )
        else:
            policy = pretrain.new_model(args.model_config, tokenizer, model_args.attn_implementation)
        trainer = loop.build(
            Trainer, policy, args, data_collator=pretrain.collate, train_dataset=corpus.train, eval_dataset=corpus.test,
            processing_class=tokenizer, callbacks=loop.callbacks(run),
        )  # fmt: skip
        loop.describe(trainer, run, corpus, args, "pretrain", source)
        metrics = loop.train_and_save(trainer, tokenizer)
        loop.count(run, corpus)
        metrics |= measuring.take(run, {"held-out text": lambda: pretrain.held_out(trainer, corpus)})
        loop.finish(run, metrics)
    loop.show("held-out text", metrics, ("loss", "perplexity", "bits_per_byte"))


if __name__ == "__main__":
    launch.run(main)
