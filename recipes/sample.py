"""Sample K completions per prompt from any checkpoint, as a data set: for people or a model to rank.

    accelerate launch recipes/sample.py                                       # the nano family's stage
    accelerate launch recipes/sample.py --model_name_or_path runs/mine/sft --dataset_name my_prompts.jsonl \
        --num_generations 4 --output_dir runs/mine/sample

Every batch has a seed of its own, so the number of processes and an interruption change nothing in what comes out.
"""

from align.data import prepare
from align.models import checkpoints, sample
from align.run import device, launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.parse import parse, resolved


def main():
    run_args, data_args, args = parse(
        RunArguments, DataArguments, sample.SampleConfig, nano="recipes/nano/sample.yaml",
        required=("model_name_or_path", "output_dir"),
    )  # fmt: skip
    launch.check()
    checkpoints.check(args.model_name_or_path)
    tokenizer = checkpoints.load_tokenizer(args.model_name_or_path, date=data_args.template_date)
    rows = prepare.rows(data_args, "prompt", tokenizer, max_length=args.max_prompt_length, seed=args.seed)

    config = resolved(run_args, data_args, args)
    with record.start(
        "sample", args.output_dir, config, overwrite=run_args.overwrite, resume=launch.resumes(args)
    ) as run:
        run.note(parents=lineage.parents({"model": args.model_name_or_path, **data_args.parents()}))
        run.note(data=rows.as_dict())
        if launch.is_main_process():
            print(rows, flush=True)
        policy = checkpoints.load_trained(args.model_name_or_path, tokenizer)
        run.note(resumable=True, dtype=str(policy.dtype).removeprefix("torch."), **device.facts())
        metrics = sample.sample_splits(policy, tokenizer, rows, args)
        run.finish("complete", metrics=metrics, tokens=metrics["tokens"])
    if launch.is_main_process():
        print(f"{metrics['completions']:,} completions: {metrics['stops']:.1%} stop by themselves, mean length "
              f"{metrics['length']:.1f} tokens, {metrics['distinct']:.1%} of a prompt's differ")  # fmt: skip


if __name__ == "__main__":
    launch.run(main)
