"""A row in each schema, from the many forms that public data sets have: detected, checked, named where it is wrong.

Every maker gives, beside the parts of its schema, `drop` (why the row is useless, or ""), `origin` (part -> the columns
it was read from; `unread` are the columns and keys of messages that say something and were not read), and `tools` and
`chat_template_kwargs` where the row has some.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from align.data import text
from align.data.forms import asked, beside, sides, turns
from align.data.forms.reading import Reading
from align.data.forms.turns import Messages
from align.run.errors import DataError

NEEDED = {
    "text": "text",
    "sft": "messages, or prompt and completion (also: question/answer, instruction/output, query/response, "
    "conversations)",
    "preference": "prompt, chosen and rejected (also: chosen/rejected transcripts, or prompt/completions/ranking)",
    "prompt": "prompt (also: messages, question, instruction, or a preference row's prompt)",
}
# What people or models said of the completions of a row, and how these were sampled: of no use once others are sampled.
OF_COMPLETIONS = (
    "completions", "ranking", "annotator", "kind", "time", "verdict", "reason", "better", "written", "seconds", "shown",
    "repeat", "item", "sources", "votes", "stopped", "lengths", "weight", "margin",
)  # fmt: skip
# The same of completions or of a pair: in a row of rankings to learn from, they are named as not read
OF_EITHER = ("score", "scores", "rating", "ratings", "rank", "ranks")
OF_A_SIDE = re.compile(r"(.*[_-])?(chosen|rejected)([_-].*)?")  # score_chosen, rejected-rating
OPTIONAL = {"margin": 0.0, "weight": 1.0}  # of a pair


class NoForm(DataError):
    """The columns of a row are those of no form that the schema has."""


def rename(rows: Any, columns: list[str]) -> Any:
    """Apply a column mapping (`theirs=ours`). The roles `user`, `assistant` and `system` make a conversation."""
    for pair in columns:
        theirs, _, ours = pair.partition("=")
        if not ours:
            raise DataError(f"--columns {pair}: write theirs=ours, for example question=user answer=assistant")
        if rows.column_names and theirs not in rows.column_names:
            raise DataError(f"--columns {pair}: there is no column {theirs}; the columns are {rows.column_names}")
        if theirs != ours:
            if rows.column_names and ours in rows.column_names:
                rows = rows.remove_columns(ours)
            rows = rows.rename_column(theirs, ours)
    if columns:
        beside.refuse_undecided(columns, rows.column_names or [])
    return rows


def _no_form(row: Reading, schema: str) -> NoForm:
    names = [name for name in row.row if row.has(name)] or list(row.row)
    half = ""
    if schema == "sft" and row.origin.get("prompt"):
        half = f" (the question is in {row.origin['prompt'][0]}, and no column holds its answer)"
    elif schema == "sft" and (answer := row.first(asked.ANSWERS)):
        half = f" (an answer is in {answer}, and no column holds its question)"
    return NoForm(
        f"{row.where}: has the columns {', '.join(names)}{half}; this recipe needs {NEEDED[schema]}. "
        f"{beside.way_on(row.row, schema)}"
    )


def _made(row: Reading, parts: dict[str, Any], drop: str) -> dict[str, Any]:
    """A row of ours: its parts, what it tells the template beside them, and where everything was found."""
    more = {"tools": asked.tools(row), "chat_template_kwargs": asked.chat_template_kwargs(row)}
    more = {name: value for name, value in more.items() if value}
    if more and any(isinstance(parts.get(name), str) for name in ("prompt", "completion")):
        raise DataError(f"{row.at(next(iter(more)))}: needs the chat template; leave --prompt_format text out")
    origin = {part: names[0] if len(names) == 1 else names for part, names in row.origin.items()}
    if unread := sorted(row.unread()):
        origin["unread"] = unread
        origin["matter"] = row.matter()
    return {**parts, **more, "drop": drop, "origin": origin}


# ------------------------------------------------------------------------------------------------------------ makers


def text_row(raw: dict, where: str, prompt_format: str = "auto") -> dict:
    """A row of text."""
    row = Reading(raw, where, prompt_format)
    if "text" not in raw:
        raise _no_form(row, "text")
    return _made(row, {"text": row.text("text", "text")}, "")


def sft(raw: dict, where: str, prompt_format: str = "auto") -> dict:
    """A demonstration: `messages`, or `prompt` and `completion` where they are plain text."""
    row = Reading(raw, where, prompt_format)
    said = asked.conversation(row)
    if said is None:
        return _answered(row)
    name = _answer_column(row)
    if name and isinstance(row.row[name], str) and said and said[-1]["role"] in ("user", "tool"):
        said = [*said, *turns.assistant(row.text("answer", name))]
    said = asked.with_reasoning(row, said)
    return _made(row, {"messages": said}, _unlearnable(said))


def _answered(row: Reading) -> dict:
    """A question and its answer, each in a column of its own."""
    prompt, name = asked.question(row), _answer_column(row)
    if prompt is None or name is None:
        raise _no_form(row, "sft")
    _refuse_two_questions(row, prompt, name)
    answer = row.side("answer", name)
    bad = name == "completion" and isinstance(row.row.get("label"), bool) and not row.row["label"]
    if name == "completion" and isinstance(row.row.get("label"), bool):
        row.note("label", "label")
    if isinstance(prompt, str) and isinstance(answer, str):
        drop = sides.EMPTY if turns.is_empty(answer) else sides.NO_PROMPT if asked.is_empty(prompt) else ""
        return _made(row, {"prompt": prompt, "completion": answer}, drop or (sides.BAD if bad else ""))
    if isinstance(prompt, str):
        raise DataError(f"{row.where}: prompt and completion must both be text or both be messages")
    if isinstance(answer, str):
        answer = turns.assistant(sides.turned(row, answer))
    said = asked.with_reasoning(row, [*turns.without_switches(prompt), *answer])
    if prompt and prompt[-1]["role"] == "assistant":
        return _made(row, {"messages": said}, "whose prompt ends with the assistant's turn")
    return _made(row, {"messages": said}, _unlearnable(said) or (sides.BAD if bad else ""))


def _refuse_two_questions(row: Reading, prompt: asked.Prompt, answer: str) -> None:
    """Refuse a text in `prompt` beside another question in a column of its own: one of them is what was answered.

    A `completion` is that of `prompt`. Other answers may be of either: `prompt` may be a whole example as it was
    rendered, answer included, or what made a model write the question. The same question is noted as read.
    """
    if answer == "completion" or row.origin["prompt"][0] != "prompt" or not isinstance(row.row["prompt"], str):
        return
    for name in ("question", "instruction", "query", "input"):
        if not isinstance(row.row.get(name), str) or not row.row[name]:
            continue
        said = turns.user(row.row[name])
        if asked.agrees(text.user_side(prompt), said):
            row.note("prompt", name)
        elif name != "input":
            raise asked.contradiction(row, "prompt", prompt, name, said)
        else:
            raise DataError(
                f"{row.where}: prompt and input both hold words; --columns prompt=instruction reads one after the "
                f"other, input={beside.ASIDE} takes it out of the way"
            )


def _answer_column(row: Reading) -> str | None:
    """The answer that goes with the question's column, else the first that there is."""
    partners = {"user": "assistant", "question": "answer", "instruction": "output", "query": "response"}
    mine = next((partners.get(name) for name in row.origin.get("prompt", []) if name in partners), None)
    return row.first((mine, *asked.ANSWERS) if mine else asked.ANSWERS)


def _unlearnable(said: Messages) -> str:
    """Why nothing, or nothing good, can be learnt from a conversation; "" where it can."""
    learnt = [turn for turn in said if turn["role"] == "assistant" and turn.get("learn", True)]
    if asked.is_empty(said):
        return sides.NO_PROMPT
    if not learnt:
        return "without an answer to learn"
    return sides.EMPTY if any(map(turns.is_empty, learnt)) else ""


def preference(raw: dict, where: str, prompt_format: str = "auto") -> dict:
    """A pair: `prompt`, `chosen` and `rejected`, and where the row has them `margin`, `category` and `weight`."""
    row = Reading(raw, where, prompt_format)
    if not {*asked.PAIR} <= {*raw} or not any(map(row.has, asked.PAIR)):
        raise _no_form(row, "preference")
    prompt, chosen, rejected, drop = sides.pair(row)
    sides.name_other_answers(row, prompt, chosen, rejected)
    out: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    # where only some rows have a column, the others ask for no margin, and weigh as one
    out |= {name: row.number(name) if row.has(name) else usual for name, usual in OPTIONAL.items() if name in raw}
    if out.get("weight", 0) < 0:
        raise DataError(f"{where}.weight: expected a number that is not negative, got {raw['weight']!r}")
    if row.has("category"):
        row.note("category", "category")
        out["category"] = str(raw["category"])
    return _made(row, out, drop)


def ranking(raw: dict, where: str, prompt_format: str = "auto") -> dict:
    """A ranking with its prompt read as every row's is, and its completions as text or turns like it."""
    row = Reading(raw, where, prompt_format)
    prompt = asked.own(row)
    if prompt is None:
        raise _no_form(row, "preference")
    completions = raw.get("completions")
    if isinstance(completions, list):
        completions = [_completion(row, number, one, prompt) for number, one in enumerate(completions)]
    row.note("completions", "completions")
    made = _made(row, {"prompt": prompt, "completions": completions}, "")
    unread = [name for name in made["origin"].get("unread", []) if name not in (*OF_COMPLETIONS, "category", "split")]
    return {**raw, "tools": None, "chat_template_kwargs": None, **made, "unread": unread}


def _completion(row: Reading, number: int, one: Any, prompt: asked.Prompt) -> str | Messages:
    name = f"completions[{number}]"
    said = Reading({name: one}, row.where, row.prompt_format).side(name, name)
    return turns.assistant(said) if isinstance(said, str) and not isinstance(prompt, str) else said


def prompt(raw: dict, where: str, prompt_format: str = "auto") -> dict:
    """A row of whatever schema as its `prompt`, with the columns that are no part of it, for reward functions.

    What judged or belongs to completions that are not sampled yet is left out.
    """
    row = Reading(raw, where, prompt_format)
    for name in ("drop", "origin"):
        if row.has(name):
            raise DataError(f"{row.at(name)}: this name is taken; give the column another: --columns {name}=other")
    found = sides.pair(row)[0] if all(map(row.has, asked.PAIR)) else asked.own(row)
    if found is None:
        raise _no_form(row, "prompt")
    drop = sides.NO_PROMPT if asked.is_empty(found) else ""
    if not isinstance(found, str) and found and not drop and found[-1]["role"] == "assistant":
        drop = "whose prompt ends with the assistant's turn"
    made = _made(row, {"prompt": found}, drop)
    read = {name for names in row.origin.values() for name in names}
    gone = {*read, *asked.TURNS, *asked.PAIR, "completions", "tools", "chat_template_kwargs"}
    each = _one_each(raw) - {*gone, *OF_COMPLETIONS, *OF_EITHER}
    gone |= {*OF_COMPLETIONS, *OF_EITHER, *each} if _has_completions(raw) else set()
    if raw.get("chosen") is not None:  # of a pair that is there no more
        gone |= {"margin", "weight", *OF_EITHER, *filter(OF_A_SIDE.fullmatch, raw)}
    kept = {name: value for name, value in raw.items() if name not in gone}
    for name in ("unread", "matter"):  # they are kept
        made["origin"].pop(name, None)
    if each:
        made["origin"]["unread"] = sorted(each)
    return {**kept, **made}


def _one_each(raw: dict) -> set[str]:
    """Columns that list one thing for each of a row's completions."""
    said = raw.get("completions")
    if not isinstance(said, list) or not said:
        return set()
    return {name for name, value in raw.items() if isinstance(value, list) and len(value) == len(said)}


def _has_completions(raw: dict) -> bool:
    return raw.get("completions") is not None or raw.get("ranking") is not None


MAKERS: dict[str, Callable[[dict, str, str], dict]] = {
    "text": text_row,
    "sft": sft,
    "preference": preference,
    "prompt": prompt,
}
