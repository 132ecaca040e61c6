"""Rankings out of a labels file: a run whose rows the reward and the dpo recipe train on, with its card.

align export runs/mine/label --output_dir runs/mine/people
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.data import pairs, text
from align.label import agreement, opinions
from align.label.exchange.cards import COLUMNS, card, readme, told
from align.label.store import source
from align.label.summary import Summary
from align.run import lineage, record
from align.run.arguments import RunArguments
from align.run.errors import DataError, RunError
from align.run.parse import parse, resolved
from align.run.received import files

GUIDELINES = 1 << 20  # bytes
PUSHED = ["README.md", "card.json", "data/*.jsonl"]  # not run.json: it names this machine's paths


@dataclass
class ExportConfig:
    """What `align export` takes."""

    source: str | None = field(default=None, metadata={"help": "Labels file or its folder, or rows of rankings."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rows and their card."})
    annotators: list[str] = field(default_factory=list, metadata={"help": "Only these annotators."})
    kinds: list[str] = field(
        default_factory=list,
        # A model's rankings would be learned from like a person's, and outvote them
        metadata={
            "help": "Only these kinds of annotators: person, model, simulated (default: all but models, where anybody "
            "else has ranked)."
        },
    )
    aggregate: str = field(
        default="each",
        metadata={
            "help": "One row for each annotator and item; or for each pair of completions, ranked by the majority.",
            "choices": ["each", "majority"],
        },
    )
    keep_names: bool = field(
        default=False, metadata={"help": "Write people's names; by default they are annotator-1, annotator-2, …"}
    )
    test_split_size: float | None = field(
        default=None, metadata={"help": "Share (0 to 1) or number of rows held out, by prompt, where no item is yet."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Push the rows and their card to this data set on the Hugging Face hub."}
    )
    private: bool = field(default=False, metadata={"help": "The data set on the hub is for its owner only."})
    seed: int = field(default=0, metadata={"help": "Of the split."})


# -------------------------------------------------------------------------------------------------------------- rows


def without_models(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of everybody but models, and those of models; where nobody else has ranked, all rows and none."""
    others = [row for row in rows if row.get("kind") != "model"]
    if all(map(pairs.is_undecided, others)):
        return rows, []
    return others, [row for row in rows if row.get("kind") == "model"]


def with_written(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its written better answer, if there is one, as one more completion that is ranked first.

    Where the K shown ones have no ranks (all bad), they are tied behind it. A skip stays a skip. A copy of an answer
    that was shown is no new one: its rank says how good it is.
    """
    row = dict(row)
    better = str(row.pop("better", None) or "").strip()
    row.setdefault("written", False)
    if not better or row.get("verdict") == "skip" or row["written"]:
        return row
    count = len(row["completions"])
    if better in (text.completion(completion).strip() for completion in row["completions"]):
        return row
    plain = isinstance(row["completions"][0], str)
    row["completions"] = [*row["completions"], better if plain else [{"role": "assistant", "content": better}]]
    row["ranking"] = [*(rank + 1 for rank in row["ranking"] or [1] * count), 1]
    if row.get("sources"):
        row["sources"] = [*row["sources"], "annotator"]
    row["written"] = True
    return row


def alike(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with messages for every prompt and completion as soon as one has some.

    Text and messages in one column would be read back changed (see `align.data.load`); plain text is one message.
    """

    def messages(side: Any, role: str) -> Any:
        return [{"role": role, "content": side}] if isinstance(side, str) else side

    if all(isinstance(side, str) for row in rows for side in (row["prompt"], *row["completions"])):
        return rows
    return [
        {**row, "prompt": messages(row["prompt"], "user"),
         "completions": [messages(completion, "assistant") for completion in row["completions"]]}
        for row in rows
    ]  # fmt: skip


def pseudonyms(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """People's names to annotator-1, annotator-2, … in the order of their first ranking; models keep their names."""
    names: dict[str, str] = {}
    for row in rows:
        name, kind = str(row.get("annotator")), str(row.get("kind") or source.PERSON)
        if name not in names and row.get("annotator") is not None:
            people = sum(value.startswith("annotator-") for value in names.values())
            names[name] = f"annotator-{people + 1}" if kind == source.PERSON else name
    return names


def _ordered(row: dict[str, Any]) -> dict[str, Any]:
    """The known columns first, in the card's order; the split is the file's name."""
    known = {name: row[name] for name in COLUMNS if name in row}
    return known | {name: value for name, value in row.items() if name not in known and name != "split"}


def split(rows: list[dict[str, Any]], size: float | None, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by split: as their items say (`train_prefs` is train); where none is held out, `size` are, by prompt.

    Raises:
        DataError: where `size` cannot be held out.
    """
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for row in rows:
        parts["train" if str(row.get("split") or "train").startswith("train") else "test"].append(row)
    if parts["test"] or not size:
        return parts
    keys = [pairs.prompt_key(row["prompt"]) for row in rows]
    try:
        kept, held = pairs.split_by_prompt(keys, size, shuffle=random.Random(f"split-{seed}").shuffle)
    except ValueError as error:
        raise DataError(f"test_split_size={size}: {error}") from error
    return {"train": [rows[i] for i in kept], "test": [rows[i] for i in held]}


# -------------------------------------------------------------------------------------------------------------- write


def guidelines_of(name: str) -> str:
    """The guidelines that annotators saw, which the page keeps beside its labels; empty where there are none."""
    labels = source.labels_file(name)
    file = labels.with_name("guidelines.md") if labels else None
    return (
        files.text(file, GUIDELINES) if file and file.exists() else ""
    )  # not through a link: it may be anybody's file


def write(
    store: Any,
    folder: str | Path,
    *,
    title: str = "Rankings",
    guidelines: str = "",
    aggregate: str = "each",
    keep_names: bool = False,
    test_split_size: float | None = None,
    seed: int = 0,
    compared: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write `data/<split>.jsonl`, `card.json` and `README.md` into `folder`, a run's own.

    Args:
        store: an `align.label.store.store.Store`, or the rows that one gives.
        title: of the card.
        guidelines: what annotators were asked, as Markdown.
        aggregate, keep_names, test_split_size, seed: as `ExportConfig` explains.
        compared: rows that are not written (models', say); the card tells how far their annotators agree with the rest.

    Returns:
        Metrics for the run's record: rows and prompts of each split, verdicts, and the agreement's figures.

    Raises:
        DataError: where nothing was ranked.
    """
    rows = list(store.rankings() if hasattr(store, "rankings") else store)
    if not rows:
        raise DataError("nothing has been ranked yet, so there is nothing to export")
    if not keep_names:
        names = pseudonyms(rows)
        rows = [{**row, "annotator": names.get(str(row.get("annotator")))} for row in rows]
    items = {opinions.item_of(row) for row in rows}
    compared = [row for row in compared if opinions.item_of(row) in items]
    found = agreement.summary([*rows, *compared])  # before written answers are added: one annotator's only
    rows = alike([with_written(row) for row in rows])
    parts = split(rows, test_split_size, seed)
    if aggregate == "majority":
        parts = {name: pairs.majority(pairs.ranked(part, name, (), Counter())) for name, part in parts.items()}
    parts = {name: [_ordered(row) for row in part] for name, part in parts.items()}
    facts = card(parts, found, title, guidelines) | {"left_out": sorted({str(row["annotator"]) for row in compared})}
    (Path(folder) / "data").mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if part:
            lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in part)
            (Path(folder) / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", errors="replace")
    record.write_json(Path(folder) / "card.json", facts)
    (Path(folder) / "README.md").write_text(readme(facts, found), encoding="utf-8", errors="replace")
    return _metrics(facts, found)


def _metrics(facts: dict[str, Any], found: Summary) -> dict[str, Any]:
    group = (found.people if found.people.items else found.everybody).as_dict()
    written = len(found.annotators) - len(facts["left_out"])
    metrics: dict[str, Any] = {"annotators": written, "items": found.items}
    for name, counts in facts["splits"].items():
        metrics |= {f"{name}_{key}": count for key, count in counts.items()}
    metrics |= {"shared_items": group["items"], "tau_b": group["tau_b"], "raw_agreement": group["raw"]}
    return metrics | {
        "alpha": group["alpha"],
        "first_shown_best": found.position and found.position.as_dict(),
        "longer_preferred": found.length and found.length.as_dict(),
    }


def push(folder: str | Path, name: str, *, private: bool) -> str:
    """Push a written export to the hub as the data set `name`; returns its address.

    Raises:
        RunError: with the command that tries again: what was written stays where it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type="dataset", folder_path=str(folder), allow_patterns=PUSHED,
            commit_message="Rankings, with their card",
        )  # fmt: skip
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise RunError(
            f"the rows are in {folder}, but could not be pushed to {name}: {str(error).splitlines()[0]}. Log in with "
            f"hf auth login, then: hf upload {name} {folder} . --repo-type dataset --exclude run.json"
        ) from error
    return f"https://huggingface.co/datasets/{name}"


def main(argv: list[str]) -> None:
    """`align export SOURCE --output_dir …`."""
    run_args, args = parse(RunArguments, ExportConfig, nano=None, required=("source", "output_dir"), argv=argv)
    rows = source.read(args.source, kinds=args.kinds, annotators=args.annotators)
    chosen = args.kinds or args.annotators
    rows, left = (rows, []) if chosen else without_models(rows)
    config = resolved(run_args, args)
    with record.start("rankings", args.output_dir, config, overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({"labels": str(source.labels_file(args.source) or args.source)}))
        metrics = write(
            rows, args.output_dir, title=f"Rankings: {Path(args.output_dir).name}",
            guidelines=guidelines_of(args.source), aggregate=args.aggregate, keep_names=args.keep_names,
            test_split_size=args.test_split_size, seed=args.seed, compared=left,
        )  # fmt: skip
        run.finish("complete", metrics=metrics)
    print(told(args.output_dir, metrics, rows, left))
    if args.push_to_hub:
        print(f"pushed to {push(args.output_dir, args.push_to_hub, private=args.private)}")
