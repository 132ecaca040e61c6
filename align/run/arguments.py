"""The arguments that recipes share, as dataclasses: the run, its batch, its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align.run.errors import fail


@dataclass
class RunArguments:
    """What every recipe takes beside its own arguments."""

    overwrite: bool = field(default=False, metadata={"help": "Replace the finished run that output_dir holds."})
    accept_failed: list[str] = field(
        default_factory=list, metadata={"help": "Runs that may be parents although their gate failed."}
    )


@dataclass
class TrialArguments:
    """What every recipe takes that trains or samples."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Try it with the longest rows, tell memory and time, and leave nothing behind: of a training a few "
            "steps and a checkpoint, of what samples a few batches."
        },
    )


@dataclass
class BatchArguments(RunArguments, TrialArguments):
    """What every training recipe takes as well."""

    global_batch_size: int = field(
        default=16,
        metadata={
            "help": "Rows per optimizer step over all processes. Accumulation is derived from it, the number of "
            "processes and per_device_train_batch_size (the most that fits one device at once)."
        },
    )
    find_batch_size: bool = field(
        default=False,
        metadata={
            "help": "Where memory runs out in the first two steps, begin again with half of "
            "per_device_train_batch_size, and the same global batch."
        },
    )


@dataclass
class CodeArguments:
    """What every recipe takes that loads checkpoints, where TRL's own arguments do not have it."""

    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code that comes with a checkpoint, with your rights. Without it such ones are refused."},
    )


@dataclass
class DataArguments:
    """Which rows to read. The names are TRL's; `columns`, `max_*_rows` and `max_dropped` are ours."""

    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, local file, folder or finished run."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a hub data set."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(default="test", metadata={"help": "Split to evaluate on, where there is one."})
    datasets: list[dict] = field(
        default_factory=list,
        metadata={"help": "A mixture (YAML only): list of {path, name, split, columns, fraction, rows}."},
    )
    test_split_size: float | None = field(
        default=None,
        metadata={
            "help": "Share (0 to 1) or number of rows held out where there is no test split (0: none); rows with the "
            "same prompt stay on one side."
        },
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Column mapping, `theirs=ours`: question=user answer=assistant, or text=prompt sum=completion."
        },
    )
    prompt_format: str = field(
        default="auto",
        metadata={
            "help": "What a string in the column prompt is. auto: plain text as in TRL, unless the row holds messages, "
            "a system prompt, a history or tools; chat: a user's turn; text: plain text, as questions are then too.",
            "choices": ["auto", "chat", "text"],
        },
    )
    template_date: str | None = field(
        default=None,
        metadata={
            "help": "YYYY-MM-DD, for chat templates that read today's date (Llama 3.2, gpt-oss): the date that this "
            "run and its children keep. Default: the parent's, or a resumed run's, or today."
        },
    )
    max_train_rows: int | None = field(default=None, metadata={"help": "Use at most so many rows for training."})
    max_eval_rows: int | None = field(default=None, metadata={"help": "Use at most so many rows for evaluation."})
    sample_by: str = field(
        default="paragraph",  # datasets' is `line`, which makes a document of every line of a broken paragraph
        metadata={
            "help": "What is one row of a .txt file: what stands between blank lines, a line, or the whole file.",
            "choices": ["paragraph", "line", "document"],
        },
    )
    max_dropped: float = field(
        default=0.01, metadata={"help": "Largest share of rows that may be dropped for what they hold."}
    )
    max_too_long: float = field(
        default=0.1,  # of HH's transcripts 4 % are longer than 1,024 tokens
        metadata={"help": "Largest share of rows that may be dropped because they are too long."},
    )
    dataset_num_proc: int | None = field(
        default=None,
        metadata={"help": "Processes that prepare the rows; by default one a core, and fewer for few rows."},
    )
    preview: bool = field(
        default=False,
        metadata={"help": "Show three rows, what is learnt of them marked, and stop before a model is loaded."},
    )

    def parents(self) -> dict[str, str | None]:
        """Where the rows come from, by role, for the record's lineage."""
        if self.datasets:
            return {f"data_{number}": entry["path"] for number, entry in enumerate(self.datasets)}
        return {"data": self.dataset_name}


@dataclass
class PromptArguments:
    """What every recipe takes that samples."""

    max_prompt_length: int = field(
        default=1024, metadata={"help": "Tokens of the longest prompt; longer ones are dropped and counted."}
    )


@dataclass
class StreamArguments:
    """What a recipe takes that can train on rows as they arrive."""

    dataset_streaming: bool = field(
        default=False, metadata={"help": "Read the rows to train on as they arrive, not first; needs max_steps."}
    )
    shuffle_buffer_size: int = field(
        default=1_000,  # datasets' own
        metadata={"help": "Of a stream: how many examples wait, for the next one to be drawn from (0: in order)."},
    )


@dataclass
class PairArguments:
    """How recipes that learn from pairs make them of rankings, and put them into batches."""

    ties: str = field(
        default="drop",
        metadata={
            "help": "Rankings, to train on: a tie gives no pair, or (half) both directions with half the weight.",
            "choices": ["drop", "half"],
        },
    )
    pair_weights: str = field(
        default="prompt",  # Ouyang et al. 2022, eq. 1
        metadata={
            "help": "Rankings, to train on: the pairs of every prompt weigh the same in all, or every pair does.",
            "choices": ["prompt", "pair"],
        },
    )
    annotators: list[str] = field(
        default_factory=list, metadata={"help": "Rankings: use those of these annotators only (default: of all)."}
    )
    aggregate: str = field(
        default="each",
        metadata={
            "help": "Rankings by several annotators: each one counts, or the majority decides every pair.",
            "choices": ["each", "majority"],
        },
    )
    pairs_together: bool = field(
        default=True,  # Ouyang et al. 2022, section 3.5
        metadata={"help": "Train on the pairs of one prompt next to each other. The reward model does, DPO does not."},
    )


def derive_batch(run: BatchArguments, args: Any, world_size: int) -> None:
    """Set the micro-batch and the accumulation so that one optimizer step sees `global_batch_size` rows.

    `args.per_device_train_batch_size` is read as the most that fits one device; the largest divisor of each process's
    share that does not exceed it becomes the micro-batch. A changed number of processes does not change the recipe.
    """
    share, rest = divmod(run.global_batch_size, world_size)
    if rest or share == 0:
        fail([f"global_batch_size={run.global_batch_size} cannot be shared by {world_size} processes: use a multiple"])
    most = args.per_device_train_batch_size
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    args.per_device_train_batch_size = micro
    args.gradient_accumulation_steps = share // micro
