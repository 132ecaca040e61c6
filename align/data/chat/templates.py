"""What a chat template is told, and whether it said it.

Families want the same conversation in different shapes: arguments of tool calls as a mapping or as JSON, reasoning in a
field of its own or within the words. Which one a template reads is found by asking it, once.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from align.data.chat import bounds, reasoning
from align.run.errors import ConfigError

Messages = list[dict[str, Any]]  # role and content, and where a row has them tool_calls, reasoning_content, …

SAID, THOUGHT, NAME, VALUE = "okapi", "zebra", "find_gnu", "ibex"  # no template has these words
ASKED = {"role": "user", "content": "x"}
TOLD = {"role": "assistant", "content": SAID}
CALL: dict[str, Any] = {
    "role": "assistant", "content": "",
    "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": NAME, "arguments": {"where": VALUE}}}],
}  # fmt: skip
PYTHON = str({"where": VALUE})  # how a template that writes whatever it is given (InternLM's) writes a mapping
REPLY = {"role": "tool", "content": SAID, "name": NAME, "tool_call_id": "call00001"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME, "description": SAID,
        "parameters": {"type": "object", "properties": {"where": {"type": "string", "description": VALUE}}},
    },
}  # fmt: skip
ANOTHER = "Give another with --chat_template_path"


class TemplateError(ConfigError):
    """A chat template cannot render these messages, or could never be learnt from."""


@dataclass(frozen=True)
class Shape:
    """How one template wants to be told of what a message holds beside its words."""

    thoughts: str | None = "reasoning_content"  # the field of the reasoning; "content" for marks within the words
    calls: bool = True  # are tool calls written at all?
    as_json: bool = False  # their arguments as text
    no_words: str | None = ""  # the content of a message that only calls
    tools: bool = True  # are the tools that a row offers written?


_EMPTY = re.compile(rf"{reasoning.OPEN}\s*{reasoning.CLOSE}\s*{SAID}")
_shapes: dict[str, Shape] = {}


def _shape(tokenizer: Any) -> Shape:
    template = str(tokenizer.chat_template)
    if template not in _shapes:
        _shapes[template] = _find_shape(tokenizer)
    return _shapes[template]


def _find_shape(tokenizer: Any) -> Shape:
    fields = ("reasoning_content", "thinking", "reasoning", "content")
    said = {**TOLD, "reasoning_content": THOUGHT}
    thoughts = next((f for f in fields if THOUGHT in _try(tokenizer, [ASKED, said], Shape(f), SAID)), None)
    if thoughts == "content" and _EMPTY.search(_try(tokenizer, [ASKED, TOLD], Shape(None), SAID)):
        thoughts = None  # beside the one that the template writes itself there would be two
    written = []
    for as_json, no_words in ((False, ""), (True, ""), (False, None), (True, None)):
        shape = Shape(thoughts, True, as_json, no_words)
        text = _try(tokenizer, [ASKED, CALL], shape, VALUE)
        if NAME in text and f'\\"{VALUE}' not in text:
            written.append((PYTHON in text, shape))
    calls = min(written, key=lambda one: one[0], default=(False, None))[1]
    tools = VALUE in _try(tokenizer, [ASKED], Shape(thoughts), NAME, tools=[TOOL])
    calls = calls or Shape(thoughts, False)
    return Shape(thoughts, calls.calls, calls.as_json, calls.no_words, tools)


def _try(tokenizer: Any, messages: Messages, shape: Shape, word: str, tools: list[dict] | None = None) -> str:
    """The text of a made conversation; "" where the template refuses it or leaves out `word`."""
    system = [{"role": "system", "content": "y"}]
    for some in (messages, [*system, *messages]):  # a template may insist on a system message
        try:
            text = _render(tokenizer, some, shape, generation_prompt=False, tools=tools)
        except TemplateError:
            continue
        return text if word in text else ""
    return ""


def _render(
    tokenizer: Any, messages: Messages, shape: Shape, *, generation_prompt: bool, tools: Any, more: Any = None
) -> str:
    import jinja2

    told = [_told(message, shape) for message in messages]
    try:
        with bounds.bounded(str(tokenizer.chat_template)):
            return tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=generation_prompt, tools=tools or None, **(more or {})
            )
    except bounds.TooMuch:
        raise
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is no valid Jinja (line {error.lineno}: {error})") from error
    except jinja2.exceptions.TemplateError as error:
        raise TemplateError(f"the chat template refuses these messages: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TemplateError(f"the chat template fails on these messages: {error}") from error  # its own expressions


def _told(message: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """A message as this template reads it."""
    apart = reasoning.apart(message)
    told = {k: v for k, v in apart.items() if k not in ("reasoning_content", "learn", "tool_calls") and v is not None}
    if thought := apart.get("reasoning_content"):
        if shape.thoughts == "content":
            told["content"] = reasoning.joined(thought, apart["content"])
        elif shape.thoughts is not None:
            told[shape.thoughts] = thought
    if calls := apart.get("tool_calls"):
        told["tool_calls"] = [_call(call, shape.as_json) for call in calls]
        if not told["content"].strip():
            told["content"] = shape.no_words
    return told


def _call(call: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """A tool call with its arguments as this template reads them: JSON text and mappings are the same to us."""
    function = call.get("function") or {k: v for k, v in call.items() if k not in ("id", "type")}
    arguments = _arguments(function)
    written = json.dumps(arguments, ensure_ascii=False) if as_json and not isinstance(arguments, str) else arguments
    return {"id": call.get("id"), "type": "function", "function": {**function, "arguments": written}}


def _arguments(function: dict[str, Any]) -> Any:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return {} if arguments is None else arguments


def beside(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row tells the template beside its messages, as `render` and the functions of `encode` take it."""
    return {name: row.get(name) for name in ("tools", "chat_template_kwargs")}


def render(
    tokenizer: Any, messages: Messages, *, generation_prompt: bool, tools: list[dict[str, Any]] | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """The text of a conversation; with `generation_prompt`, up to where the assistant would begin.

    Args:
        chat_template_kwargs: names that the template reads beside the messages (`enable_thinking`, …).

    Raises:
        TemplateError: if the template refuses the messages, or can write neither tools nor calls where there are some,
            or words of `chat_template_kwargs`.
    """
    more = chat_template_kwargs or {}
    lost = [name for name in not_read(tokenizer, more) if more[name] and not isinstance(more[name], (bool, int, float))]
    if lost:
        raise TemplateError(
            f"the chat template does not read {', '.join(lost)} of the row's chat_template_kwargs. {ANOTHER}, or take "
            "the column out: --columns chat_template_kwargs=other"
        )
    shape = _shape(tokenizer)
    if tools and not shape.tools:
        raise TemplateError(
            f"the chat template does not write the row's tools. {ANOTHER}, or take them out with --columns tools=other"
        )
    if not shape.calls and any(message.get("tool_calls") for message in messages):
        raise TemplateError(f"the chat template does not write tool calls. {ANOTHER} that does")
    return _render(tokenizer, messages, shape, generation_prompt=generation_prompt, tools=tools, more=more)


def not_read(tokenizer: Any, names: Iterable[str]) -> list[str]:
    """Those of some names of `chat_template_kwargs` that the template does not have."""
    template = str(tokenizer.chat_template)
    return [name for name in names if not re.search(rf"\b{re.escape(name)}\b", template)]


def is_turn(tokenizer: Any, prompt: str) -> bool:
    """Is a prompt's text (special tokens included) this template's, up to where the assistant begins? Or plain text?"""
    before, after = _marks(tokenizer)
    return before in prompt and reasoning.without_marks(prompt).endswith(after)


_known_marks: dict[str, tuple[str, str]] = {}


def _marks(tokenizer: Any) -> tuple[str, str]:
    """What stands before every user's words, and after the last ones when the assistant is to begin.

    Whether thoughts are opened or closed after that is for a row to say (`chat_template_kwargs`), so it is no mark.
    """
    template = str(tokenizer.chat_template)
    if template not in _known_marks:
        asked = {"role": "user", "content": SAID}
        conversations = ([asked], [ASKED, {**TOLD, "content": "x"}, asked])
        texts: list[str] = []
        for first in ([], [{"role": "system", "content": "y"}]):  # a template may insist on a system message
            try:
                texts = texts or [render(tokenizer, [*first, *m], generation_prompt=True) for m in conversations]
            except TemplateError:
                continue
        special = sorted(filter(None, (t.content for t in tokenizer.added_tokens_decoder.values())), key=len)[::-1]
        parts = re.compile(f"({'|'.join(map(re.escape, special))})|\\s+" if special else r"()\s+")
        before = [list(filter(None, parts.split(text.rpartition(SAID)[0]))) for text in texts]
        after = reasoning.without_marks(texts[0].rpartition(SAID)[2]).split() if texts else []
        mark = before[0][-1] if before and all(before) and before[0][-1] == before[1][-1] else "\0"
        _known_marks[template] = (mark, (after or [""])[-1])  # "\0": nothing tells its prompts from plain text
    return _known_marks[template]


# ----------------------------------------------------------------------------------------------------- what was kept


def check_kept(text: str, message: dict[str, Any], *, thoughts: bool) -> None:
    """Check that a rendered text holds all that a message says, up to white space.

    Args:
        thoughts: its reasoning as well (templates leave out that of earlier turns, and so does generation).

    Raises:
        TemplateError: naming what was left out.
    """
    letters = packed(text)
    apart = reasoning.apart(message)
    role = message["role"]
    if not _holds(text, letters, apart["content"]):
        raise TemplateError(f"the chat template leaves out words of the {role}'s message. {ANOTHER} that keeps them")
    if thoughts and (thought := apart.get("reasoning_content")) and not _holds(text, letters, thought):
        raise TemplateError(
            f"the chat template leaves out the answer's reasoning. {ANOTHER} that keeps it, or rows without reasoning"
        )
    for call in apart.get("tool_calls") or []:
        function = _call(call, False)["function"]
        for part in (function.get("name"), *_leaves(function["arguments"])):
            if not _holds(text, letters, part):
                raise TemplateError(f"the chat template leaves out {part!r} of a tool call. {ANOTHER} that writes it")


@functools.lru_cache(maxsize=64)  # one text is looked into for each of its messages
def packed(text: str) -> str:
    """A text without its white space, to compare by: templates trim and indent."""
    return "".join(text.split())


def _holds(text: str, letters: str, part: Any) -> bool:
    """Is `part` in the text, as it is or as JSON writes it?"""
    if not isinstance(part, str):
        written = (json.dumps(part), str(part))
        return any(one in text for one in written)
    if packed(part) in letters:
        return True
    return any(packed(json.dumps(part, ensure_ascii=whole)[1:-1]) in letters for whole in (False, True))


def _leaves(value: Any) -> Iterator[Any]:
    """Names and values of a tool call's arguments."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value
