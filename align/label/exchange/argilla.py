"""Argilla's exports, a record at a time: a ranking for each submitted response to the ranking question.

1.x records have `responses: [{user_id, status, values: {question: {value: [{rank, value}]}}}]`, and its `datasets`
export a column for each question; 2.x records have `responses: {question: [{value, user_id}]}`, and flattened
`question.responses`, `.responses.users`, `.responses.status`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from align.label.exchange.foreign import ImportConfig, prompt_of, ranking_row, side
from align.run.errors import DataError

ANSWERED = (None, "submitted")  # the other statuses: draft, discarded, pending


def from_argilla(row: dict, where: str, args: ImportConfig, counts: Counter[str]) -> Iterator[dict]:
    """One Argilla record: a ranking for each submitted response to its ranking question."""
    fields = row["fields"] if isinstance(row.get("fields"), dict) else row
    answers = list(_responses(row, where, args))
    if not answers:
        counts["records without a submitted ranking"] += 1
        return
    prompt = prompt_of(fields, where, args)
    for number, (user, value) in enumerate(answers):
        at = f"{where}, response {number + 1}"
        order = _argilla_ranks(value, at)
        for name in order:
            if name not in fields:
                raise DataError(f"{at}: ranks {name!r}, which is no field of the record; there are {sorted(fields)}")
        completions = [side(fields[name], f"{where}.{name}") for name in order]
        if len(completions) < 2:
            counts["rankings of fewer than two"] += 1
            continue
        yield ranking_row(prompt, completions, list(order.values()), annotator=user, sources=list(order))


def _argilla_ranks(value: Any, where: str) -> dict[str, int]:
    """What a ranking question was answered: `[{rank, value}]`, `{rank: […], value: […]}`, or names best first."""
    if isinstance(value, dict) and isinstance(value.get("value"), list) and isinstance(value.get("rank"), list):
        value = [{"rank": rank, "value": name} for rank, name in zip(value["rank"], value["value"], strict=True)]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}.value: expected a list of {{rank, value}} or of names, got {str(value)[:60]!r}")
    ranks: dict[str, int] = {}
    for place, one in enumerate(value, 1):
        name, rank = (one.get("value"), one.get("rank")) if isinstance(one, dict) else (one, place)
        if not isinstance(name, str) or isinstance(rank, bool) or not isinstance(rank, int):
            raise DataError(f"{where}.value[{place - 1}]: expected {{rank: whole number, value: a field}}, got {one!r}")
        ranks[name] = rank
    return dict(sorted(ranks.items()))  # by field, so that every annotator's row has the same order


def _responses(row: dict, where: str, args: ImportConfig) -> Iterator[tuple[str | None, Any]]:
    """(user, value) of every submitted answer to the ranking question, from each of Argilla's layouts."""
    responses = row.get("responses")
    if isinstance(responses, list):  # 1.x records
        for one in responses:
            if not isinstance(one, dict) or not isinstance(one.get("values") or {}, dict):
                raise DataError(f"{where}.responses: expected {{user_id, status, values}}, got {str(one)[:60]!r}")
            values = {name: (v or {}).get("value") for name, v in (one.get("values") or {}).items()}
            name = _question({n for n, value in values.items() if _is_ranking(value)}, where, args)
            if one.get("status") in ANSWERED and name:
                yield one.get("user_id"), values[name]
        return
    if isinstance(responses, dict):  # 2.x records
        asked = {n: told or [] for n, told in responses.items()}
        found = {n for n, told in asked.items() if any(_is_ranking(one.get("value")) for one in told)}
        name = _question(found, where, args)
        for one in asked.get(name, []) if name else []:
            if one.get("status") in ANSWERED:
                yield one.get("user_id"), one.get("value")
        return
    yield from _flat_responses(row, where, args)


def _flat_responses(row: dict, where: str, args: ImportConfig) -> Iterator[tuple[str | None, Any]]:
    """The `datasets` layouts: 2.x `question.responses` beside `.users` and `.status`; 1.x a column for the question."""
    flat = {n.removesuffix(".responses") for n, told in row.items() if n.endswith(".responses") and told}
    old = {n for n, told in row.items() if n not in ("fields", "suggestions") and is_answers(told)}
    name = _question({n for n in flat if any(map(_is_ranking, row[f"{n}.responses"]))} | old, where, args)
    if name is None:
        return
    if name in flat:
        values = row[f"{name}.responses"]
        users, states = row.get(f"{name}.responses.users"), row.get(f"{name}.responses.status")
    else:
        told = row[name]
        if isinstance(told, list):
            told = {key: [one.get(key) for one in told] for key in ("user_id", "value", "status")}
        values, users, states = told["value"], told.get("user_id"), told.get("status")
    for number, value in enumerate(values):
        if (states[number] if states else None) in ANSWERED:
            yield users[number] if users else None, value


def is_answers(told: Any) -> bool:
    """A 1.x question's column: `[{user_id, value, status}]`, or the same turned into lists."""
    if isinstance(told, list) and told and isinstance(told[0], dict):
        return "status" in told[0] and _is_ranking(told[0].get("value"))
    return isinstance(told, dict) and bool(told.get("status")) and any(map(_is_ranking, told.get("value") or []))


def _is_ranking(value: Any) -> bool:
    """Does it look like the answer to a ranking question? A list of names may also be a multi-label answer."""
    if isinstance(value, dict):
        return isinstance(value.get("rank"), list)
    return isinstance(value, list) and bool(value) and all(
        isinstance(one, str) or (isinstance(one, dict) and "rank" in one) for one in value
    )  # fmt: skip


def _question(found: set[str], where: str, args: ImportConfig) -> str | None:
    """The ranking question's name; None where this record has no answer to it."""
    if args.question:
        return args.question if args.question in found else None
    if len(found) > 1:
        raise DataError(f"{where}: several questions may be the ranking: {sorted(found)}; name it with --question")
    return next(iter(found), None)
