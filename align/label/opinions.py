"""What annotators said of an item, read from rows in the `rankings` schema.

K completions of an item; ranks are whole numbers, 1 is best, ties allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from align.data import pairs, text

Ranks = dict[str, int]  # a completion's text to its rank


def ranks_of(row: dict) -> Ranks | None:
    """What one row says: each distinct completion that was shown, with its rank; None where it ranks nothing.

    Of identical completions the first counts. A better answer that the annotator wrote stands after the K that were
    shown (see `align export`); nobody else ranked it, and it is left out. That all are bad ranks none above another.
    """
    if row.get("ranking") is None or row.get("verdict") == "skip":
        return None
    count = len(row["completions"]) - bool(row.get("written"))
    out: Ranks = {}
    for completion, rank in list(zip(row["completions"], row["ranking"], strict=True))[:count]:
        out.setdefault(text.completion(completion), rank)
    if row.get("written") and row.get("verdict") == "all_bad" and len(set(out.values())) == 1:
        return None
    return out if len(out) > 1 else None


def who(row: dict) -> str:
    """The annotator's name; `unknown` where the rows came without one."""
    return str(row.get("annotator") or "unknown")


def item_of(row: dict) -> str:
    """The item that a row ranks: by its id, else by what is ranked."""
    return str(row.get("item") or pairs.item_key(row))


def signs(said: Ranks, compared: Iterable[tuple[str, str]]) -> list[int]:
    """1 where the first of a pair is better, -1 where the second is, 0 for a tie."""
    return [(said[a] < said[b]) - (said[a] > said[b]) for a, b in compared]


def opinions(rows: Iterable[dict], *, repeats: bool = False) -> dict[str, dict[str, Ranks]]:
    """What each annotator said of each item: item -> annotator -> ranks; first rankings, or the repeated ones."""
    out: dict[str, dict[str, Ranks]] = defaultdict(dict)
    for row in rows:
        said = ranks_of(row)
        if said is not None and bool(row.get("repeat")) == repeats:
            out[item_of(row)].setdefault(who(row), said)
    return out
