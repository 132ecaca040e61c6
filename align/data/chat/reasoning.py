"""Thoughts and answers apart: what a model wrote before its answer, in the marks of its family.

Reasoning is learnt where rows hold it. Whoever reads, ranks or grades an answer gets the answer alone.
"""

from __future__ import annotations

from typing import Any

OPEN, CLOSE = "<think>", "</think>"
MARKS = {
    OPEN: CLOSE,  # Qwen3, DeepSeek R1, GLM 4.5, SmolLM3, Nemotron, MiniMax …
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|channel|>analysis<|message|>": "<|end|>",  # gpt-oss
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<seed:think>": "</seed:think>",  # Seed-OSS
}
# A prompt may have opened the thought, or an answer lost its first words: what ends in one of these was a thought
LONE = (CLOSE, "[/THINK]", "<|END_THINKING|>", "</seed:think>")
CHANNEL = "<|channel|>"
# What stands around an answer where several parts make one turn
FURNITURE = (
    "<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>", "<|START_RESPONSE|>",
    "<|START_TEXT|>",
)  # fmt: skip


def opened_by(prompt: str) -> str:
    """The mark that a prompt's text ends in, so that what follows is a thought; "" where it ends in none."""
    end = prompt.rstrip()
    return next((mark for mark in MARKS if end.endswith(mark)), "")


def without_marks(prompt: str) -> str:
    """A prompt's text without the marks at its end that open thoughts, or close them before there are any."""
    end = prompt.rstrip()
    while mark := next((mark for pair in MARKS.items() for mark in pair if end.endswith(mark)), ""):
        end = end.removesuffix(mark).rstrip()
    return end


def split(text: str, opened: str = "") -> tuple[str, str]:
    """The reasoning at the beginning of a text, and the answer after it. Without reasoning the text stays as it is.

    Args:
        opened: the mark that the prompt opened, see `opened_by`.

    Returns:
        Reasoning ("" for none) and answer; ("…", "") where the reasoning never ends.
    """
    if not opened and "<" not in text and "[" not in text:  # all marks begin with one of these
        return "", text
    thoughts: list[str] = []
    rest, found = text, False
    while True:
        begun = _without_furniture(rest.lstrip())
        mark = next((mark for mark in MARKS if begun.startswith(mark)), "") or opened
        if not mark:
            break
        inside, closed, rest = begun.removeprefix(mark).partition(MARKS[mark])
        found, opened = True, ""
        thoughts.append(inside.strip())
        if not closed:
            rest = ""
            break
    if not found and (close := next((close for close in LONE if close in text), "")):
        inside, _, rest = text.partition(close)
        return inside.strip(), _without_furniture(rest.strip())
    dressed = found or rest.lstrip().startswith((*FURNITURE, CHANNEL))
    answer = _without_furniture(rest.strip()) if dressed else text
    return "\n\n".join(filter(None, thoughts)), answer


def _without_furniture(text: str) -> str:
    while found := next((part for part in FURNITURE if text.startswith(part)), ""):
        text = text.removeprefix(found).lstrip()
    cut = text.startswith(CHANNEL) and "<|message|>" not in text  # before its first word
    return "" if cut else text


def joined(thought: str, answer: str) -> str:
    """Both in one text, as most families write them."""
    return f"{OPEN}\n{thought}\n{CLOSE}\n\n{answer}"


def apart(message: dict[str, Any]) -> dict[str, Any]:
    """An assistant's message with its reasoning in `reasoning_content`, also where the words held both."""
    if message["role"] != "assistant" or message.get("reasoning_content"):
        return message
    thought, answer = split(message["content"])
    if answer == message["content"]:
        return message
    return {**message, "content": answer, **({"reasoning_content": thought} if thought else {})}


def answer_of(completion: str | list[dict[str, Any]]) -> Any:
    """A completion, text or messages, without what was thought before the answer: for whoever judges or reads it."""
    if isinstance(completion, str):
        return split(completion)[1]
    return [{k: v for k, v in apart(turn).items() if k != "reasoning_content"} for turn in completion]
