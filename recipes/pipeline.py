"""Run a list of stages, each one recipe: skip what is finished, resume what was interrupted, stop at the first failure.

python recipes/pipeline.py                                                # the nano chain: `make demo`
python recipes/pipeline.py --config my_chain.yaml --seed 1 --output_dir runs/mine
"""

from pathlib import Path

from align.run import launch
from align.run.parse import parse
from align.run.pipeline import PipelineConfig, reports, run_stages, talkers
from align.run.trial import listing


def main():
    (args,) = parse(PipelineConfig, nano="recipes/nano/pipeline.yaml")
    if args.dry_run:
        listing.show(args)
    stages = run_stages(args)
    seconds = sum(stage["wall_seconds"] for stage in stages)
    print(
        f"\n{len(stages)} stages in {seconds / 60:.1f} minutes; the runs' records: {Path(args.output_dir)}/*/run.json"
    )
    print("\n".join(f"the report: {page}" for page in reports(stages)))
    if found := talkers(stages):
        print(f"talk to what was made: align chat {' '.join(found)}")


if __name__ == "__main__":
    launch.run(main)
