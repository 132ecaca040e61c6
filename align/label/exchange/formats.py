"""Other programs' rankings, a row at a time, into the `rankings` schema; the formats are described in `imports`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from align.data import schemas
from align.run.errors import DataError

ANSWERED = (None, "submitted")  # Argilla's other statuses: draft, discarded, pending
PROMPTS = ("prompt", "instruction", "question", "input", "query", "text", "context")


@dataclass
class ImportConfig:
    """What `align import` takes."""

    source: str | None = field(default=None, metadata={"help": "The export: a .json, .jsonl, .parquet … file."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write the rankings."})
    format: str = field(
        default="auto",
        metadata={"help": "What made the file; by default it is read off the first rows.",
                  "choices": ["auto", "trl", "hh", "argilla", "label_studio"]},
    )  # fmt: skip
    kind: str = field(
        default="person",
        metadata={"help": "Who ranked: people, or a model (many public sets).", "choices": ["person", "model"]},
    )
    question: str | None = field(
        default=None,
        metadata={"help": "The ranking question (Argilla), or what the ratings' names begin with (Label Studio)."},
    )
    prompt_field: str | None = field(
        default=None, metadata={"help": f"The field with the prompt (default: the first of {', '.join(PROMPTS)})."}
    )
    completion_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "The fields with the completions, where the names in the export are not the fields' own."},
    )
    buckets: list[str] = field(
        default_factory=list, metadata={"help": "Label Studio's Ranker: the buckets' names from best to worst."}
    )
    test_split_size: float | None = field(
        default=None, metadata={"help": "Share (0 to 1) or number of rows held out, by prompt."}
    )
    seed: int = field(default=0, metadata={"help": "Of the split."})


Reader = Callable[[dict, str, ImportConfig, Counter[str]], Iterator[dict]]


def _ranking(prompt: Any, completions: list[Any], ranking: list[int], **rest: Any) -> dict[str, Any]:
    """One row of the schema; who ranked and when are None where the export does not say."""
    row = {"prompt": prompt, "completions": completions, "ranking": ranking, "annotator": None, "time": None}
    return {**row, "kind": "person", "verdict": "ranked", **{k: v for k, v in rest.items() if v is not None}}


def _text(value: Any, where: str) -> Any:
    """A prompt or completion: text, or messages."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value:
        return schemas.messages(value, where)
    raise DataError(f"{where}: expected text or messages, got {type(value).__name__} {str(value)[:40]!r}")


def _prompt(fields: dict[str, Any], where: str, args: ImportConfig) -> Any:
    """The prompt among a record's fields."""
    names = [args.prompt_field] if args.prompt_field else [name for name in PROMPTS if name in fields]
    if not names or names[0] not in fields:
        raise DataError(f"{where}: no field with the prompt among {sorted(fields)}; name it with --prompt_field")
    return _text(fields[names[0]], f"{where}.{names[0]}")


# ----------------------------------------------------------------------------------------------------- TRL, HH


def from_pairs(row: dict, where: str, args: ImportConfig, counts: Counter[str]) -> Iterator[dict]:
    """TRL's preference rows and HH transcripts: a ranking of two, the chosen one first."""
    for name in ("chosen", "rejected"):
        if row.get(name) in (None, "", []):
            raise DataError(f"{where}.{name}: expected text or messages, got {row.get(name)!r}")
    pair = schemas.preference(row, where)
    if pair["drop"]:
        counts[pair["drop"]] += 1
        return
    extra = {key: row[key] for key in ("category", "split", "annotator") if row.get(key) is not None}
    yield _ranking(pair["prompt"], [pair["chosen"], pair["rejected"]], [1, 2], **extra)


# ------------------------------------------------------------------------------------------------------ Argilla


def from_argilla(row: dict, where: str, args: ImportConfig, counts: Counter[str]) -> Iterator[dict]:
    """One Argilla record: a ranking for each submitted response to its ranking question."""
    fields = row["fields"] if isinstance(row.get("fields"), dict) else row
    answers = list(_responses(row, where, args))
    if not answers:
        counts["records without a submitted ranking"] += 1
        return
    prompt = _prompt(fields, where, args)
    for number, (user, value) in enumerate(answers):
        at = f"{where}, response {number + 1}"
        order = _argilla_ranks(value, at)
        for name in order:
            if name not in fields:
                raise DataError(f"{at}: ranks {name!r}, which is no field of the record; there are {sorted(fields)}")
        completions = [_text(fields[name], f"{where}.{name}") for name in order]
        if len(completions) < 2:
            counts["rankings of fewer than two"] += 1
            continue
        yield _ranking(prompt, completions, list(order.values()), annotator=user, sources=list(order))


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
    old = {n for n, told in row.items() if n not in ("fields", "suggestions") and _is_answers(told)}
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


def _is_answers(told: Any) -> bool:
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


# ------------------------------------------------------------------------------------------------- Label Studio


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
        yield _ranking(
            _prompt(row["data"], where, args), completions, ranks, annotator=None if who is None else str(who),
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
    return [_text(fields[name], f"{where}.data.{name}") for name in names]


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
    return names, [_text(texts[name], f"{where}.{name}") for name in names], [ranks[name] for name in names]


READERS: dict[str, Reader] = {
    "trl": from_pairs, "hh": from_pairs, "argilla": from_argilla, "label_studio": from_label_studio,
}  # fmt: skip


def detect(row: dict) -> str | None:
    """Which program's export a row is of; None where that cannot be told."""
    if "data" in row and ("annotations" in row or "predictions" in row):
        return "label_studio"
    if "chosen" in row and "rejected" in row:
        return "hh" if str(row["chosen"]).startswith("\n\nHuman:") else "trl"
    if ("fields" in row and "responses" in row) or any(name.endswith(".responses") for name in row):
        return "argilla"
    return "argilla" if any(map(_is_answers, row.values())) else None
