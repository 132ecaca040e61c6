"""What a row asks: its prompt, read in one way whatever it is to be used for.

What may say it, in this order: a conversation (`messages`, `conversations`), `prompt`, or a question in a column of its
own. Beside it stand `system`, `history` and `tools`. A string in `prompt` is plain text, as in TRL, unless something
else in the row makes turns; a question in any other column is a user's turn.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from align.data import text
from align.data.forms import beside, turns
from align.data.forms.reading import Reading
from align.data.forms.turns import Messages
from align.run.errors import DataError

Prompt = str | Messages

TURNS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "instruction", "query", "user", "input")
SYSTEM = ("system", "system_prompt")
BESIDE_A_QUESTION = {"instruction": ("input", "context")}  # what it is asked of; with other questions, the context
ANSWERS = ("completion", "answer", "output", "response", "assistant")
PAIR = ("chosen", "rejected")
# All that a prompt may be made of, or that says whether it is plain text.
COLUMNS = (
    *TURNS, "prompt", *QUESTIONS, "context", *SYSTEM, "history", "tools", "chat_template_kwargs", *PAIR, "completion",
    "completions",
)  # fmt: skip
# What rendering sets itself: no row's to say in `chat_template_kwargs`
OURS = {
    "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "raise_exception", "strftime_now", "bos_token", "eos_token", "pad_token", "unk_token",
}  # fmt: skip


def conversation(row: Reading) -> Messages | None:
    """The conversation that a row holds, its system prompt before it; None where it holds none.

    Raises:
        DataError: where `prompt` or the system prompt beside it say something else.
    """
    name = next((name for name in TURNS if _holds_turns(row, name)), None)
    if name is None:
        empty = row.row.get("messages") == [] or row.row.get("conversations") == []
        return [] if empty and row.first(("prompt", *QUESTIONS, *PAIR)) is None else None
    said = row.messages("messages", name)
    _refuse_text(row, name)
    said = with_system(row, said, name)
    if said and said[0]["role"] == "assistant":  # a greeting, before anybody asked: context
        said = [{**said[0], "learn": False}, *said[1:]]
    if row.has("prompt"):
        _agree(row, said, name)
    for other in QUESTIONS:  # the same question once more is read; another one is named as not read
        if isinstance(row.row.get(other), str) and agrees(row.row[other], said):
            row.note("prompt", other)
    return said


def _holds_turns(row: Reading, name: str) -> bool:
    """`conversation` has other uses, so its values are looked at; the other columns have this one."""
    value = row.row.get(name)
    if name != "conversation":
        return value is not None and value != []
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and bool({*first} & {"role", "from"})


def own(row: Reading) -> Prompt | None:
    """The prompt that a row's own columns hold, whatever `chosen` and `rejected` may begin with; None for none."""
    said = conversation(row)
    row.said = said or []
    return question(row) if said is None else turns.without_switches(turns.before_the_answer(said))


def question(row: Reading) -> Prompt | None:
    """What is asked in a column other than a conversation's, with `system` and `history`; None where nothing is."""
    # a mapped pair `user` and `assistant` goes first; `user` alone may well be somebody's name
    name = row.first(("prompt", *(("user",) if row.has("assistant") else ()), *QUESTIONS))
    if name is None:
        return None
    value = row.row[name]
    if name == "prompt" and isinstance(value, (list, dict)):
        _refuse_text(row, "prompt")
        if not value:
            row.note("prompt", "prompt")
            return []
        said = turns.without_switches(row.messages("prompt", "prompt"))
        return with_system(row, said, "prompt")
    if isinstance(value, (list, dict)):
        way = f"--columns {name}=messages reads turns" if beside.holds_turns(value) else "write its words into a column"
        raise DataError(f"{row.at(name)}: expected text, got {turns.told(value)}; {way}")
    asked = row.text("prompt", name)
    more = row.first(BESIDE_A_QUESTION.get(name, ("context",) if name != "prompt" else ()))
    if more and row.row[more]:
        if isinstance(row.row[more], (list, dict)):
            raise DataError(
                f"{row.at(more)}: expected text that goes with {name}, got {turns.told(row.row[more])}; write its "
                f"words into a column, or take it out of the way: --columns {more}={beside.ASIDE}"
            )
        asked += f"\n\n{row.text('prompt', more)}"
    if row.prompt_format == "text":
        for other in (*SYSTEM, "history", "tools", "chat_template_kwargs"):
            if row.row.get(other) and row.row[other] not in ("[]", "{}"):
                _refuse_text(row, other)
        return asked
    if name == "prompt" and row.prompt_format == "auto" and not turns.is_transcript(asked) and not _makes_turns(row):
        return asked
    said = turns.transcript(asked) if turns.is_transcript(asked) else turns.user(asked)
    if said and said[-1] == turns.assistant("")[0]:
        said = said[:-1]  # where a transcript's answer is to come; no turn
    return with_system(row, [*_history(row), *said], name)


def _makes_turns(row: Reading) -> bool:
    """Does something beside a string in `prompt` need the chat template?"""
    if any(isinstance(row.row.get(name), (list, dict)) for name in ("completion", *PAIR)):
        return True
    completions = row.row.get("completions")
    if isinstance(completions, list) and any(isinstance(one, (list, dict)) for one in completions):
        return True
    # a file gives every row each of its columns, and is of one format: rows in which these are empty are chat too
    if any(name in row.row for name in ("history", *SYSTEM)):
        return True
    return row.has("tools") or bool(chat_template_kwargs(row))


def _history(row: Reading) -> Messages:
    """The turns before the question: `[[user, assistant], …]`, or messages."""
    past = row.row.get("history")
    if past is None or past == [] or past == "":
        return []
    if isinstance(past, list) and isinstance(past[0], dict):
        return turns.without_switches(row.messages("history", "history"))
    row.note("history", "history")
    said: Messages = []
    for number, pair in enumerate(past if isinstance(past, list) else [past]):
        where = f"{row.at('history')}[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"{where}: expected [what the user said, what the assistant said], got {turns.told(pair)}; a column "
                "that is something else needs another name: --columns history=other"
            )
        asked, answered = (turns.words(words, where) for words in pair)
        said += [*turns.user(asked), *turns.assistant(answered)]
    return said


def with_system(row: Reading, said: Messages, name: str) -> Messages:
    """Turns of the column `name`, with the system prompt that the row has in a column of its own before them.

    Raises:
        DataError: where the turns begin with another one.
    """
    column = next((column for column in SYSTEM if row.row.get(column)), None)
    if column is None:
        return said
    told = row.text("system", column)
    if not told.strip():
        return said
    if not said or said[0]["role"] != "system":
        return [*turns.system(told), *said]
    if _plain(said[0]["content"]) != _plain(told):
        raise DataError(
            f"{row.where}: the system prompts in {column} ({text.short(told, 60)!r}) and in {name} "
            f"({text.short(said[0]['content'], 60)!r}) differ; give the one that is not meant another name: "
            f"--columns {column}=other"
        )
    return said


def _agree(row: Reading, said: Messages, name: str) -> None:
    """`prompt` beside a conversation is what it begins with, or a question in it (its first, mostly)."""
    row.note("prompt", "prompt")
    value = row.row["prompt"]
    if isinstance(value, str):
        told: Prompt = turns.transcript(value) if turns.is_transcript(value) else turns.words(value, row.at("prompt"))
    else:
        told = row.messages("prompt", "prompt")
    if not agrees(told, said):
        raise contradiction(row, "prompt", told, name, said)


def agrees(asked: Prompt, said: Messages) -> bool:
    """Is a prompt what some turns begin with, or, as text, what the user asks first or last in them?

    A system prompt that only one of them has, spaces at the ends and Unicode forms make no difference.
    """
    if isinstance(asked, str):
        questions = [_plain(turn["content"]) for turn in said if turn["role"] == "user"]
        return _plain(asked) in (questions[:1] + questions[-1:])
    mine, theirs = ([(t["role"], _plain(t["content"])) for t in some] for some in (asked, said))
    if not (mine and theirs and mine[0][0] == theirs[0][0] == "system"):
        mine, theirs = ([turn for turn in some if turn[0] != "system"] for some in (mine, theirs))
    mine = mine[:-1] if mine[-1:] == [("assistant", "")] else mine
    return theirs[: len(mine)] == mine


def contradiction(row: Reading, column: str, asked: Prompt, name: str, said: Messages) -> DataError:
    """Two columns of a row ask different things."""
    theirs = next((turn["content"] for turn in said if turn["role"] == "user"), text.contents(said))
    mine = asked if isinstance(asked, str) else text.user_side(asked)
    return DataError(
        f"{row.where}: {column} ({text.short(mine, 60)!r}) is not what is asked in {name} "
        f"({text.short(theirs, 60)!r}); give the one that is not meant another name: --columns {column}=other"
    )


def with_reasoning(row: Reading, said: Messages) -> Messages:
    """A conversation whose last answer has the reasoning that the row holds in a column of its own.

    Where the answer has some already, or the column is a switch ("on", true), it is not read.
    """
    name = next((name for name in turns.REASONING if turns.is_thought(row.row.get(name))), None)
    last = next((at for at in reversed(range(len(said))) if said[at]["role"] == "assistant"), None)
    if name is None or last is None or "think>" in said[last]["content"]:
        return said
    if said[last].get("reasoning_content", row.row[name]) != row.row[name]:
        return said
    answer = {**said[last], "reasoning_content": row.text("reasoning", name)}
    return [*said[:last], answer, *said[last + 1 :]]


def tools(row: Reading) -> list[dict[str, Any]]:
    """The tools that the row offers; empty for none."""
    if not row.has("tools"):
        return []
    found = turns.tools(row.row["tools"], row.at("tools"))
    row.note("tools", "tools")
    return found


def chat_template_kwargs(row: Reading) -> dict[str, Any]:
    """What the row tells the chat template beside its messages (`enable_thinking`, …), as in TRL; empty for nothing.

    Raises:
        DataError: where it is no object, or sets what rendering sets itself.
    """
    column = "chat_template_kwargs"
    if not row.has(column):
        return {}
    row.note(column, column)
    value = row.row[column]
    found = turns.decoded(value, row.at(column)) if value != "" else None
    if found is not None and not isinstance(found, dict):
        raise DataError(f"{row.at(column)}: expected an object, such as {{'thinking': true}}, got {turns.told(found)}")
    told = {name: one for name, one in (found or {}).items() if one is not None}  # tables give every row every name
    if taken := sorted(OURS & {*told}):
        raise DataError(
            f"{row.at(column)}: {', '.join(taken)}: the recipes say this themselves; leave it out (tools, messages and "
            "a date have columns and a flag of their own)"
        )
    return told


def is_empty(prompt: Prompt) -> bool:
    """Does a prompt ask nothing: blank, or a system turn and no more?"""
    if isinstance(prompt, str):
        return not prompt.strip()
    asked = [turn for turn in prompt if turn["role"] in ("user", "tool")]
    return not asked or not any(turn["content"].strip() for turn in asked)


def _refuse_text(row: Reading, column: str) -> None:
    if row.prompt_format == "text":
        raise DataError(
            f"{row.at(column)}: needs the chat template, and --prompt_format text goes without; leave the flag out "
            "(auto), or give chat"
        )


def _plain(words: str) -> str:
    return unicodedata.normalize("NFC", words).strip()
