"""Messages in the forms that data sets have (OpenAI's, ShareGPT's, HH transcripts), read as turns.

A turn is `role` (system, user, assistant, tool) and `content`, and only where the row has them: `tool_calls`,
`reasoning_content`, `name`, `tool_call_id`, and `learn` (false: this answer is context only).
"""

from __future__ import annotations

import json
import re
from typing import Any

from align.run.errors import DataError

Messages = list[dict[str, Any]]

ROLES = ("system", "user", "assistant", "tool")
NAMES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "model": "assistant", "function_call": "assistant", "observation": "tool", "function": "tool",
    "chatbot": "assistant", "ai": "assistant", "bot": "assistant", "prompter": "user", "developer": "system",
}  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking")
NO_THOUGHTS = {
    "on", "off", "true", "false", "yes", "no", "none", "null", "n/a", "low", "medium", "high", "auto", "enabled",
    "disabled", "think", "no_think", "0", "1",
}  # fmt: skip
SWITCHES = ("learn", "weight", "train", "training", "loss")  # OpenAI's is weight; the others are trainers'
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_MESSAGES = re.compile(r"\s*\[\s*\{\s*[\"'](role|from|content|value)[\"']\s*:")
READ = {"role", "from", "content", "value", "name", "tool_call_id", "tool_calls", "function_call", *REASONING}


def words(value: Any, where: str) -> str:
    """A text, as it is.

    Raises:
        DataError: for anything else, a number too: nobody can tell how it was written.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, got {told(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: holds half a character ({ascii(value[error.start])}, a lone surrogate), which no tokenizer "
                "reads; write the file with whole characters"
            ) from None
    return value


def told(value: Any) -> str:
    """What a value is and how it begins, for a message; `null` for None, as in the files."""
    return "null" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def messages(value: Any, where: str, unread: set[str] | None = None) -> Messages:
    """A list of messages as turns.

    Args:
        unread: learns the names of the keys that nothing reads.

    Raises:
        DataError: for the first message that is no turn, named with its field.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected a list of messages, got {told(value)}")
    return [_turn(message, f"{where}[{number}]", unread) for number, message in enumerate(value)]


def written(value: str, where: str) -> Any:
    """A text, or the messages of which it is the JSON: a table has no other way to hold them.

    Raises:
        DataError: for messages as Python prints them.
    """
    if not _MESSAGES.match(value):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        raise DataError(f"{where}: begins like messages and is no JSON ({value[:60]!r}); write them as JSON") from None
    roles = {str(one.get("role", one.get("from"))).lower() if isinstance(one, dict) else None for one in found}
    return found if roles <= {*ROLES, *NAMES} else value


def _turn(message: Any, where: str, unread: set[str] | None) -> dict[str, Any]:
    if not isinstance(message, dict):
        way = "; of a list of texts nobody can tell who says which" if isinstance(message, str) else ""
        raise DataError(f"{where}: expected {{role, content}}, got {told(message)}{way}")
    said = {key: value for key, value in message.items() if value is not None}
    source = said.get("role", said.get("from"))
    role = NAMES.get(str(source).lower(), str(source).lower())  # some sets write User and Chatbot
    if role not in ROLES:
        raise DataError(f"{where}: unknown role {source!r}; allowed: {', '.join(ROLES)}, and ShareGPT's names for them")
    media = [name for name in MEDIA if said.get(name)]
    if media:
        raise DataError(f"{where}.{media[0]}: only text is learnt here, no images, video or sound; leave such rows out")
    given = "content" if "content" in said or ("role" in said and "value" not in said) else "value"
    calls = _calls_of(said, source, where, given)
    content = "" if calls and (given not in said or source == "function_call") else _content(said, where, given)
    turn: dict[str, Any] = {"role": role, "content": content}
    skipped = {key for key, value in said.items() if value not in ("", [], {})} - READ - {*SWITCHES}
    if calls and role != "assistant":
        raise DataError(f"{where}.tool_calls: only the assistant calls tools, and this is a {role} turn")
    if calls:
        turn["tool_calls"] = calls
    thought = _reasoning(said, where)
    if thought and role == "assistant":
        turn["reasoning_content"] = thought
    elif thought:
        skipped |= {name for name in REASONING if said.get(name)}
    turn |= {key: words(said[key], f"{where}.{key}") for key in ("name", "tool_call_id") if said.get(key)}
    learn = _learn(said, where)
    if learn is not None and role == "assistant":
        turn["learn"] = learn
    elif learn:
        raise DataError(
            f"{where}: says that a {role} turn is to be learnt, and only the assistant's are; leave the switch out"
        )
    if unread is not None:
        unread |= skipped
    return turn


def _content(said: dict[str, Any], where: str, given: str) -> str:
    """Text, or a list of parts that are text."""
    value = said.get(given)
    if value is None and _reasoning(said, where):
        return ""
    if not isinstance(value, list):
        return words(value, f"{where}.{given}")
    parts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, str) and kind != "text":
            raise DataError(
                f"{where}.{given}[{number}]: only parts of type text are learnt here, got {kind or told(part)}; leave "
                "such rows out"
            )
        parts.append(words(part if isinstance(part, str) else part.get("text"), f"{where}.{given}[{number}].text"))
    return "".join(parts)


def _reasoning(said: dict[str, Any], where: str) -> str:
    found = {name: words(said[name], f"{where}.{name}") for name in REASONING if name in said}
    texts = set(found.values()) - {""}
    if len(texts) > 1:
        raise DataError(f"{where}: {' and '.join(found)} hold different reasoning; keep one of them")
    return texts.pop() if texts else ""


def _learn(said: dict[str, Any], where: str) -> bool | None:
    """Whether this turn is learnt, as the row says it: true or false, 1 or 0."""
    found = {name: said[name] for name in SWITCHES if name in said}
    for name, value in found.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(f"{where}.{name}: expected true or false (or 1 or 0), got {value!r}")
    if len({bool(value) for value in found.values()}) > 1:
        raise DataError(f"{where}: {' and '.join(found)} say both that this turn is learnt and that it is not")
    return next((bool(value) for value in found.values()), None)


# ------------------------------------------------------------------------------------------------------------- tools


def decoded(value: Any, where: str) -> Any:
    """A value that may be written as JSON in a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(words(value, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: expected JSON, got {value[:60]!r} ({error.msg})") from None


def tools(value: Any, where: str) -> list[dict[str, Any]]:
    """The tools that a row offers: a list of definitions, or that list as JSON; empty for none."""
    found = decoded(value, where) if value != "" else []
    if isinstance(found, dict):
        found = [found]
    if found is not None and not isinstance(found, list):
        raise DataError(f"{where}: expected a list of tools, got {told(found)}")
    offered = [decoded(tool, f"{where}[{number}]") for number, tool in enumerate(found or [])]
    for number, tool in enumerate(offered):
        if not isinstance(tool, dict):
            raise DataError(f"{where}[{number}]: expected the definition of a tool, got {told(tool)}")
    return offered


def _calls_of(said: dict[str, Any], source: Any, where: str, given: str) -> list[dict[str, Any]]:
    """The tools that a message calls, as OpenAI writes it now (`tool_calls`) and did, and as ShareGPT does."""
    if str(source).lower() == "function_call":
        return _calls(said.get(given), f"{where}.{given}")
    if said.get("function_call"):
        return _calls(said["function_call"], f"{where}.function_call")
    return _calls(said["tool_calls"], f"{where}.tool_calls") if said.get("tool_calls") else []


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    value = decoded(value, where)
    if not isinstance(value, list):
        value = [value]
    return [_call(decoded(call, f"{where}[{number}]"), f"{where}[{number}]") for number, call in enumerate(value)]


def _call(call: Any, where: str) -> dict[str, Any]:
    """One call as `{type: function, function: {name, arguments}}`; arguments are an object, as templates expect.

    Templates write arguments with `tojson`, which would put a text that is JSON already into quotes once more.
    """
    body = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("name"), str) or not body["name"]:
        raise DataError(f"{where}: expected a call of a tool, {{name, arguments}}, got {told(call)}")
    given = next((key for key in ("arguments", "parameters") if body.get(key) is not None), "arguments")
    arguments = body.get(given) or {}
    arguments = decoded(arguments, f"{where}.{given}") if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise DataError(f"{where}.{given}: expected an object with the arguments by name, got {told(arguments)}")
    inner = {key: value for key, value in body.items() if key not in ("arguments", "parameters", "type", "id", "index")}
    outer = {} if body is call else {k: v for k, v in call.items() if k not in ("function", "type", "index")}
    known = {"id": body["id"]} if body is call and body.get("id") else {k: v for k, v in outer.items() if v is not None}
    return {**known, "type": "function", "function": {**inner, "arguments": arguments}}


# ----------------------------------------------------------------------------------------------------- plain to turns


def is_transcript(value: Any) -> bool:
    """Is a text a conversation in Anthropic's HH format?"""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def transcript(text: str) -> Messages:
    """`\\n\\nHuman: …\\n\\nAssistant: …` (Anthropic's HH format) as turns; the last may be empty."""
    parts = re.split(r"\n\n(Human|Assistant):", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[name], "content": content.strip()} for name, content in turns]


def system(text: str) -> Messages:
    """A system turn."""
    return [{"role": "system", "content": text}]


def user(text: str) -> Messages:
    """A user's turn."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> Messages:
    """An answer."""
    return [{"role": "assistant", "content": text}]


def is_empty(answer: str | dict[str, Any]) -> bool:
    """Does an answer say nothing? Blank text is nothing; a call of a tool, or reasoning, is something."""
    if isinstance(answer, str):
        return not answer.strip()
    return not (answer["content"].strip() or answer.get("tool_calls") or answer.get("reasoning_content"))


def is_thought(value: Any) -> bool:
    """Is the value of a column of reasoning words, and not a switch that says how much of it there is?"""
    return isinstance(value, str) and bool(value.strip()) and value.strip().lower() not in NO_THOUGHTS


def before_the_answer(turns: Messages) -> Messages:
    """The turns of a conversation before the answer that it ends with, where it does."""
    end = len(turns)
    while end and turns[end - 1]["role"] == "assistant":
        end -= 1
    return turns[:end]


def without_switches(turns: Messages) -> Messages:
    """Turns without `learn`: in a prompt or a pair nothing is learnt by turns."""
    return [{key: value for key, value in turn.items() if key != "learn"} for turn in turns]
