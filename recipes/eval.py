"""Measure frozen models on held-out prompts: reward, KL, win rates, honesty, harm, personas, what alignment cost.

    accelerate launch recipes/eval.py                                         # the nano family's: base, SFT, PPO, DPO
    accelerate launch recipes/eval.py --models sft=runs/mine/sft dpo=runs/mine/dpo --dataset_name my_prompts.jsonl \
        --reward_model_path runs/mine/reward --pairs my_pairs.jsonl --suites xstest=xstest_prompts.csv \
        --output_dir runs/mine/eval

Adapters are models too. The first model is the reference of KL and win rates, unless --reference_model_path names one.
"""

from align.evaluate import evaluation, program
from align.evaluate.config import EvalConfig
from align.judge.protocol import JudgeConfig
from align.models import checkpoints
from align.run import launch, lineage, record
from align.run.arguments import DataArguments
from align.run.parse import parse, resolved


def main():
    args, data_args, judge = parse(EvalConfig, DataArguments, JudgeConfig, nano="recipes/nano/eval.yaml", gated=False)
    launch.check(launch.ONE_PROCESS)
    program.check_models(args)
    tokenizer = checkpoints.load_tokenizer(args.reference(), date=program.template_date(args, data_args))
    rows, report = evaluation.prompts(data_args, tokenizer, args)
    rows, leaks = program.held_out(rows, args)

    config = resolved(args, data_args, judge)
    with record.start("eval", args.output_dir, config, overwrite=args.overwrite, reopen=True) as run:
        run.note(parents=lineage.parents({**args.graders(), **args.named(), **data_args.parents()}), leaks=leaks)
        run.note(data={"prompts": report.as_dict()})
        results, rows_of = evaluation.evaluate(args, tokenizer, rows, judge)
        page = program.write(results, rows_of, args, run.record)
        run.finish("complete", metrics=program.headline(results))
    print(program.show(results), f"\n\nthe report: {page}", sep="")


if __name__ == "__main__":
    launch.run(main)
