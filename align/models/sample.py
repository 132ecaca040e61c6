"""K completions per prompt, written as they come, resumable, the same for any number of processes."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from accelerate import PartialState
from tqdm.auto import tqdm

from align.data.preview import ROWS, Preview, coloured
from align.models.generate import complete
from align.run.arguments import CodeArguments, PromptArguments, TrialArguments
from align.run.trial import telling, throwaway


@dataclass
class SampleConfig(PromptArguments, CodeArguments, TrialArguments):
    """What the sample recipe takes beside the data's arguments."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to sample from, adapters included."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the completions."})
    num_generations: int = field(default=4, metadata={"help": "K, the completions per prompt."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion."})
    temperature: float = field(
        default=1.0, metadata={"help": "Of sampling; 0 takes the most likely token (and K = 1)."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Prompts at once."})
    seed: int = field(default=0, metadata={"help": "Of the sampling."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "`last`: go on with an interrupted run."}
    )

    def __post_init__(self) -> None:
        if self.num_generations < 1 or (self.temperature == 0 and self.num_generations > 1):
            raise ValueError(
                f"num_generations={self.num_generations} with temperature={self.temperature}: K is at least 1, and "
                "greedy completions of one prompt are all the same; raise --temperature or use --num_generations 1"
            )


def sample_splits(policy: Any, tokenizer: Any, splits: Any, args: SampleConfig) -> dict[str, Any]:
    """Sample for every split and write `<output_dir>/data/<split>.jsonl`: the prompt's row with `completions`.

    A split whose file is there was finished before an interruption, and is not sampled again.

    Returns:
        Counts and rates over all completions: `completions`, `tokens`, `stops`, `length` (tokens), `distinct`.
    """
    if throwaway.asked():
        _rehearse(policy, tokenizer, [rows for rows in (splits.train, splits.test) if rows is not None], args)
    state = PartialState()
    folder = Path(str(args.output_dir)) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[int] = []
    stops: list[bool] = []
    distinct: list[float] = []
    for split, rows in (("train", splits.train), ("test", splits.test)):
        if rows is None:
            continue
        file = folder / f"{split}.jsonl"
        if not file.is_file():
            part = folder / f".{split}.{state.process_index}.part"
            _sample_missing(policy, tokenizer, rows, args, part, _read_parts(folder, split))
            state.wait_for_everyone()
            if state.is_main_process:
                _merge(file, rows, _read_parts(folder, split))
        state.wait_for_everyone()
        for line in file.open():
            sampled = json.loads(line)
            lengths += sampled["lengths"]
            stops += sampled["stopped"]
            answers = {said if isinstance(said, str) else said[0]["content"] for said in sampled["completions"]}
            distinct.append(len(answers) / len(sampled["completions"]))
    n = len(lengths)
    return {
        "completions": n,
        "tokens": sum(lengths),
        "stops": sum(stops) / n,
        "length": sum(lengths) / n,
        "distinct": sum(distinct) / len(distinct),
    }


def _rehearse(policy: Any, tokenizer: Any, splits: list[Any], args: SampleConfig) -> NoReturn:
    """A dry run: a batch of the longest prompts with answers of full length, one of prompts of middling length with
    answers as they come, the report, and the end of the program."""
    from accelerate.utils import gather_object

    state, size = PartialState(), args.per_device_eval_batch_size
    prompts = sorted((ids for rows in splits for ids in rows["input_ids"]), key=len)
    middle = max(0, (len(prompts) - size) // 2)
    seconds = [
        _seconds(policy, tokenizer, some, args, ends=ends)
        for some, ends in ((prompts[-size:], False), (prompts[middle : middle + size], True))
    ]
    batches = sum(math.ceil(math.ceil(len(rows) / size) / state.num_processes) for rows in splits)
    found = gather_object([telling.held()])
    if state.is_main_process:
        page = Preview(tokenizer, colour=coloured())
        some = itertools.islice((ids for rows in splits for ids in rows["input_ids"]), ROWS)
        shown = [line for n, ids in enumerate(some, 1) for line in page.example(f"row {n}", {"input_ids": ids})]
        lines = [
            f"rows      {min(size, len(prompts))} of the longest prompts, of up to {len(prompts[-1]):,} tokens, with "
            f"{args.num_generations} answers of {args.max_new_tokens:,} tokens each; then some of middling length",
            telling.memory(found),
            f"time      {seconds[1]:.3g} s a batch of middling length ({seconds[0]:.3g} s where no answer ends)",
            f"ETA       {telling.clock(seconds[1] * batches)} for {batches:,} batches a process",
            telling.saved(),
        ]
        telling.show("Dry run of sample: 2 batches.", lines, ["", *page.legend(), *shown])
    state.wait_for_everyone()
    raise SystemExit(0)


def _seconds(policy: Any, tokenizer: Any, prompts: list[list[int]], args: SampleConfig, *, ends: bool) -> float:
    """What a batch takes; without `ends`, where no answer ends before its longest length."""
    settings, begun = policy.generation_config, time.perf_counter()
    stops, settings.eos_token_id = settings.eos_token_id, settings.eos_token_id if ends else []
    answers = complete(
        policy, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
        per_prompt=args.num_generations, batch_size=len(prompts), seed=args.seed,
    )  # fmt: skip
    assert len(list(answers)) == len(prompts)
    settings.eos_token_id = stops
    return time.perf_counter() - begun


def _sample_missing(
    policy: Any, tokenizer: Any, rows: Any, args: SampleConfig, part: Path, done: dict[int, dict]
) -> None:
    """This process's share of the batches, those already on disk left out; one line is written per prompt."""
    state = PartialState()
    batches = complete(
        policy, tokenizer, rows["input_ids"], max_new_tokens=args.max_new_tokens, temperature=args.temperature,
        per_prompt=args.num_generations, batch_size=args.per_device_eval_batch_size, seed=args.seed,
        share=(state.process_index, state.num_processes), skip=set(done),
    )  # fmt: skip
    remaining = (len(rows) - len(done)) // state.num_processes
    with part.open("a") as stream:
        stream.write("\n")  # ends the line that a kill may have cut
        pace = 0.1 if sys.stderr.isatty() else 30.0  # in a log file each drawing stays
        off = not state.is_main_process
        for index, completions in tqdm(batches, total=remaining, desc="prompts", mininterval=pace, disable=off):
            line = {
                "index": index,
                "completions": [c.text for c in completions],
                "reasoning": [c.reasoning for c in completions],
                "stopped": [c.stopped for c in completions],
                "lengths": [len(c.ids) for c in completions],
            }
            stream.write(json.dumps(line) + "\n")
            stream.flush()


def _read_parts(folder: Path, split: str) -> dict[int, dict]:
    """What has been sampled so far, by prompt; the line that a kill cut in half is left out."""
    found = {}
    for part in folder.glob(f".{split}.*.part"):
        for line in part.read_text().split("\n"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[row.pop("index")] = row
    return found


def _merge(file: Path, rows: Any, done: dict[int, dict]) -> None:
    """All prompts in their order into one file, messages for messages and text for text.

    What a row said of completions that it came with (ranks, verdicts) is gone: its reader leaves it out.
    """
    part = file.with_name(file.name + ".part")
    with part.open("w") as stream:
        for index, row in enumerate(rows):
            row = {key: value for key, value in row.items() if key != "input_ids" and value is not None}
            sampled = dict(done[index])
            thoughts = sampled.pop("reasoning")
            if not isinstance(row["prompt"], str):
                pairs = zip(sampled["completions"], thoughts, strict=True)
                sampled["completions"] = [[_answer(text, thought)] for text, thought in pairs]
            stream.write(json.dumps({**row, **sampled}, ensure_ascii=False) + "\n")
    part.replace(file)
    for left in file.parent.glob(f".{file.stem}.*.part"):
        left.unlink()


def _answer(text: str, thought: str) -> dict[str, str]:
    """An assistant's message with the reasoning before it, where there was some."""
    return {"role": "assistant", "content": text} | ({"reasoning_content": thought} if thought else {})
