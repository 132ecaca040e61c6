"""What is ranked: a prompt with K completions as an item, and the order in which one annotator sees them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from align.data.chat import reasoning
from align.run.errors import DataError, recipe

Kind = Literal["person", "model", "simulated"]
KINDS = ("person", "model", "simulated")
MOST = 9  # completions of a prompt: each has a number key
COLUMNS = ("prompt", "completions", "sources", "priority", "split")  # of a row; all the rest is kept as meta


@dataclass(frozen=True)
class Annotator:
    """Who ranks: a person, a model, or a labeler simulated by a program."""

    number: int
    name: str
    kind: Kind


@dataclass(frozen=True)
class Task:
    """One item as one annotator is asked about it. Identical completions are shown once."""

    id: int
    item: str
    prompt: Any
    completions: list[Any]  # those that differ, in the order shown
    order: list[int]  # the original index of each (of the first, where several are the same)
    repeat: bool
    meta: dict[str, Any] = field(default_factory=dict)  # the row's other columns; not for annotators' eyes

    @property
    def mark(self) -> str:
        """What tells a page that the task is the one that it shows: in a copy that is put back, numbers come again."""
        return hashlib.sha256(as_json([self.id, self.item, self.order]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Item:
    """A row as it is stored. `place` shuffles items of equal priority, the same way every time."""

    id: str
    prompt: str
    completions: str
    sources: str | None
    meta: str
    split: str
    urgency: float
    place: int
    differ: int


def as_json(value: Any) -> str:
    """JSON as it is stored and hashed. Half a surrogate pair, which UTF-8 has no bytes for, is escaped."""
    plain = json.dumps(value, ensure_ascii=False, default=str)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return plain


def whole(words: str) -> str:
    """Words without half surrogate pairs (a cut emoji): browsers and JSON can send them, UTF-8 cannot hold them."""
    return words.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_side(value: Any) -> bool:
    """Text, or a list of messages?"""
    return isinstance(value, str) or (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
        and all(isinstance(m.get("content"), str) for m in value)
    )


KEPT = ("role", "content", "tool_calls", "reasoning_content", "name", "tool_call_id")  # of a message


def _side(value: Any, kept: tuple[str, ...] = KEPT) -> Any:
    """Text as it is; of messages, what they hold and no more."""
    return value if isinstance(value, str) else [{k: m[k] for k in kept if m.get(k) is not None} for m in value]


def item(row: Mapping[str, Any], where: str, split: str) -> Item:
    """Check one row and bring it into the form that is stored.

    Raises:
        DataError: with the row and the field: no prompt, K = 1, more than 9, sources that do not fit.
    """
    prompt, completions = row.get("prompt"), row.get("completions")
    if not _is_side(prompt):
        raise DataError(f"{where}.prompt: expected text or a list of {{role, content}}, got {str(prompt)[:60]!r}")
    if not isinstance(completions, list):
        raise DataError(f"{where}.completions: expected a list, got {str(completions)[:60]!r}; see {recipe('sample')}")
    for number, completion in enumerate(completions):
        if not _is_side(completion):
            raise DataError(f"{where}.completions[{number}]: expected text or messages, got {str(completion)[:60]!r}")
    if not 2 <= len(completions) <= MOST:
        instead = f"sample with `{recipe('sample')} --num_generations 4`" if len(completions) < 2 else "leave some out"
        raise DataError(f"{where}.completions: {len(completions)} of them; ranking takes 2 to {MOST}: {instead}")
    sources = row.get("sources")
    if sources is not None and (not isinstance(sources, list) or len(sources) != len(completions)):
        raise DataError(f"{where}.sources: {len(completions)} completions need as many sources, got {sources!r}")
    priority = row.get("priority")
    if priority is not None and not (isinstance(priority, (int, float)) and abs(priority) < 1e300):
        raise DataError(f"{where}.priority: expected a number, got {priority!r}")
    # of messages, role and content only: so one item has one id however it was read
    named = [_side(prompt, KEPT[:2]), [_side(completion, KEPT[:2]) for completion in completions]]
    digest = hashlib.sha256(as_json(named).encode()).hexdigest()
    prompt, completions = _side(prompt), [_side(completion) for completion in completions]
    return Item(
        id=digest[:16], prompt=as_json(prompt), completions=as_json(completions),
        sources=None if sources is None else as_json([str(source) for source in sources]),
        meta=as_json({key: value for key, value in row.items() if key not in COLUMNS}),
        split=str(row.get("split") or split), urgency=-float(priority or 0.0), place=int(digest[16:31], 16),
        differ=len(distinct(completions)),
    )  # fmt: skip


def distinct(completions: list[Any]) -> list[int]:
    """The index of the first of each group of identical answers: `[a, b, a]` gives `[0, 1]`."""
    first: dict[str, int] = {}
    for index, completion in enumerate(completions):
        first.setdefault(_answer(completion), index)
    return list(first.values())


def shown_order(completions: list[Any], seed: str, before: list[int] | None = None) -> list[int]:
    """Original indices of the differing completions, shuffled by `seed`, and never in the order `before`."""
    order = distinct(completions)
    rng = random.Random(seed)
    rng.shuffle(order)
    while order == before:
        rng.shuffle(order)
    return order


def original_ranks(completions: list[Any], shown: list[int], ranking: list[int]) -> list[int]:
    """Ranks in the order shown, as ranks of the original completions: identical ones share theirs.

    With completions `[a, b, a]` shown as `[1, 0]` and ranked `[1, 2]`: `[2, 1, 2]`.
    """
    rank = {_answer(completions[index]): place for index, place in zip(shown, ranking, strict=True)}
    return [rank[_answer(completion)] for completion in completions]


def _answer(completion: Any) -> str:
    """A completion as it is shown and ranked: without what was thought before the answer."""
    return as_json(reasoning.answer_of(completion))


def dense(ranking: Any, count: int) -> list[int]:
    """Check ranks and close their gaps: `[1, 4, 4]` becomes `[1, 2, 2]`.

    Raises:
        DataError: not a list of `count` whole numbers from 1 on.
    """
    whole = isinstance(ranking, list) and all(
        isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranking
    )
    if not whole or len(ranking) != count:
        raise DataError(f"ranking: {count} completions need as many whole numbers from 1 (best) on, got {ranking!r}")
    places = {rank: place for place, rank in enumerate(sorted(set(ranking)), 1)}
    return [places[rank] for rank in ranking]
