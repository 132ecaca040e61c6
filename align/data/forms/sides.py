"""The two sides of a pair, and what is asked before them."""

from __future__ import annotations

import itertools
from typing import Any

import regex

from align.data import text
from align.data.forms import asked, beside, turns
from align.data.forms.asked import Prompt
from align.data.forms.reading import Reading
from align.data.forms.turns import Messages
from align.data.overlap import ngrams
from align.run.errors import DataError

APART = "where chosen and rejected differ before the last turn"
EMPTY = "with an empty answer"
NO_PROMPT = "without a prompt"
BAD = "whose label calls the answer bad"


def pair(row: Reading) -> tuple[Prompt, Any, Any, str]:
    """The prompt of a row with `chosen` and `rejected`, its two answers, and why it is useless ("" where it is not).

    Sides may be texts, messages, or whole conversations that repeat the prompt or hold it. Only where nothing else in
    the row could be the prompt, it is what both sides begin with.

    Raises:
        DataError: where a side is neither text nor messages, or repeats another prompt than the row has.
    """
    prompt = asked.own(row)
    chosen, rejected = row.side("chosen", "chosen"), row.side("rejected", "rejected")
    if not chosen or not rejected:
        return ("" if prompt is None else prompt), chosen, rejected, EMPTY
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return _shared_words(row, chosen, rejected)
        if isinstance(prompt, str):
            return prompt, chosen, rejected, _useless(prompt, chosen, rejected)
        mine, other = (turns.assistant(turned(row, side)) for side in (chosen, rejected))
        return prompt, mine, other, _useless(prompt, mine, other)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError(f"{row.where}: chosen and rejected must both be text or both be messages")
    return _of_messages(row, prompt, chosen, rejected)


def name_other_answers(row: Reading, prompt: Prompt, chosen: Any, rejected: Any) -> None:
    """Note as not read what the row's conversation holds beside a pair: an answer that is neither side's."""
    sides = [some for some in (prompt, chosen, rejected) if not isinstance(some, str)]
    read = {turn["content"].strip() for some in sides for turn in some}
    if any(turn["role"] == "assistant" and turn["content"].strip() not in read for turn in row.said):
        row.keys.add(f"{row.origin['messages'][0]}[] (an answer beside chosen and rejected)")


def turned(row: Reading, answer: str) -> str:
    """A text that continues a string prompt, as what the assistant says: without the blank that keeps the two apart."""
    if isinstance(row.row.get("prompt"), str) and answer[:1] == " " and answer[1:2].strip():
        answer = answer[1:]
    return answer.strip() if turns.is_transcript(row.row.get("prompt")) else answer


def _of_messages(row: Reading, prompt: Prompt | None, chosen: Messages, rejected: Messages) -> Any:
    """Sides of messages: whatever they share before their last turns belongs to the prompt."""
    if isinstance(prompt, str):
        raise DataError(
            f"{row.where}: chosen and rejected are messages, which need the chat template, and --prompt_format text "
            "goes without; leave the flag out (auto), or give chat"
        )
    both = itertools.takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))
    shared = sum(1 for _ in both)
    if len(chosen) == len(rejected) == shared:
        shared -= 1  # identical sides: keep the last turn as the (identical) answer
    begun, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if len(chosen) > 1 or len(rejected) > 1:
        return prompt or begun, chosen, rejected, APART
    if not prompt:
        if not any(turn["role"] == "user" for turn in begun):
            _refuse_other_turns(row)
        prompt = asked.with_system(row, begun, "chosen")
        row.note("prompt", "chosen")
    elif begun:
        prompt = _joined(row, prompt, begun)
    if not chosen or not rejected:
        return prompt, chosen, rejected, EMPTY
    return prompt, chosen, rejected, _useless(prompt, chosen, rejected)


def _joined(row: Reading, prompt: Messages, begun: Messages) -> Messages:
    """The prompt that a row's own columns hold, and what both sides begin with: the same once more, or what follows."""
    if asked.agrees(prompt, begun) or _is_a_question_of(prompt, begun):
        return _headed(row, prompt, begun)
    if prompt[-len(begun) :] == begun:
        return prompt
    if "messages" in row.origin and asked.agrees(begun, prompt):  # the pair is of an earlier answer
        return _headed(row, prompt, begun)
    if begun[0]["role"] in ("assistant", "tool") or (begun[0]["role"] == "user" and prompt[-1]["role"] == "assistant"):
        return [*prompt, *begun]
    column = (row.origin.get("messages") or row.origin.get("prompt") or ["prompt"])[0]
    raise asked.contradiction(row, column, prompt, "chosen", begun)


def _headed(row: Reading, prompt: Messages, begun: Messages) -> Messages:
    """`begun` with the system turn of `prompt` before it, which may be in both."""
    if prompt[0]["role"] != "system":
        return begun
    if begun[0]["role"] == "system" and begun[0] != prompt[0]:
        raise asked.contradiction(row, "the system prompt", prompt[0]["content"], "chosen", begun[:1])
    return begun if begun[0]["role"] == "system" else [prompt[0], *begun]


def _is_a_question_of(prompt: Messages, begun: Messages) -> bool:
    """Is a prompt of one question one that is asked in these turns?"""
    questions = [turn for turn in prompt if turn["role"] != "system"]
    return len(questions) == 1 and questions[0]["role"] == "user" and asked.agrees(questions[0]["content"], begun)


def _refuse_other_turns(row: Reading) -> None:
    """What two sides begin with is no prompt where the turns before them stand in a column that nothing reads."""
    others = [name for name in row.unread() if name != beside.ASIDE and beside.holds_turns(row.row.get(name))]
    if others:
        name = min(others)
        raise DataError(
            f"{row.where}: nothing says what was asked before chosen and rejected, and {name} holds turns that are not "
            f"read; --columns {name}=messages takes them for the prompt, {name}={beside.ASIDE} takes them out of the "
            "way"
        )


def _shared_words(row: Reading, chosen: str, rejected: str) -> tuple[str, str, str, str]:
    """Two texts without a prompt: what they share, to a word's end. The space belongs to the answer, as in TRL.

    Raises:
        DataError: where something in the row says that the prompt is to be had elsewhere, or that it is a turn.
    """
    others = ("prompt", *asked.SYSTEM, "history", "tools", "chat_template_kwargs", *asked.QUESTIONS)
    present = [name for name in others if name in row.row]
    if present or row.prompt_format == "chat":
        cause = f"{', '.join(present)} beside them" if present else "--prompt_format chat"
        raise DataError(
            f"{row.where}: chosen and rejected are plain texts, and nothing says what was asked ({cause}); give every "
            "row a prompt (what the two texts share is taken for one only where no column could hold it)"
        )
    _refuse_other_turns(row)
    alike = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False)))
    end = regex.search(rf"\s+\S*$|(?<={ngrams.LONE}\p{{M}}*)$", chosen[:alike])
    cut = end.start() if end else 0
    row.note("prompt", "chosen")
    prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
    return prompt, chosen, rejected, _useless(prompt, chosen, rejected)


def _useless(prompt: Prompt, chosen: Any, rejected: Any) -> str:
    """Why a pair cannot be learnt from; "" where it can."""
    answers = [side if isinstance(side, str) else side[-1] for side in (chosen, rejected)]
    if any(not isinstance(answer, str) and answer["role"] != "assistant" for answer in answers):
        return "whose last turn is not the assistant's"
    if any(map(turns.is_empty, answers)):
        return EMPTY
    if text.completion(chosen) == text.completion(rejected):
        return "with identical chosen and rejected"
    if not isinstance(prompt, str) and prompt and prompt[-1]["role"] == "assistant":
        return "whose prompt ends with the assistant's turn"
    return NO_PROMPT if asked.is_empty(prompt) else ""
