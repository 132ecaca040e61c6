"""Label Studio's exports, a task at a time: a ranking for each annotation of type `ranker`, `pairwise` or `rating`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from align.label.exchange.foreign import ImportConfig, prompt_of, ranking_row, side
from align.run.errors import DataError


def from_label_studio(row: dict, where: str, args: ImportConfig, counts: Counter[str]) -> Iterator[dict]:
    """One Label Studio task: a ranking for each annotation that was not cancelled."""
    if not isinstance(row.get("data"), dict):
        raise DataError(f"{where}.data: expected the task's data, got {str(row.get('data'))[:40]!r}; export as JSON")
    annotations = row.get("annotations", row.get("completions")) or []
    used = 0
    for number, one in enumerate(annotations):
        at = f"{where}, annotation {number + 1}"
        if not isinstance(one, dict) or not isinstance(one.get("result"), list):
            raise DataError(f"{at}.result: expected a list, got {str(one)[:60]!r}")
        if one.get("was_cancelled") or not one["result"]:
            counts["skipped or empty annotations"] += 1
            continue
        told = _studio_ranks(one["result"], row["data"], at, args)
        if told is None:
            counts["annotations without a ranker, pairwise or rating result"] += 1
            continue
        names, completions, ranks = told
        who = one.get("completed_by")
        who = who.get("email") or who.get("id") if isinstance(who, dict) else who
        used += 1
        yield ranking_row(
            prompt_of(row["data"], where, args), completions, ranks, annotator=None if who is None else str(who),
            time=one.get("created_at"), seconds=one.get("lead_time"), sources=names,
        )  # fmt: skip
    if not annotations:
        counts["tasks without annotations"] += 1


def _studio_ranks(
    result: list[Any], fields: dict[str, Any], where: str, args: ImportConfig
) -> tuple[list[str], list[Any], list[int]] | None:
    """(names, completions, ranks) of one annotation's result; None where it ranks nothing."""
    by: dict[str, list[dict]] = {}
    for one in result:
        if isinstance(one, dict) and isinstance(one.get("value"), dict):
            by.setdefault(str(one.get("type")), []).append(one)
    if by.get("ranker"):
        return _ranker(by["ranker"][0]["value"].get("ranker"), fields, f"{where}.value.ranker", args)
    if by.get("pairwise"):
        one = by["pairwise"][0]
        names = args.completion_fields or _names(one.get("to_name"))
        selected = one["value"].get("selected")
        if len(names) != 2 or selected not in ("left", "right"):
            raise DataError(f"{where}.value.selected: expected left or right of two, got {selected!r} of {names}")
        return names, _fields(names, fields, where), [1, 2] if selected == "left" else [2, 1]
    rated: dict[str, Any] = {}
    asked = [str(one.get("from_name")) for one in by.get("rating", [])]
    for one, question in zip(by.get("rating", []), asked, strict=True):
        if not question.startswith(args.question or ""):
            continue
        name = _names(one.get("to_name"))[0]
        if name in rated:
            raise DataError(
                f"{where}: {name} is rated more than once, by {', '.join(sorted(set(asked)))}; say what the names of "
                "the ratings begin with that say which is better: --question …"
            )
        rated[name] = one["value"].get("rating")
    if len(rated) < 2:
        return None
    if not all(isinstance(stars, (int, float)) and not isinstance(stars, bool) for stars in rated.values()):
        raise DataError(f"{where}.value.rating: expected a number for each completion, got {rated}")
    names = sorted(rated)
    ranks = [1 + sum(rated[other] > rated[name] for other in names) for name in names]
    own = args.completion_fields if len(args.completion_fields) == len(names) else names
    return names, _fields(own, fields, where), ranks


def _names(to_name: Any) -> list[str]:
    return [str(name) for name in to_name] if isinstance(to_name, list) else str(to_name).split(",")


def _fields(names: list[str], fields: dict[str, Any], where: str) -> list[Any]:
    """The completions by the names of their tags, which are often those of their fields."""
    if missing := [name for name in names if name not in fields]:
        raise DataError(
            f"{where}: no field {', '.join(missing)} in the task's data ({sorted(fields)}): its tags have other names; "
            "give the fields in the tags' order with --completion_fields"
        )
    return [side(fields[name], f"{where}.data.{name}") for name in names]


def _ranker(
    value: Any, fields: dict[str, Any], where: str, args: ImportConfig
) -> tuple[list[str], list[Any], list[int]] | None:
    """List + Ranker: ids best first under one name; with buckets, the bucket is the rank (`--buckets`)."""
    if not isinstance(value, dict) or not all(isinstance(ids, list) for ids in value.values()):
        raise DataError(f"{where}: expected {{name: [ids in their order]}}, got {str(value)[:60]!r}")
    lists = [told for told in fields.values() if isinstance(told, list) and told and isinstance(told[0], dict)]
    items = next((told for told in lists if all("id" in one for one in told)), None)
    if items is None:
        raise DataError(f"{where}: the task's data holds no list of {{id, title, body}} that could have been ranked")
    texts = {str(one["id"]): one.get("body") or one.get("html") or one.get("title") for one in items}
    buckets = {name: list(map(str, ids)) for name, ids in value.items() if ids}
    if args.buckets:
        if unknown := set(buckets) - {*args.buckets, "_"}:
            raise DataError(f"{where}: the bucket {sorted(unknown)[0]!r} is not in --buckets {' '.join(args.buckets)}")
        ranks = {one: place for place, name in enumerate(args.buckets, 1) for one in buckets.get(name, [])}
    elif len(buckets) > 1:
        raise DataError(
            f"{where}: several buckets, {', '.join(sorted(buckets))}: say which is better with --buckets best … worst"
        )
    else:
        ranks = {one: place for ids in buckets.values() for place, one in enumerate(ids, 1)}
    if unknown := set(ranks) - set(texts):
        raise DataError(f"{where}: ranks the id {sorted(unknown)[0]!r}, which is not among {sorted(texts)}")
    names = [name for name in texts if name in ranks]
    if len(names) < 2:
        return None
    return names, [side(texts[name], f"{where}.{name}") for name in names], [ranks[name] for name in names]
