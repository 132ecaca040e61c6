"""What `align chat` takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from align.run.arguments import CodeArguments
from align.run.lineage import parent_problem

MOST = 4  # models on the page: columns that can still be read next to each other, and keys 1 to 4
SEEDS = 1 << 32  # what a page's numbers hold to the last digit
VOTES = "runs/votes"  # where votes are kept if nobody says where


@dataclass
class ChatConfig(CodeArguments):
    """Whom to talk to, and how they answer."""

    models: list[str] = field(
        default_factory=list, metadata={"help": "Runs, adapters, folders or hub ids; several answer side by side."}
    )
    system: str | None = field(default=None, metadata={"help": "A system message, before the conversation."})
    temperature: float = field(default=0.7, metadata={"help": "Of sampling; 0 takes the most likely token."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer."})
    seed: int = field(default=0, metadata={"help": "Of sampling; the same words then get the same answers."})
    prompt_format: str = field(
        default="auto",
        metadata={
            "help": "chat: what you say is a user's turn; text: it is a text that the model goes on with, as a base "
            "model does. auto: as the model was trained, where that is known.",
            "choices": ["auto", "chat", "text"],
        },
    )

    web: bool = field(default=False, metadata={"help": "On a page in the browser, for up to four models."})
    blind: bool = field(
        default=False,
        metadata={"help": "On that page: hidden names, shuffled order, and people vote for the better answer."},
    )
    output_dir: str | None = field(
        default=None, metadata={"help": f"Where blind votes are kept, for `align export`; default: {VOTES}."}
    )

    def __post_init__(self) -> None:
        problems = [problem for path in self.models if (problem := parent_problem(path, allow_hub=True))]
        if self.temperature < 0:
            problems.append(f"temperature={self.temperature}: 0 (the most likely token) or more")
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens}: at least 1")
        if len(set(self.models)) < len(self.models):
            problems.append(f"models: each once; given {' '.join(self.models)}")
        if not 0 <= self.seed < SEEDS:
            problems.append(f"seed={self.seed}: a whole number from 0 to {SEEDS - 1:,}")
        if self.web and len(self.models) > MOST:
            problems.append(f"models: {len(self.models)} of them, and the page has columns for {MOST}; leave some out")
        if self.blind and not self.web:
            problems.append("blind: votes are given on the page; give --web as well")
        if self.blind and len(self.models) == 1:
            problems.append("blind: one model leaves nothing to choose between; name two or more")
        if self.output_dir and not self.blind:
            problems.append("output_dir: it keeps blind votes; give --web --blind, or leave it out")
        if problems:
            raise ValueError("; ".join(problems))
