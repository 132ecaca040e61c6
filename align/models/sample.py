"""K completions per prompt, written as they come, resumable, the same for any number of processes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from align.models.generate import complete
from align.run.arguments import PromptArguments


@dataclass
class SampleConfig(PromptArguments):
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

    Returns:
        Counts and rates over all completions: `completions`, `tokens`, `stops`, `length` (tokens), `distinct`.
    """
    state = PartialState()
    folder = Path(str(args.output_dir)) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[int] = []
    stops: list[bool] = []
    distinct: list[float] = []
    for split, rows in (("train", splits.train), ("test", splits.test)):
        if rows is None:
            continue
        done = _read_parts(folder, split)
        part = folder / f".{split}.{state.process_index}.part"
        _sample_missing(policy, tokenizer, rows, args, part, done)
        state.wait_for_everyone()
        done = _read_parts(folder, split)
        for sampled in done.values():
            lengths += sampled["lengths"]
            stops += sampled["stopped"]
            distinct.append(len(set(sampled["completions"])) / len(sampled["completions"]))
        if state.is_main_process:
            _merge(folder, split, rows, done)
        state.wait_for_everyone()
    n = len(lengths)
    return {
        "completions": n,
        "tokens": sum(lengths),
        "stops": sum(stops) / n,
        "length": sum(lengths) / n,
        "distinct": sum(distinct) / len(distinct),
    }


def _sample_missing(
    policy: Any, tokenizer: Any, rows: Any, args: SampleConfig, part: Path, done: dict[int, dict]
) -> None:
    """This process's share of the batches, those already on disk left out; one line is written per prompt."""
    state = PartialState()
    batches = complete(
        policy, tokenizer, list(rows["input_ids"]), max_new_tokens=args.max_new_tokens, temperature=args.temperature,
        per_prompt=args.num_generations, batch_size=args.per_device_eval_batch_size, seed=args.seed,
        share=(state.process_index, state.num_processes), skip=set(done),
    )  # fmt: skip
    remaining = (len(rows) - len(done)) // state.num_processes
    with part.open("a") as stream:
        stream.write("\n")  # ends the line that a kill may have cut
        for index, completions in tqdm(batches, total=remaining, desc="prompts", disable=not state.is_main_process):
            line = {
                "index": index,
                "completions": [c.text for c in completions],
                "stopped": [c.stopped for c in completions],
                "lengths": [len(c.ids) for c in completions],
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
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


def _merge(folder: Path, split: str, rows: Any, done: dict[int, dict]) -> None:
    """All prompts in their order into one file, messages for messages and text for text."""
    with (folder / f"{split}.jsonl.part").open("w") as stream:
        for index, row in enumerate(rows):
            row = {k: v for k, v in row.items() if k != "input_ids"}
            sampled = done[index]
            if not isinstance(row["prompt"], str):
                answers = [[{"role": "assistant", "content": text}] for text in sampled["completions"]]
                sampled = {**sampled, "completions": answers}
            stream.write(json.dumps({**row, **sampled}, ensure_ascii=False) + "\n")
    (folder / f"{split}.jsonl.part").replace(folder / f"{split}.jsonl")
    for part in folder.glob(f".{split}.*.part"):
        part.unlink()
