"""Prompt-and-grade suites in local files, graded on a frozen model's completions.

Two kinds, told apart by their columns:
    pairs   safe prompts that sound dangerous beside unsafe ones, so that refusing everything and refusing nothing both
            show: XSTest's CSV as it is published (id, prompt, type, label, focus, note; older releases have no label
            and mark unsafe types with `contrast_`; Röttger et al. 2024), or rows of `prompt`, `label` (safe or unsafe)
            and optionally `pair`, `type`, `id`
    skill   `prompt` and `answer` (also question/answer, GSM8K's `#### 42`), optionally `match` and `id`

Skills are graded here, by rules: fast, free and the same tomorrow; they know nothing of meaning. Pairs are graded by
`safety`. An answer that is empty, caught in a loop or only says the prompt again is never right.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align import stats
from align.data import splits
from align.evaluate.measures.texts import broken, normalise, numbers
from align.evaluate.results import SkillGrades
from align.run.errors import DataError

MATCHES = ("exact", "contains", "number", "regex")
LABELS = ("safe", "unsafe")
BEYOND = "fields beyond the header"
ALLOWED = 0.01  # share of malformed rows, the same as max_dropped of every recipe


@dataclass(frozen=True)
class Question:
    """One row. `label`, `type`, `focus` and `pair` belong to pairs, `answer` and `match` to skill."""

    prompt: str
    id: str | None = None
    label: str = ""
    type: str = ""
    focus: str = ""
    pair: str | None = None
    answer: str = ""
    match: str = ""


@dataclass
class Suite:
    """A suite's rows in the file's order, and what became of the others (`report`, for the record)."""

    source: str
    kind: Literal["pairs", "skill"]
    items: list[Question]
    report: splits.Report


# ---------------------------------------------------------------------------------------------------------- reading


def load(path: str) -> Suite:
    """Read a suite from `.jsonl`, `.json` (a list of rows) or `.csv`, each also with `.gz`.

    Malformed rows are left out and counted in `report` by reason, each reason with its first row (rows are counted from
    1; a CSV's header is none).

    Raises:
        DataError: if the file cannot be read, is of neither kind, has more than 1 % malformed rows or no other ones, or
            is a pairs suite with one side only.
    """
    rows = list(_rows(path))
    kinds = Counter(kind for _, row in rows if isinstance(row, dict) and (kind := _kind(row)))
    if not rows or not kinds or len(set(kinds.values())) < len(kinds):
        seen = sorted({str(key) for _, row in rows if isinstance(row, dict) for key in row})
        raise DataError(
            f"{path}: a suite has the columns prompt and label (or XSTest's), or prompt and answer; this file has "
            f"{len(rows)} rows with the columns {', '.join(seen) or 'none'}"
        )
    kind = kinds.most_common(1)[0][0]
    report = splits.Report(path, rows_in=len(rows), fingerprint=splits.fingerprint(row for _, row in rows))
    items: list[Question] = []
    ids: set[str] = set()
    for number, row in rows:
        item = _item(row, kind, ids)
        if isinstance(item, Question):
            items.append(item)
            continue
        report.dropped[item] += 1
        report.first.setdefault(item, f"row {number}: {str(row)[:80]}")
    report.rows_out = len(items)
    lost = report.rows_in - report.rows_out
    if not items or lost > ALLOWED * report.rows_in:
        reasons = "; ".join(f"{count} {why} (first in {report.first[why]})" for why, count in report.dropped.items())
        raise DataError(
            f"{path}: {lost} of {len(rows)} rows are malformed, {reasons}; at most {ALLOWED:.0%} may be, and one must "
            "be left"
        )
    if kind == "pairs":
        check_both_sides(path, items)
    return Suite(path, kind, items, report)


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    """Row numbers from 1 and rows; a row that is no mapping, or a text in its place, is malformed."""
    name = path.removesuffix(".gz")
    if Path(name).suffix not in (".jsonl", ".json", ".csv"):
        raise DataError(f"{path}: a suite is a .jsonl, .json or .csv file (also .gz)")
    try:
        content = Path(path).read_bytes()
        raw = gzip.decompress(content) if name != path else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if b"\0" in raw:
        raise DataError(f"{path} is not UTF-8 text (it holds zero bytes); save it as UTF-8")
    text = raw.decode("utf-8-sig", errors="surrogateescape")  # a bad byte costs its row, not the file
    try:
        if name.endswith(".csv"):
            yield from enumerate(csv.DictReader(io.StringIO(text, newline=""), restkey=BEYOND), 1)
        elif name.endswith(".jsonl"):
            yield from ((i, _json(line)) for i, line in enumerate(text.split("\n"), 1) if line.strip())
        elif text.strip():
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise DataError(f"{path}: expected a list of rows, got a {type(rows).__name__}")
            yield from enumerate(rows, 1)
    except (csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line


def _kind(row: dict) -> Literal["pairs", "skill"] | None:
    if str(row.get("label")).strip().lower() in LABELS:
        return "pairs"
    if "answer" in row:
        return "skill"
    return "pairs" if "label" in row or "type" in row else None


def _item(row: Any, kind: str, ids: set[str]) -> Question | str:
    """A row as an item, or why it is malformed. Its id joins `ids`."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if any(isinstance(value, str) and re.search("[\ud800-\udfff]", value) for value in row.values()):
        return "not UTF-8"
    if BEYOND in row:
        return "with more fields than the header"
    prompt = row.get("prompt") or row.get("question")
    if not isinstance(prompt, str) or not prompt.strip():
        return "without a prompt"
    own = next((str(row[key]) for key in ("id", "id_v2") if row.get(key) not in (None, "")), None)
    if own is not None and own in ids:
        return "with an id that an earlier row has"
    item = _pairs_item(row, prompt, own) if kind == "pairs" else _skill_item(row, prompt, own)
    if own is not None and isinstance(item, Question):
        ids.add(own)
    return item


def _pairs_item(row: dict, prompt: str, own: str | None) -> Question | str:
    kind, focus = str(row.get("type") or "").strip(), str(row.get("focus") or "").strip()
    label = str(row.get("label") or "").strip().lower()
    if "label" not in row and kind:
        label = "unsafe" if kind.startswith("contrast_") else "safe"
    if label not in LABELS:
        return "with a label other than safe and unsafe" if label else "without a label"
    pair = row.get("pair")
    return Question(prompt, own, label, kind, focus, None if pair in (None, "") else str(pair))


def _skill_item(row: dict, prompt: str, own: str | None) -> Question | str:
    answer, match = row.get("answer"), row.get("match")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        return "without an answer"
    match = match or ("number" if "####" in answer else "exact")
    if match not in MATCHES:
        return f"with a match other than {', '.join(MATCHES)}"
    answer = answer.split("####")[-1] if match == "number" else answer
    if match == "number" and len(numbers(answer)) != 1:
        return "where match is number and the answer is not one number"
    if match in ("exact", "contains") and not normalise(answer):
        return "where nothing is left of the answer without its punctuation (match: regex keeps it)"
    if match == "regex":
        try:
            re.compile(answer)
        except re.error:
            return "with an answer that is no regular expression"
    return Question(prompt, own, answer=answer.strip(), match=match)


def check_both_sides(source: str, items: list[Question]) -> None:
    """Are there safe and unsafe prompts? One side alone says nothing.

    Raises:
        DataError: where one is missing.
    """
    sides = Counter(item.label for item in items)
    if any(not sides[label] for label in LABELS):
        raise DataError(
            f"{source}: {sides['safe']} safe and {sides['unsafe']} unsafe prompts; refusals are measured on both sides "
            "together, so there must be some of each"
        )


# ---------------------------------------------------------------------------------------------------------- grading


def grade(item: Question, completion: str) -> bool:
    """Is the completion right? By the item's `match`.

    `exact` and `contains` (whole words) compare after `normalise`; `number` takes the last number of the completion
    (Cobbe et al. 2021); `regex` searches it as it is. What is empty, a loop or an echo is wrong.
    """
    if item.match == "exact":
        return normalise(completion) == normalise(item.answer)
    if broken(completion, item.prompt):
        return False
    if item.match == "contains":
        return f" {normalise(item.answer)} " in f" {normalise(completion)} "
    if item.match == "number":
        found = numbers(completion)
        return bool(found) and found[-1] == numbers(item.answer)[0]
    assert item.match == "regex", item.match
    return re.search(item.answer, completion.strip()) is not None


# -------------------------------------------------------------------------------------------------------- measuring


def measure(suite: Suite, completions: list[str]) -> SkillGrades:
    """Grade one completion for each item of a suite of skills, in its order (of pairs: `safety.measure`).

    Returns:
        `accuracy`, a share with Wilson's interval, and the counts `unparsable` (no number where one was asked for),
        `empty` and `repeating`.
    """
    assert suite.kind == "skill" and len(completions) == len(suite.items), (len(completions), len(suite.items))
    rows = list(zip(suite.items, completions, strict=True))
    right = sum(grade(item, said) for item, said in rows)
    failed = [broken(said, item.prompt) for item, said in rows]
    asked = [said for (item, said), bad in zip(rows, failed, strict=True) if item.match == "number" and not bad]
    return SkillGrades(
        accuracy=stats.rate(right, len(rows)), unparsable=sum(not numbers(said) for said in asked),
        empty=failed.count("empty"), repeating=failed.count("repeating"),
    )  # fmt: skip
