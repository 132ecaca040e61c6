"""Train a tokenizer on plain text: BPE or WordPiece, with special tokens and a chat template, pad apart from eos.

    python recipes/tokenizer.py                                               # the nano family's stage
    python recipes/tokenizer.py --dataset_name my_text/ --tokenizer_type wordpiece --vocab_size 8000 \
        --output_dir runs/mine/tokenizer
"""

from align.data import prepare
from align.models import tokenizer
from align.run import launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.parse import parse, resolved


def main():
    run_args, data_args, args = parse(
        RunArguments, DataArguments, tokenizer.TokenizerConfig,
        nano="recipes/nano/tokenizer.yaml",
        refused=prepare.TEXTS_REFUSED | {"preview": "there are no tokens yet; pretraining has it"},
    )  # fmt: skip
    rows = prepare.texts(data_args, seed=args.seed)
    config = resolved(run_args, data_args, args)
    with record.start("tokenizer", args.output_dir, config, overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({**data_args.parents()}), data=rows.as_dict())
        trained = tokenizer.train(rows.train, args, data_args.template_date)
        trained.save_pretrained(args.output_dir)
        metrics = tokenizer.measure(trained, rows.test or rows.train)
        run.finish("complete", metrics=metrics)
    print(rows)
    print(f"{args.tokenizer_type}, {metrics['vocab_size']:,} tokens; on {'held-out' if rows.test else 'its own'} text: "
          f"{metrics['fertility']:.2f} tokens per word, {metrics['bytes_per_token']:.2f} bytes per token")  # fmt: skip


if __name__ == "__main__":
    launch.run(main)
