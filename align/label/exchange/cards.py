"""The card of exported rankings: counts, agreement, columns and guidelines, as JSON and as the hub's README.md.

And what `align export` says of them at the end.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from typing import Any

from align.data import pairs
from align.label import figures
from align.label.summary import Summary
from align.report import markdown
from align.run.errors import recipe

COLUMNS = {
    "prompt": "what was asked: messages, or text",
    "completions": "the K answers, in the order in which they were sampled; a written one last",
    "ranking": "a rank for each, 1 is best, ties allowed; null where there is no ranking",
    "annotator": "who ranked",
    "kind": "person, model or simulated; of a majority mixed, where several kinds voted",
    "time": "when the answer was saved, ISO 8601, UTC",
    "verdict": "ranked, all_bad (none is acceptable; with or without ranks) or skip",
    "reason": "why, in the annotator's words",
    "written": "whether the last completion was written by the annotator, as better than all",
    "seconds": "time spent on the task",
    "shown": "the places of the completions in the order in which they were shown",
    "repeat": "whether the annotator had ranked the item before (to measure how consistent they are)",
    "item": "names the item: the same for everybody who ranked it",
    "sources": "where each completion came from; hidden from annotators",
    "category": "the kind of prompt",
    "votes": "of the annotators: for the first, for a tie, for the second",
}

NAMED = {f"`{name}`" for name in COLUMNS}
VERDICTS = {"ranked": "ranked", "all_bad": "all bad", "skip": "skipped"}
WHO = {
    "person": ("person", "people"), "model": ("model", "models"),
    "simulated": ("simulated labeler", "simulated labelers"),
}  # fmt: skip
NAMELESS = {None: "annotators without a name", "majority": "a majority of annotators"}


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    verdicts = Counter(str(row.get("verdict") or "ranked") for row in rows)
    prompts = {pairs.prompt_key(row["prompt"]) for row in rows}
    undecided = sum(bool(pairs.is_undecided(row)) for row in rows)
    return {"rows": len(rows), "prompts": len(prompts), **dict(sorted(verdicts.items())), "undecided": undecided}


def card(parts: dict[str, list[dict[str, Any]]], found: Summary, title: str, guidelines: str) -> dict[str, Any]:
    """What is known about the exported rows, ready for JSON."""
    names = sorted({name for rows in parts.values() for row in rows for name in row if name != "split"})
    shared = {pairs.prompt_key(r["prompt"]) for r in parts["train"]} & {
        pairs.prompt_key(r["prompt"]) for r in parts["test"]
    }
    return {
        "title": title,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "splits": {name: _counts(rows) for name, rows in parts.items() if rows},
        "prompts_in_both_splits": len(shared),
        "completions": dict(
            sorted(Counter(len(row["completions"]) for rows in parts.values() for row in rows).items())
        ),
        "columns": [*(n for n in COLUMNS if n in names), *(n for n in names if n not in COLUMNS)],
        "agreement": found.as_dict(),
        "guidelines": guidelines,
    }


def _front_matter(facts: dict[str, Any], found: Summary) -> str:
    files = "\n".join(f"  - split: {name}\n    path: data/{name}.jsonl" for name in facts["splits"])
    kinds = {one.kind for one in found.annotators}
    who = ["human-feedback"] if "person" in kinds else []
    tags = "\n".join(f"- {tag}" for tag in ["preference", "rankings", "rlhf", *who])
    return (
        f"---\npretty_name: {json.dumps(facts['title'], ensure_ascii=False)}\ntask_categories:\n- text-generation\n"
        f"tags:\n{tags}\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n"
    )


def _markdown(rows: list[list[str]]) -> str:
    """Rows of cells as a Markdown table, the first one the heads. Each is text, but for our own columns' names."""
    told = ["| " + " | ".join(cell if cell in NAMED else markdown.text(cell) for cell in row) + " |" for row in rows]
    return "\n".join([told[0], "|" + " --- |" * len(rows[0]), *told[1:]])


def readme(facts: dict[str, Any], found: Summary) -> str:
    """The data set's card as the hub shows it: YAML front matter, counts, agreement, columns, guidelines."""
    heads = ["split", "rows", "prompts", "ranked", "all bad", "skipped"]
    splits = [
        [name, *(f"{one.get(key, 0):,}" for key in ("rows", "prompts", "ranked", "all_bad", "skip"))]
        for name, one in facts["splits"].items()
    ]
    sizes = ", ".join(f"{size} in {count:,} rows" for size, count in facts["completions"].items())
    both = facts["prompts_in_both_splits"]
    warning = f"\n\n**{both:,} prompts are in both splits.**" if both else ""
    left = facts.get("left_out")
    left_out = f"\n\nTheir rankings are not among the rows: {', '.join(map(markdown.text, left))}." if left else ""
    columns = [
        [f"`{name}`" if name in COLUMNS else name, COLUMNS.get(name, "from the rows that were ranked")]
        for name in facts["columns"]
    ]
    parts = [
        f"# {markdown.text(facts['title'])}",
        "Completions ranked best to worst, with ties. Made with align-recipes; every K-choose-2 pair of a row that is "
        "not a tie is a preference pair.",
        f"## Rows\n\n{_markdown([heads, *splits])}\n\nCompletions of a prompt: {sizes}.{warning}",
        f"## Agreement\n\n{_markdown([['measure', 'value (95 % interval)'], *figures.lines(found)])}\n\n"
        "Kendall's tau-b (Kendall 1945) and raw agreement are means over items; Krippendorff's alpha (Krippendorff "
        "2011) is over pairs of completions, with the values better, tie and worse.",
        f"## Annotators\n\n{_markdown(figures.table(found))}{left_out}",
        f"## Columns\n\n{_markdown([['column', 'what'], *columns])}",
        f"## Use\n\n```bash\n{recipe('reward')} --dataset_name <this data set> --model_name_or_path <SFT model> "
        "--output_dir runs/mine/reward\n```",
    ]
    if facts["guidelines"].strip():
        quoted = "\n".join(f"> {line}".rstrip() for line in facts["guidelines"].strip().splitlines())
        parts.append(f"## What annotators were asked\n\n{quoted}")
    return _front_matter(facts, found) + "\n" + "\n\n".join(parts) + "\n"


def told(folder: str, metrics: dict[str, Any], rows: list[dict[str, Any]], left: list[dict[str, Any]]) -> str:
    """What was written to `folder`, by whom, and which rows were left out, in words."""
    splits = []
    for name in [name for name in ("train", "test") if f"{name}_rows" in metrics]:
        found = ((metrics.get(f"{name}_{key}", 0), word) for key, word in VERDICTS.items())
        verdicts = ", ".join(f"{count:,} {word}" for count, word in found if count)
        splits.append(f"{_rows(metrics[f'{name}_rows'])} to {name} ({verdicts})")
    out = f"{folder}: {', '.join(splits) or 'no rows'}, by {_annotators(rows)}; "
    if metrics.get("train_rows") == metrics.get("train_undecided"):
        out += "no row to train ranks anything, so there is nothing to train on yet"
    else:
        out += f"train with --dataset_name {folder}"
    if left:
        kinds = " ".join(sorted({str(row.get("kind") or "person") for row in (*rows, *left)}, reverse=True))
        out += f"\nleft out: {_rows(len(left))} by {_annotators(left)}; --kinds {kinds} takes them too"
    return out


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _annotators(rows: list[dict[str, Any]]) -> str:
    """`4 people and 1 model`."""
    who = {(row.get("annotator"), str(row.get("kind") or "person")) for row in rows}
    kinds = Counter(kind for name, kind in who if name not in NAMELESS)
    words = [
        f"{count:,} {WHO.get(kind, (kind, kind))[count > 1]}" for kind, count in sorted(kinds.items(), reverse=True)
    ]
    return " and ".join([*words, *(word for key, word in NAMELESS.items() if any(name == key for name, _ in who))])
