"""Compare PPO with DPO, and best-of-n, from one SFT model: strengths x seeds, one page with a verdict.

    accelerate launch recipes/compare.py                                      # the nano family's comparison
    accelerate launch recipes/compare.py --config my_comparison.yaml --output_dir runs/mine/compare

Trains the arms that are missing (or takes finished runs: `take`), measures them alike on held-out prompts, refuses runs
that differ in more than method, strength and seed, and writes report.html, report.md and results.json. The same command
goes on after an interruption and runs nothing twice.
"""

from pathlib import Path

from align.compare import arms, comparable, program
from align.compare.config import CompareConfig
from align.evaluate.evaluation import prompts
from align.evaluate.policy import Bench
from align.judge.protocol import JudgeConfig
from align.models import checkpoints
from align.run import launch, record
from align.run.arguments import DataArguments
from align.run.launch import ONE_PROCESS as REFUSED
from align.run.parse import parse, resolved


def main():
    args, data_args, judge = parse(
        CompareConfig, DataArguments, JudgeConfig, nano="recipes/nano/compare.yaml",
        required=("model_name_or_path", "output_dir"),
    )  # fmt: skip
    launch.check(REFUSED)
    sft = args.model_name_or_path
    program.check_models(args)
    tokenizer = checkpoints.load_tokenizer(sft, date=program.template_date(args, data_args))
    rows, report = prompts(data_args, tokenizer, args)
    rows, leaks = program.held_out(rows, data_args, args)
    runs = arms.plan(args, data_args, Path(__file__).parent)
    taken = [arm for arm in runs if arm.stage is None]
    comparable.check(taken, args, data_args)  # before anything is trained

    config = resolved(args, data_args, judge)
    with record.start("compare", args.output_dir, config, overwrite=args.overwrite, reopen=True) as run:
        run.note(parents=program.parents(args, data_args), leaks=leaks)
        run.note(data={"prompts": report.as_dict()})
        arms.train(runs, args)
        comparable.check(runs, args, data_args)
        results = program.compare(runs, Bench(args, tokenizer, rows, sft), judge)
        page = program.write(results, runs, args, run.record)
        run.finish("complete", metrics=program.headline(results))
    print(program.show(results), f"\n\nthe report: {page}", sep="")


if __name__ == "__main__":
    launch.run(main)
