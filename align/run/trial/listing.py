"""What a chain would do: its stages, and which of them are finished."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from align.run import pipeline
from align.run.pipeline import PipelineConfig
from align.run.received import records


def show(args: PipelineConfig) -> NoReturn:
    """Print every stage with what would be done with it, and end the program. Nothing is made or changed."""
    known = records.read_ledger(Path(str(args.output_dir)) / "pipeline.json")
    made = False  # a stage above that would be: what reads it may then be out of date
    print(f"Dry run of the pipeline: {len(args.stages)} stages to {args.output_dir}.")
    for number, entry in enumerate(args.stages, 1):
        stage = pipeline.plan(entry, args)
        extra = pipeline.how_to_start(stage, known)
        if extra is None:
            what = "finished, and made again if what it reads changes" if made else "finished, and left as it is"
        elif "--resume_from_checkpoint" in extra:
            what = "would go on where it stopped"
        else:
            what = "would be made again" if extra else "would be made"
        made = made or extra is not None
        print(f"  {number:>2} {stage.name}: {what} ({' '.join([*stage.program, *stage.argv])})")
    print("Nothing was started or written; leave --dry_run out to go on.", flush=True)
    raise SystemExit(0)
