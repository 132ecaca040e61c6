"""Votes on answers as they come: an item, its task and its ranking in one commit, in the store that `align label` has.

Whoever votes has the answers before the eyes already, so nothing is assigned; what is written is a row of rankings like
every other, which the export takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.label.store import answers, assignment, items
from align.label.store.items import Annotator
from align.label.store.store import Store


def cast(
    store: Store, annotator: Annotator, row: Mapping[str, Any], *, shown: Sequence[int], ranks: Sequence[int] | None,
    seconds: float | None = None,
) -> int | None:  # fmt: skip
    """Write one vote down; it is on disk when this returns. An earlier vote of this person's on the same is withdrawn.

    Args:
        row: `prompt`, `completions` and `sources`, as `Store.add` takes them.
        shown: the number of each completion, in the order in which they were shown.
        ranks: of the completions, 1 is best, ties allowed; identical ones share the better. None: all are bad.
        seconds: from when the answers were there to the vote.

    Returns:
        The task, by which `withdraw` finds the vote again; None where all completions are the same: then there is
        nothing to rank, and nothing was written.
    """
    groups = _groups(row["completions"])
    if len(set(groups)) < 2:
        return None
    with store.transaction():
        store.add([row])
        order = list(dict.fromkeys(groups[index] for index in shown))
        task = assignment.open_seen(store, annotator, items.item(row, "vote", "train").id, order)
        answers.take_back(store, annotator, task)
        asked = assignment.read_task(store, task)  # in its own order, where it was opened before
        ranking = None
        if ranks is not None:
            best: dict[int, int] = {}
            for group, rank in zip(groups, ranks, strict=True):
                best[group] = min(rank, best.get(group, rank))
            ranking = [best[index] for index in asked.order]
        store.answer(task, annotator, ranking=ranking, all_bad=ranks is None, seconds=seconds)
    return task


def _groups(completions: Sequence[Any]) -> list[int]:
    """For each completion the number of the first that is the same: `[a, b, a]` gives `[0, 1, 0]`."""
    firsts = items.distinct(list(completions))
    return [
        next(first for first in firsts if len(items.distinct([completions[first], one])) == 1) for one in completions
    ]


def withdraw(store: Store, annotator: Annotator, task: int) -> bool:
    """Take a vote back; it stays in the file as history. Was it there?"""
    with store.transaction():
        return answers.take_back(store, annotator, task) is not None
