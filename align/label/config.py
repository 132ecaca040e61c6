"""What `align label` takes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LabelArguments:
    """What is ranked, where the rankings are kept, and how often each item is asked about."""

    source: str | None = field(
        default=None,
        metadata={"help": "A run of the sample recipe, rows with prompt and completions, or a folder with labels."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where the labels are kept; default: `label` beside a run, `label-<name>` beside a file."},
    )
    overlap: int | None = field(
        default=None, metadata={"help": "How many persons rank each item; 1, or what the labels file says already."}
    )
    repeats: float | None = field(
        default=None,
        # one in twenty costs little, and after 200 items there are ten to read self-consistency off
        metadata={"help": "Share of a person's items shown again later, in another order; 0.05, or the file's own."},
    )

    def __post_init__(self) -> None:
        if self.overlap is not None and self.overlap < 1:
            raise ValueError(f"overlap={self.overlap}: each item is ranked by 1 person or more")
        if self.repeats is not None and not 0 <= self.repeats <= 1:
            raise ValueError(f"repeats={self.repeats}: a share from 0 to 1")
