"""`align merge-adapter runs/x --output_dir …`: an adapter and its base as one ordinary checkpoint.

All is made beside the output folder and moved there when it is whole: what fails leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.models import adapters, checkpoints, weights
from align.report import model_card
from align.run import lineage, record
from align.run.arguments import CodeArguments, RunArguments
from align.run.errors import ConfigError, RunError
from align.run.parse import parse, resolved

TRIAL = "The capital of France is Paris, and the capital of Italy is Rome."
APART = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}  # logits of whole and of attached weights, by rounding alone


@dataclass
class MergeAdapterConfig(CodeArguments):
    """Which adapter, and where it goes."""

    adapter: str | None = field(default=None, metadata={"help": "A run under LoRA, or any adapter's folder."})
    output_dir: str | None = field(default=None, metadata={"help": "Where the whole checkpoint is written."})
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of what is written; it is merged in float32, and in less small changes may round away.",
            "choices": list(APART),
        },
    )

    def __post_init__(self) -> None:
        if self.adapter and (problem := lineage.parent_problem(self.adapter, allow_hub=True)):
            raise ValueError(problem)


def main(argv: list[str]) -> None:
    """Merge, write, read again, compare, record."""
    run_args, args = parse(
        RunArguments, MergeAdapterConfig, nano=None, required=("adapter", "output_dir"), argv=argv, gated=False
    )
    path, out = str(args.adapter), Path(str(args.output_dir))
    folder = adapters.located(path)
    if folder is None:
        raise ConfigError(
            f"{path} is no adapter: its weights are whole already, and every program loads them as they are"
        )
    checkpoints.check(path)
    record.check(out, "merge-adapter", overwrite=run_args.overwrite)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with record.stoppable(), tempfile.TemporaryDirectory(prefix=".merge-", dir=out.absolute().parent) as name:
        made = Path(name)
        apart = write(path, folder, args.dtype, made)
        config = resolved(run_args, args)
        with record.start("merge-adapter", str(out), config, overwrite=run_args.overwrite) as run:
            for file in sorted(made.iterdir()):
                shutil.move(file, out / file.name)
            run.note(parents=lineage.parents({"model": path}))
            run.finish("complete", metrics={"logits_apart": apart})
            model_card.write(out, run.record)
    print(f"{out}: {path} and its base as one, in {args.dtype}; logits within {apart:.1g} of the adapter's on its base")


def write(path: str, folder: Path, dtype: str, out: Path) -> float:
    """Write an adapter's merged weights and its tokenizer: how far its logits are from those before, at most.

    Raises:
        ConfigError: for an adapter that cannot be merged.
        RunError: if what was written says something else.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = checkpoints.load_tokenizer(path)
    ids = tokenizer(TRIAL, return_tensors="pt")
    before = _logits(adapters.attached(path, folder, torch.float32), ids)
    model = adapters.merged(path, folder, torch.float32).to(getattr(torch, dtype))
    weights.make_savable(model).save_pretrained(out)
    tokenizer.save_pretrained(out)
    scores = adapters.settings(folder).get("task_type") == "SEQ_CLS"
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    after = _logits(weights.from_pretrained(kind, str(out), dtype=getattr(torch, dtype)), ids)
    width = min(before.shape[-1], after.shape[-1])  # a base may have rows to spare
    apart = (before[..., :width] - after[..., :width]).abs().max().item()
    if not apart <= APART[dtype] * max(1.0, before.abs().max().item() / 10):
        raise RunError(f"{path}: what was merged says something else than the adapter on its base (by {apart:.2g})")
    return apart


def _logits(model: Any, ids: Any) -> Any:
    """Of the trial text, in fp32: [1, T, V], of a reward model [1, 1]."""
    import torch

    with torch.no_grad():
        return model.eval()(**ids).logits.float()
