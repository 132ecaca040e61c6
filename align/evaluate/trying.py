"""A dry run of an evaluation: every model on one batch of the longest prompts, and what that says of all of them."""

from __future__ import annotations

import math
import time
from typing import Any, NoReturn

from align.data.preview import ROWS, Preview, coloured
from align.evaluate import policy
from align.evaluate.config import EvalConfig
from align.evaluate.policy import Bench, Rows
from align.run.trial import telling


def rehearse(args: EvalConfig, tokenizer: Any, rows: Rows) -> NoReturn:
    """Load every model, sample and score one batch, print the report, and end the program. What is no sampling of the
    prompts (suites, personas, pairs, texts, a judge) is not tried."""
    size = max(1, args.per_device_eval_batch_size // args.num_generations)
    some = sorted(rows, key=lambda row: -len(row["input_ids"]))[:size]
    begun = time.perf_counter()
    bench = Bench(args, tokenizer, some, args.reference())
    loading, seconds = time.perf_counter() - begun, {}
    for name, path in args.named().items():
        begun = time.perf_counter()
        policy.measure(bench, path, seed=args.seed)
        seconds[name] = time.perf_counter() - begun
    batches = math.ceil(len(rows) / size)
    told = ", ".join(f"{name} {one:.3g} s" for name, one in seconds.items())
    page = Preview(tokenizer, colour=coloured())
    shown = [line for number, row in enumerate(rows[:ROWS], 1)
             for line in page.example(f"row {number}", {"input_ids": row["input_ids"]})]  # fmt: skip
    lines = [
        f"rows      {len(some)} of the longest prompts, of up to {len(some[0]['input_ids']):,} tokens, answered by "
        f"each model with up to {args.num_generations} x {args.max_new_tokens:,} tokens",
        telling.memory([telling.held()]),
        f"time      reference and graders loaded in {loading:.3g} s; {told} a batch, loading included",
        f"ETA       {telling.clock(loading + sum(seconds.values()) * batches)} at most for {batches:,} batches a "
        "model, without suites, personas, pairs, texts and a judge",
        telling.saved(),
    ]
    telling.show(f"Dry run of eval: 1 batch of {len(seconds)} models.", lines, ["", *page.legend(), *shown])
    raise SystemExit(0)
