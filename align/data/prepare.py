"""Rows: detect their schema, bring them into one of ours, tokenise, count what was dropped and why.

Schemas (TRL's, conversational or plain), and one of our own:
    text        text
    sft         messages, or prompt + completion
    preference  prompt + chosen + rejected (+ margin, category, weight); the prompt may be implicit
    prompt      prompt (other columns are kept)
    rankings    prompt + completions + ranking (1 is best, ties allowed), annotator, time; see align.data.pairs
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from align.data import chat, load, pairs, prompts, schemas
from align.data.pairs import ALL, Pairing
from align.run.arguments import DataArguments
from align.run.errors import DataError


@dataclass
class Report:
    """What became of the rows of one split: for the first lines of a run and for its record."""

    source: str
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rows_out: int = 0
    fingerprint: str = ""
    first: dict[str, str] = field(default_factory=dict)  # the first row dropped for each reason, shortened
    rankings: Counter[str] = field(default_factory=Counter)  # read, pairs made, and what gave none, by reason

    def __str__(self) -> str:
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none dropped"
        ranked = f"{pairs.describe(self.rankings)}; " if self.rankings else ""
        return f"{self.source}: {ranked}{self.rows_in:,} rows in, {lost}, {self.rows_out:,} used"

    def as_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rows_in": self.rows_in,
            "dropped": dict(self.dropped),
            "rows_out": self.rows_out,
            "fingerprint": self.fingerprint,
            **({"rankings": dict(self.rankings)} if self.rankings else {}),
        }


def fingerprint(rows: Any) -> str:
    """SHA-256 over the rows themselves, so that the same rows have the same fingerprint wherever they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ normalising


def normalise(
    rows: Any, schema: str, source: str, columns: list[str], pairing: Pairing = ALL, report: Report | None = None
) -> Any:
    """Bring every row into `schema`. A row that may be dropped carries its reason in the column `drop`.

    Where rankings become pairs, `pairing` says how, and `report` learns what gave none.

    Raises:
        DataError: for an empty source, missing columns, and the first malformed row, named with its field.
    """
    rows = schemas.rename(rows, columns)
    head = next(iter(rows), None)
    if head is None:
        raise DataError(f"{source}: the data set is empty")
    if schema == "preference" and "ranking" in head:
        rows = _expand_rankings(rows, source, pairing, report)
    names = rows.column_names or list(head)
    make = schemas.MAKERS[schema]

    def convert(row: dict, index: int) -> dict:
        where = f"{source}, row {index + 1}"
        try:
            return {"drop": "", **make(row, where)}  # never None: arrow would type the column as null
        except KeyError:
            raise DataError(
                f"{where}: has the columns {', '.join(names)}; this recipe needs {schemas.NEEDED[schema]}. "
                "Map yours with --columns theirs=ours"
            ) from None

    convert(next(iter(rows)), 0)  # the whole schema is judged on the first row, before any file is written
    return rows.map(convert, with_indices=True, remove_columns=names)


def _expand_rankings(rows: Any, source: str, pairing: Pairing, report: Report | None) -> Any:
    from datasets import Dataset

    made, counts = pairs.of_rankings(rows, source, pairing)
    if report is not None:
        report.rankings = counts
    return Dataset.from_list([{k: v for k, v in pair.items() if k != "group"} for pair in made])


# ------------------------------------------------------------------------------------------------------- tokenising


def _encode_sft(tokenizer: Any, row: dict) -> dict:
    if "messages" in row and row["messages"] is not None:
        encoded = chat.encode_messages(tokenizer, row["messages"])
        return {"input_ids": encoded.input_ids, "labels": encoded.labels}
    prompt, completion = chat.encode_pair(tokenizer, row["prompt"], row["completion"])
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def _encode_preference(tokenizer: Any, row: dict) -> dict:
    prompt, chosen = chat.encode_pair(tokenizer, row["prompt"], row["chosen"])
    again, rejected = chat.encode_pair(tokenizer, row["prompt"], row["rejected"])
    assert prompt == again, (prompt, again)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _encode_prompt(tokenizer: Any, row: dict) -> dict:
    return {"input_ids": chat.encode_prompt(tokenizer, row["prompt"])}


ENCODERS: dict[str, Callable[[Any, dict], dict]] = {
    "sft": _encode_sft,
    "preference": _encode_preference,
    "prompt": _encode_prompt,
}


def _length(schema: str, encoded: dict) -> int:
    if schema == "preference":
        return len(encoded["prompt_ids"]) + max(len(encoded["chosen_ids"]), len(encoded["rejected_ids"]))
    return len(encoded["input_ids"])


def tokenise(rows: Any, schema: str, tokenizer: Any, *, max_length: int | None, report: Report) -> Any:
    """Tokenise normalised rows, drop what cannot be used, and count it in `report`. Nothing is truncated."""
    encode = ENCODERS[schema]

    def convert(row: dict) -> dict:
        if row["drop"]:
            return {"ids": None, "drop": row["drop"], "length": 0}
        try:
            encoded = encode(tokenizer, row)
        except chat.TemplateError as error:
            return {"ids": None, "drop": f"unusable ({error})", "length": 0}
        length = _length(schema, encoded)
        too_long = max_length is not None and length > max_length
        drop = f"longer than {max_length} tokens" if too_long else None
        return {"ids": None if too_long else encoded, "drop": drop, "length": length}

    kept: list[dict] = []
    longest = 0
    keep_columns = schema == "prompt"
    for row in rows:
        report.rows_in += 1
        result = convert(row)
        longest = max(longest, result["length"])
        if result["drop"]:
            report.dropped[result["drop"]] += 1
            report.first.setdefault(result["drop"], str({k: v for k, v in row.items() if k != "drop"})[:160])
            continue
        rest = {k: v for k, v in row.items() if k != "drop"} if keep_columns else {}
        rest |= {key: row[key] for key in ("margin", "category", "weight") if row.get(key) is not None}
        if schema == "preference":
            rest["group"] = pairs.prompt_key(row["prompt"])
        kept.append({**rest, **result["ids"]})
    report.rows_out = len(kept)
    report.first["longest"] = str(longest)
    from datasets import Dataset

    return Dataset.from_list(kept)


def check_dropped(report: Report, allowed: float) -> None:
    """Stop where more rows were dropped than the user said may be.

    Raises:
        DataError: with the reasons, the first such row, and the two ways on.
    """
    lost = sum(report.dropped.values())
    if not lost or (report.rows_out and lost <= allowed * report.rows_in):
        return
    share = lost / report.rows_in
    lines = [f"{report.source}: {lost} of {report.rows_in} rows ({share:.1%}) cannot be used:"]
    for reason, count in report.dropped.items():
        lines.append(f"    {count} {reason}, the first: {report.first[reason]}")
    longest = report.first["longest"]
    ways = f"raise --max_length (the longest row has {longest} tokens), " if "longer" in lines[1] else "mend them, "
    way_on = f"or accept the loss with --max_dropped {share + 0.005:.2f}" if report.rows_out else "no row would be left"
    raise DataError("\n".join(lines) + f"\n  {ways}{way_on}")


@dataclass
class Splits:
    """Tokenised rows to train and to evaluate on, with their reports."""

    train: Any
    test: Any
    reports: dict[str, Report]
    shared: dict[str, Any] | None = None  # prompts on both sides: `align.data.prompts.within`

    def __str__(self) -> str:
        lines = [f"  {name}: {report}" for name, report in self.reports.items()]
        return "\n".join(lines + ([f"  {self.shared['line']}"] if self.shared else []))

    def as_dict(self) -> dict[str, Any]:
        found = {name: report.as_dict() for name, report in self.reports.items()}
        return found | ({"shared_prompts": self.shared} if self.shared else {})


def load_splits(args: DataArguments, *, seed: int) -> dict[str, Any]:
    """The raw train split and, where there is one or `test_split_size` cuts one off, the test split (else None)."""
    train = load.load(args, args.dataset_train_split, seed=seed)
    if train is None:
        raise DataError(
            f"{args.dataset_name} has no split {args.dataset_train_split!r}; name one with --dataset_train_split"
        )
    test = load.load(args, args.dataset_test_split, seed=seed)
    if test is None and args.test_split_size and not args.dataset_streaming:
        train, test = _halves(train, args, seed)
        if args.max_eval_rows is not None:
            test = test.select(range(min(args.max_eval_rows, len(test))))
    return {"train": train, "test": test}


def _halves(rows: Any, args: DataArguments, seed: int) -> tuple[Any, Any]:
    """Cut `test_split_size` off: by prompt where the rows have one, so that no prompt is on both sides."""
    assert args.test_split_size is not None
    size = int(args.test_split_size) if args.test_split_size >= 1 else args.test_split_size
    try:
        named = schemas.rename(rows, args.columns)
        if "text" in (named.column_names or []):
            halves = rows.train_test_split(test_size=size, seed=seed)
            return halves["train"], halves["test"]
        keys = [_prompt_of(row, f"{args.dataset_name}, row {number + 1}") for number, row in enumerate(named)]
        kept, held = pairs.split_by_prompt(keys, size, shuffle=random.Random(f"split-{seed}").shuffle)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"test_split_size={args.test_split_size}: {error}") from error
    return rows.select(kept), rows.select(held)


def _prompt_of(row: dict, where: str) -> str:
    """What names a raw row's prompt, in whatever schema it is; a row without one stands for itself."""
    try:
        return pairs.prompt_key(schemas.prompt(row, where)["prompt"])
    except KeyError:
        return where


def splits(args: DataArguments, schema: str, tokenizer: Any, *, max_length: int | None, seed: int) -> Splits:
    """Load, normalise and tokenise the train split and, where there is one, the test split."""
    done: dict[str, Any] = {"train": None, "test": None}
    reports = {}
    raw = load_splits(args, seed=seed)
    for name, rows in raw.items():
        if rows is None:
            continue
        source = f"{args.dataset_name or 'mixture'} ({name})"
        reports[name] = report = Report(source)
        pairing = _pairing(args, name)
        rows = normalise(rows, schema, source, args.columns, pairing, report)
        report.fingerprint = fingerprint(rows)
        done[name] = tokenise(rows, schema, tokenizer, max_length=max_length, report=report)
        check_dropped(report, args.max_dropped)
        if report.rankings and report.dropped:
            done[name] = _weighed_again(done[name], pairing)
    shared = None
    if raw["test"] is not None and schema in ("sft", "preference"):
        shared = prompts.within(raw["train"], raw["test"], args.dataset_name or "mixture", args.columns)
    return Splits(done["train"], done["test"], reports, shared)


def _weighed_again(rows: Any, pairing: Pairing) -> Any:
    """Pairs of which some were dropped: those that are left have weights with a mean of 1, as `rankings.weigh` says."""
    from datasets import Dataset

    kept = rows.to_list()
    pairs.weigh(kept, pairing.weights)
    return Dataset.from_list(kept)


def _pairing(args: DataArguments, split: str) -> Pairing:
    """How rankings become pairs. Held-out pairs have no ties and weigh the same: they are measured, not trained on."""
    train = split == "train"
    return Pairing(
        ties=args.ties if train else "drop",
        weights=args.pair_weights if train else "pair",
        annotators=tuple(args.annotators),
        aggregate=args.aggregate,
        held_out=not train,
    )


def load_texts(args: DataArguments, *, seed: int) -> Splits:
    """The `text` schema as lists of strings, train and (where there is one) test: for tokenizer and pretraining."""
    done: dict[str, Any] = {"train": None, "test": None}
    reports = {}
    for name, rows in load_splits(args, seed=seed).items():
        if rows is None:
            continue
        source = f"{args.dataset_name or 'mixture'} ({name})"
        texts = [row["text"] for row in normalise(rows, "text", source, args.columns)]
        empty = sum(not text.strip() for text in texts)
        kept = [text for text in texts if text.strip()]
        if not kept:
            raise DataError(f"{source}: the data set is empty")
        dropped = Counter({"empty": empty}) if empty else Counter()
        reports[name] = Report(source, len(texts), dropped, len(kept), fingerprint(texts))
        done[name] = kept
    return Splits(done["train"], done["test"], reports)
