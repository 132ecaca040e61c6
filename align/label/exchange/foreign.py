"""What readers of other programs' exports share: what `align import` is told, and how a row of ours is put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align.data.forms import turns
from align.run.errors import DataError

PROMPTS = ("prompt", "instruction", "question", "input", "query", "text", "context")


@dataclass
class ImportConfig:
    """What `align import` takes."""

    source: str | None = field(default=None, metadata={"help": "The export: a .json, .jsonl, .parquet … file."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rankings."})
    format: str = field(
        default="auto",
        metadata={"help": "What made the file; by default it is read off the first rows.",
                  "choices": ["auto", "trl", "hh", "argilla", "label_studio"]},
    )  # fmt: skip
    kind: str = field(
        default="person",
        metadata={"help": "Who ranked: people, or a model (many public sets).", "choices": ["person", "model"]},
    )
    question: str | None = field(
        default=None,
        metadata={"help": "The ranking question (Argilla), or what the ratings' names begin with (Label Studio)."},
    )
    prompt_field: str | None = field(
        default=None, metadata={"help": f"The field with the prompt (default: the first of {', '.join(PROMPTS)})."}
    )
    completion_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "The fields with the completions, where the names in the export are not the fields' own."},
    )
    buckets: list[str] = field(
        default_factory=list, metadata={"help": "Label Studio's Ranker: the buckets' names from best to worst."}
    )
    test_split_size: float | None = field(
        default=None, metadata={"help": "Share (0 to 1) or number of rows held out, by prompt."}
    )
    seed: int = field(default=0, metadata={"help": "Of the split."})


def ranking_row(prompt: Any, completions: list[Any], ranking: list[int], **rest: Any) -> dict[str, Any]:
    """One row of the schema; who ranked and when are None where the export does not say."""
    row = {"prompt": prompt, "completions": completions, "ranking": ranking, "annotator": None, "time": None}
    return {**row, "kind": "person", "verdict": "ranked", **{k: v for k, v in rest.items() if v is not None}}


def side(value: Any, where: str) -> Any:
    """A prompt or completion: text, or messages."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        return turns.messages(value, where)
    raise DataError(f"{where}: expected text or messages, got {type(value).__name__} {str(value)[:40]!r}")


def prompt_of(fields: dict[str, Any], where: str, args: ImportConfig) -> Any:
    """The prompt among a record's fields."""
    names = [args.prompt_field] if args.prompt_field else [name for name in PROMPTS if name in fields]
    if not names or names[0] not in fields:
        raise DataError(f"{where}: no field with the prompt among {sorted(fields)}; name it with --prompt_field")
    return side(fields[names[0]], f"{where}.{names[0]}")
