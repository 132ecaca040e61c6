"""Rankings -> preference pairs with weights: pure functions on rows, and the only place where this is done.

A row: `prompt`, `completions` (K of them), `ranking` (K whole numbers, 1 is best, ties allowed), and where known
`annotator`, `kind`, `time`, `category`, `verdict` (`ranked`, `all_bad`, `skip`), `repeat`, `item`. K completions of a
prompt give up to K(K-1)/2 pairs; they stay next to each other and carry the prompt's hash as `group`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from align.data import arrow, text
from align.run.errors import DataError


@dataclass(frozen=True)
class Pairing:
    """How rankings become pairs; the fields are the flags of `PairArguments`, which explains them."""

    ties: str = "drop"
    weights: str = "prompt"
    annotators: tuple[str, ...] = ()
    aggregate: str = "each"
    held_out: bool = False  # not every one of the annotators needs to have ranked here


BESIDE = ("category", "tools", "chat_template_kwargs")  # what a pair has of its ranking beside the words
ALL = Pairing()  # the defaults: every annotator, ties dropped, prompts weighing the same


# -------------------------------------------------------------------------------------------------------- identity


def digest(value: Any) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def prompt_key(prompt: Any, chat_template_kwargs: dict[str, Any] | None = None) -> str:
    """16 hex digits that name a prompt; plain text is the same prompt as one user message with it.

    So are two Unicode forms of a text (NFC and NFD look alike, and a model is asked the same). What else a template is
    told, a system prompt often, makes another prompt of the same words.
    """
    told = text.canonical(prompt)
    turns = [["user", told]] if isinstance(told, str) else told
    return digest([*turns, dict(sorted(chat_template_kwargs.items()))] if chat_template_kwargs else turns)


def _key(row: dict) -> str:
    return prompt_key(row["prompt"], row.get("chat_template_kwargs"))


def item_key(row: dict) -> str:
    """16 hex digits that name an item: a prompt with its set of completions, in whatever order."""
    return digest([_key(row), sorted(map(text.completion, row["completions"]))])


# --------------------------------------------------------------------------------------------------------- rankings


def is_undecided(row: dict) -> str:
    """Why a row ranks nothing (`skipped`, `all bad without ranks`); empty where it must have ranks."""
    verdict = row.get("verdict")
    if verdict == "skip":
        return "skipped"
    if verdict == "all_bad" and row.get("ranking") is None:
        return "all bad without ranks"
    return ""


def check(row: dict, where: str) -> None:
    """Raise DataError where the ranks do not fit the completions; the message names the row and the field."""
    completions, ranking = row["completions"], row["ranking"]
    if not isinstance(completions, list):
        raise DataError(f"{where}.completions: expected a list of them, got {str(completions)[:60]!r}")
    if not isinstance(ranking, list) or len(completions) != len(ranking):
        raise DataError(f"{where}: {len(completions)} completions need as many ranks, got {ranking!r}")
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranking):
        raise DataError(f"{where}.ranking: expected whole numbers (1 is best), got {ranking!r}")
    if ranking and min(ranking) != 1:
        raise DataError(f"{where}.ranking: 1 is best, and nothing is ranked 1 in {ranking!r}; of scores the highest is "
                        "best, so write ranks instead")  # fmt: skip


def ranked(
    rows: Iterable[dict], source: str, annotators: tuple[str, ...], counts: Counter[str], held_out: bool = False
) -> Iterator[dict]:
    """The rows that rank something: one for each annotator and item, checked; the others are counted by reason.

    A person's second ranking of an item measures how consistent they are; as evidence it is the same opinion again, so
    the first one counts. Rows without an annotator are all kept: nobody knows who made them.
    """
    seen: set[tuple[str, str]] = set()
    known: set[str] = set()
    kept = sorted(enumerate(rows), key=lambda pair: bool(pair[1].get("repeat")))  # first rankings first, in order
    for index, row in kept:
        where, name = f"{source}, row {index + 1}", row.get("annotator")
        counts["rankings"] += 1
        known.add(str(name))
        if annotators and str(name) not in annotators:
            counts["by other annotators"] += 1
            continue
        if reason := is_undecided(row):
            counts[reason] += 1
            continue
        check(row, where)
        if name is not None:
            who = (str(name), str(row.get("item") or item_key(row)))
            if who in seen:
                counts["repeated"] += 1
                continue
            seen.add(who)
        yield row
    missing = set(annotators) - known
    if missing and not (held_out and missing != set(annotators)):
        raise DataError(f"{source}: nobody called {', '.join(sorted(missing))} ranked here; there are {sorted(known)}")


# ------------------------------------------------------------------------------------------------------------- pairs


def compare(row: dict) -> Iterator[tuple[Any, Any, int]]:
    """All K-choose-2 pairs of one ranking: (a, b, sign), 1 where a is better, -1 where b is, 0 for a tie."""
    for (a, rank_a), (b, rank_b) in itertools.combinations(zip(row["completions"], row["ranking"], strict=True), 2):
        yield a, b, (rank_a < rank_b) - (rank_a > rank_b)


def majority(rows: Iterable[dict]) -> list[dict]:
    """One row for each pair of completions that somebody compared: K = 2, ranked as most annotators do.

    The outcome (one better, the other, a tie) with the most votes; where two have as many, it is a tie. An annotator
    who compared the same two texts more than once (copies of a completion) has one vote, the sign of their sum. It is
    done by pairs, not by whole rankings, because a majority need not be a ranking (Condorcet's paradox).
    `votes` holds the number of votes for the first, for a tie, and for the second; `kind` is the annotators', `mixed`
    where people and models voted.
    """
    opinions: dict[tuple, dict[Any, int]] = defaultdict(lambda: defaultdict(int))
    told: dict[tuple, tuple[dict, Any, Any]] = {}
    kinds: dict[tuple, set[str | None]] = defaultdict(set)
    for number, row in enumerate(rows):
        group = _key(row)
        for a, b, sign in compare(row):
            if text.completion(a) > text.completion(b):
                a, b, sign = b, a, -sign
            key = (group, text.completion(a), text.completion(b))
            told.setdefault(key, (row, a, b))
            kinds[key].add(row.get("kind"))
            opinions[key][row.get("annotator") or number] += sign
    out = []
    for key, (row, a, b) in told.items():
        votes = Counter((total > 0) - (total < 0) for total in opinions[key].values())
        best = max(votes.values())
        winners = [sign for sign, count in votes.items() if count == best]
        sign = winners[0] if len(winners) == 1 else 0
        rest = {name: row[name] for name in ("split", *BESIDE) if row.get(name) is not None}
        ranking = {1: [1, 2], -1: [2, 1], 0: [1, 1]}[sign]
        kind = row.get("kind") if len(kinds[key]) == 1 else "mixed"
        out.append({"prompt": row["prompt"], "completions": [a, b], "ranking": ranking, "annotator": "majority",
                    "kind": kind, "votes": [votes[1], votes[0], votes[-1]], **rest})  # fmt: skip
    return out


def of_rankings(rows: Iterable[dict], source: str, pairing: Pairing = ALL) -> tuple[list[dict], Counter[str]]:
    """Rankings to preference pairs.

    Args:
        rows: `rankings` rows of one split.
        source: what messages call them.
        pairing: the choices that the user has.

    Returns:
        Rows of `prompt`, `chosen`, `rejected`, `weight`, `group` (and `BESIDE`), those of one prompt next
        to each other in the order of its first row; and counts: `rankings` read, what gave nothing and why, `pairs`
        made.

    Raises:
        DataError: for a malformed row, an annotator who is not there, and where no pair is left.
    """
    counts: Counter[str] = Counter()
    kept: Iterable[dict] = ranked(rows, source, pairing.annotators, counts, pairing.held_out)
    if pairing.aggregate == "majority":
        kept = majority(kept)
    groups: dict[str, list[dict]] = defaultdict(list)
    for number, row in enumerate(kept):
        by = str(row.get("annotator") or number)
        groups[_key(row)] += [{**pair, "by": by} for pair in _expand(row, pairing.ties, counts)]
    out = [{**pair, "group": group} for group, members in groups.items() for pair in members]
    counts["pairs"] = len(out)
    if not out:
        cause = "the rankings hold ties only" if counts["tied pairs dropped"] else "no row ranks anything"
        raise DataError(f"{source}: {cause}, so there is no pair to learn from ({describe(counts)})")
    _share(out)
    weigh(out, pairing.weights)
    return out, counts


def _expand(row: dict, ties: str, counts: Counter[str]) -> Iterator[dict]:
    """The pairs of one ranking, the better one as `chosen`; `weight` is 1, or 1/2 for each direction of a tie."""
    rest = {name: row[name] for name in BESIDE if row.get(name) is not None}
    for a, b, sign in compare(row):
        if text.completion(a) == text.completion(b):
            counts["pairs of identical completions"] += 1
        elif sign:
            better, worse = (a, b) if sign > 0 else (b, a)
            yield {"prompt": row["prompt"], "chosen": better, "rejected": worse, "weight": 1.0, **rest}
        elif ties == "half":
            counts["tied pairs taken half each way"] += 1
            yield {"prompt": row["prompt"], "chosen": a, "rejected": b, "weight": 0.5, **rest}
            yield {"prompt": row["prompt"], "chosen": b, "rejected": a, "weight": 0.5, **rest}
        else:
            counts["tied pairs dropped"] += 1


def _share(rows: list[dict]) -> None:
    """Two completions that several annotators told apart count as one comparison: they share its weight equally."""
    told: dict[tuple, set[str]] = defaultdict(set)
    keys = [
        (row["group"], frozenset((text.completion(row["chosen"]), text.completion(row["rejected"])))) for row in rows
    ]
    for key, row in zip(keys, rows, strict=True):
        told[key].add(row["by"])
    for key, row in zip(keys, rows, strict=True):
        row["weight"] /= len(told[key])
        del row["by"]


def weigh(rows: list[dict], how: str) -> None:
    """Scale `weight` in place, see `weighed`."""
    scaled = weighed(pa.array(row["group"] for row in rows), np.array([row["weight"] for row in rows]), how)
    for row, weight in zip(rows, scaled.tolist(), strict=True):
        row["weight"] = weight


def weighed(groups: Any, weights: np.ndarray, how: str) -> np.ndarray:
    """Weights [N] of pairs scaled such that their mean is 1 and a learning rate keeps its meaning.

    `prompt`: the weights of one prompt sum to the same for every prompt, whatever its number of pairs, in the
    proportion that they had. That is Ouyang et al. 2022, eq. 1, whose loss has 1/(K choose 2) before the sum over a
    prompt's pairs; ties give no pair here, so it is 1/(number of decided pairs). `pair`: they stay in proportion.

    Args:
        groups: the prompt of each pair, as an array of Arrow.
    """
    each = arrow.numbered(groups) if how == "prompt" else np.zeros(len(weights), np.int64)
    sums = np.bincount(each, weights)
    return weights * (len(weights) / len(sums) / sums[each])


def describe(counts: Counter[str]) -> str:
    """`12 rankings, 3 skipped, 4 tied pairs dropped, …` for one line of a report."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


# ------------------------------------------------------------------------------------------------------------ splits


def split_by_prompt(keys: Any, size: float, *, shuffle: Callable[[list], None]) -> tuple[list[int], list[int]]:
    """Rows to train and to test on such that no prompt is on both sides.

    Args:
        keys: what names each row's prompt: texts, or numbers.
        size: the share (below 1) or the number of rows to hold out.
        shuffle: puts a list of prompts into a random order, in place.

    Returns:
        Row numbers of both sides, each in the order of the rows. Whole prompts are taken until the number of rows is as
        near to the asked one as it gets that way.

    Raises:
        ValueError: where one side would be empty.
    """
    prompts = arrow.numbered(pa.array(keys))
    sizes = np.bincount(prompts).tolist()
    wanted = round(size * len(prompts)) if size < 1 else int(size)
    if len(sizes) < 2 or not 0 < wanted < len(prompts):
        raise ValueError(f"{len(prompts)} rows with {len(sizes)} prompts cannot give {wanted} rows to test on")
    order = list(range(len(sizes)))
    shuffle(order)
    held, count = list[int](), 0
    for prompt in order[:-1]:
        if held and abs(count + sizes[prompt] - wanted) > abs(count - wanted):
            continue  # this prompt has too many rows; a smaller one may still fit
        held.append(prompt)
        count += sizes[prompt]
        if count >= wanted:
            break
    chosen = np.isin(prompts, held)
    return np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist()
