"""Raw documents to a cleaned corpus: rules, unwanted content, decontamination, duplicates, personal data, a data card.

    python recipes/clean.py                                                  # the nano family's stage
    python recipes/clean.py --input crawl/ books.jsonl.gz --output_dir runs/mine/clean
    align review runs/mine/clean                                             # decide on what the rules are unsure of
    python recipes/clean.py --input crawl/ books.jsonl.gz --output_dir runs/mine/clean --overwrite

The steps are datatrove's filters and blocks with the papers' thresholds (align/clean/config.py names the paper of
each); any is left out with --skip. It streams, uses every core, and goes on after a kill with
--resume_from_checkpoint last; the output is the same for any number of workers.
"""

from align.clean.config import CleanConfig, RuleConfig
from align.run import launch, record
from align.run.arguments import RunArguments
from align.run.parse import parse, resolved


def main():
    run_args, args, rules = parse(
        RunArguments, CleanConfig, RuleConfig, nano="recipes/nano/clean.yaml", required=("input", "output_dir")
    )
    from align.clean import checks, program
    from align.clean.card import outcome
    from align.clean.read import inputs

    launch.refuse(launch.ONE_PROCESS)
    found = checks.check(args, rules)
    with record.start(
        "clean", args.output_dir, resolved(run_args, args, rules), overwrite=run_args.overwrite,
        resume=launch.resumes(args), compared=False,
    ) as run:  # fmt: skip
        run.note(parents=inputs.parents(args, found.entries))
        card = program.clean(args, rules, found, run)
        run.finish("complete", metrics=card["totals"] | card["speed"], tokens=card["totals"]["tokens_out"])
    program.tidy(args)
    print(outcome.table(card, args.output_dir))


if __name__ == "__main__":
    launch.run(main, again="--resume_from_checkpoint last")
