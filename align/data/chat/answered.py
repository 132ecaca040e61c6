"""An answer's text as generation would write it after its prompt, wherever a template puts it once it is given.

Most templates render a conversation that begins with the prompt's text. Others write what came before otherwise once
it is answered, take an answer's reasoning out, or close in it what the prompt opened.
"""

from __future__ import annotations

from typing import Any

from align.data.chat import reasoning
from align.data.chat.templates import ANOTHER, SAID, THOUGHT, Messages, TemplateError, packed, render

Beside = dict[str, Any]  # `tools` and `chat_template_kwargs`, as `render` takes them


def answered(tokenizer: Any, messages: Messages, beside: Beside, opening: str) -> str:
    """The text of the last message, the assistant's, with what ends it where the template writes that.

    Args:
        messages: the last one with its reasoning in a field of its own.
        opening: the text of the prompt, all messages before.

    Raises:
        TemplateError: where it cannot follow the prompt.
    """
    whole = render(tokenizer, messages, generation_prompt=False, **beside)
    begins = _after(whole, opening)
    if begins is None:
        begins = _moved(tokenizer, messages, beside, opening, whole)
    thought = packed(messages[-1].get("reasoning_content", ""))
    if begins is None or thought not in packed(whole[begins:]):
        return _with_thoughts(tokenizer, messages, beside, opening)
    return _within(opening, whole[begins:])


def _within(opening: str, answer: str) -> str:
    """An answer after a prompt that has opened its thoughts: not opened once more, closed at once where there are none.

    Nemotron Nano 2's template writes `<think>` in the prompt and before an answer, and then whatever the words are.
    """
    mark, words = reasoning.opened_by(opening), answer.lstrip()
    if mark and words.startswith(mark):
        return words.removeprefix(mark).removeprefix("\n")
    return f"\n{reasoning.MARKS[mark]}\n\n{words}" if mark and reasoning.MARKS[mark] not in answer else answer


def _after(whole: str, opening: str) -> int | None:
    """Where a prompt ends in a conversation that begins with it; None where it does not.

    White space within it may differ: Hermes writes another newline after a tool's reply once it has an answer.
    """
    if whole.startswith(opening):
        return len(opening)
    words = opening.rstrip()
    blank = opening[len(words) :]
    letters = [at for at, letter in enumerate(whole) if not letter.isspace()]
    count = len(packed(words))
    if not 0 < count <= len(letters):
        return None
    end = letters[count - 1] + 1
    same = packed(whole[:end]) == packed(words) and whole.startswith(blank, end)
    return end + len(blank) if same else None


def _moved(tokenizer: Any, messages: Messages, beside: Beside, opening: str, whole: str) -> int | None:
    """Where the answer begins in a conversation whose earlier words stand elsewhere once it is answered; None if only
    its own beginning differs. Mistral's system message is in the last question, and in none that has an answer.

    It is looked for before made words: real ones may stand twice. Up to there, both have to be the same.
    """
    asked = next((m["content"].strip() for m in reversed(messages[:-1]) if m["content"].strip()), None)
    if asked is None or asked not in opening:
        return None
    mark = {"role": "assistant", "content": SAID}
    made = render(tokenizer, [*messages[:-1], mark], generation_prompt=False, **beside)
    closing = opening[opening.rindex(asked) :]  # the last question and what leads to its answer
    at = made.rfind(closing, 0, made.rindex(SAID)) if SAID in made else -1
    end = at + len(closing)
    found = at >= 0 and not made[end : made.rindex(SAID)].strip() and whole.startswith(made[:end])
    return end if found else None


def _with_thoughts(tokenizer: Any, messages: Messages, beside: Beside, opening: str) -> str:
    """The answer's text with its reasoning, for templates that open it in the prompt, or take it out of every answer.

    DeepSeek R1's do both: generation begins after `<think>`, and a finished answer is rendered without its thoughts. So
    they are put back where generation writes them; where there are none, the thought that the prompt opens is closed.
    """
    said = messages[-1]
    thought, words = said.get("reasoning_content", ""), said["content"].strip()
    bare = {key: value for key, value in said.items() if key != "reasoning_content"} | {"content": SAID}
    thinking = [*messages[:-1], {**bare, "reasoning_content": THOUGHT}]
    whole = render(tokenizer, thinking, generation_prompt=False, **beside)
    at = _after(whole, opening)
    if at is not None and THOUGHT in whole[at:]:  # the template's own way to write them
        return _within(opening, whole[at:]).replace(THOUGHT, thought, 1).replace(SAID, words, 1)
    head, found, tail = render(tokenizer, [*messages[:-1], bare], generation_prompt=False, **beside).rpartition(SAID)
    asked = packed(opening)
    if thought and asked.endswith(reasoning.CLOSE):
        raise TemplateError(_closed(tokenizer, messages[:-1], beside))
    before, shut, between = head.rpartition(reasoning.CLOSE)
    begins = packed(before).removesuffix(reasoning.OPEN) if shut and not between.strip() else None
    if thought and begins == asked:  # Kimi K2 Thinking: a thought without words stands before every finished answer
        blank = before[len(before.rstrip()) :]
        half = blank[: len(blank) // 2]
        return f"{reasoning.OPEN}{half}{thought}{half}{reasoning.CLOSE}{between}{words}{tail}"
    if (
        begins is not None and f"{begins}{reasoning.OPEN}" == asked
    ):  # DeepSeek V3.1: finished answers stand after `</think>`, in the place of the `<think>` of a prompt
        blank = opening[len(opening.rstrip()) :]
        return f"{thought}{blank}{reasoning.CLOSE}{between}{words}{tail}"
    begun = asked[len(packed(head)) :] if found and asked.startswith(packed(head)) else None
    if begun not in ("", reasoning.OPEN) or reasoning.CLOSE not in str(tokenizer.chat_template):
        raise TemplateError(
            "the chat template begins an answer with other words when it is generated than when it is learnt"
            + (" with its reasoning" if thought else "") + f". {ANOTHER}"
        )  # fmt: skip
    return _within(opening, reasoning.joined(thought, words) + tail)


def _closed(tokenizer: Any, prompt: Messages, beside: Beside) -> str:
    """Why reasoning cannot follow a prompt that ends with `</think>`, and what opens it, where the template can."""
    told = beside["chat_template_kwargs"] or {}
    for name in ("enable_thinking", "thinking"):
        given = beside | {"chat_template_kwargs": {**told, name: True}}
        if not render(tokenizer, prompt, generation_prompt=True, **given).rstrip().endswith(reasoning.CLOSE):
            way = f'give rows with reasoning the column chat_template_kwargs with {{"{name}": true}}'
            break
    else:
        way = f"{ANOTHER}, or rows without reasoning"
    return f"the chat template's prompt ends with {reasoning.CLOSE}, after which nothing is thought; {way}"
