"""Token ids, masks and pairs: what is learnt of a conversation, what generation sees before it, what it gives back.

Every turn that is learnt is encoded as it would be generated: the tokens of its prompt, then those of its answer up to
and with the stop token. Where the tokens of an earlier turn stand unchanged in a longer conversation, both share one
sequence; where a template renders earlier turns differently once later ones follow (Qwen3 takes their reasoning out),
the turn gets a sequence of its own.

What encodes a row asks for its tokens by steps (`batches`), so that those of many rows are made together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from align.data.chat import reasoning
from align.data.chat.answered import Beside, answered
from align.data.chat.batches import Steps, alone
from align.data.chat.set_up import call_end, special_ids
from align.data.chat.templates import (
    Messages,
    TemplateError,
    check_kept,
    is_turn,
    packed,
    render,
)

Tools = list[dict[str, Any]] | None
Settings = dict[str, Any] | None  # a row's `chat_template_kwargs`


@dataclass
class Encoded:
    """Token ids and, for each, whether it is learnt (the assistant's words and the stop token). Both of length T."""

    input_ids: list[int]
    learnt: list[bool]

    @property
    def labels(self) -> list[int]:
        """`input_ids` where learnt, -100 elsewhere."""
        return [token if keep else -100 for token, keep in zip(self.input_ids, self.learnt, strict=True)]


def encode_messages(
    tokenizer: Any, messages: Messages, *, tools: Tools = None, chat_template_kwargs: Settings = None
) -> list[Encoded]:
    """Tokenise a conversation for SFT: as few sequences as hold every learnt turn exactly as it would be generated.

    Most templates need one sequence. Every turn of the assistant is learnt once, but for those with `"learn": False`.

    Raises:
        TemplateError: if there is nothing to learn, an answer is empty, or the template leaves out what a row says.
    """
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    return alone(tokenizer, messages_steps(tokenizer, messages, **beside))


def messages_steps(
    tokenizer: Any, messages: Messages, *, tools: Tools = None, chat_template_kwargs: Settings = None
) -> Steps[list[Encoded]]:
    """The steps of `encode_messages`."""
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("learn", True)]
    if not turns:
        raise TemplateError("there is no assistant turn to learn from")
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    found = {}
    for turn in turns:
        found[turn] = yield from _turn_steps(tokenizer, messages[: turn + 1], beside)
    made: list[Encoded] = []
    while turns:
        prompt, answer = found[turns[-1]]
        encoded = Encoded(prompt + answer, [False] * len(prompt) + [True] * len(answer))
        apart = []
        for turn in turns[:-1]:
            before, said = found[turn]
            end = len(before) + len(said)
            if encoded.input_ids[:end] == before + said:
                encoded.learnt[len(before) : end] = [True] * len(said)
            else:
                apart.append(turn)
        made.append(encoded)
        turns = apart
    return made[::-1]


def encode_prompt(
    tokenizer: Any, prompt: str | Messages, *, tools: Tools = None, chat_template_kwargs: Settings = None
) -> list[int]:
    """Token ids of a prompt, up to where the assistant begins. Plain text is taken as it is, with the BOS if any.

    Raises:
        TemplateError: if the template refuses the prompt, or leaves out words of it.
    """
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    return alone(tokenizer, prompt_steps(tokenizer, prompt, **beside))


def prompt_steps(
    tokenizer: Any, prompt: str | Messages, *, tools: Tools = None, chat_template_kwargs: Settings = None
) -> Steps[list[int]]:
    """The steps of `encode_prompt`."""
    if isinstance(prompt, str):
        (tokens,) = yield [prompt]
        return _with_bos(tokenizer, tokens.ids)
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    (tokens,) = yield [_opening(tokenizer, prompt, beside)]
    return tokens.ids


def encode_pair(
    tokenizer: Any, prompt: str | Messages, completion: str | Messages, *, tools: Tools = None,
    chat_template_kwargs: Settings = None, read: bool = False,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Token ids of a prompt and of one completion with its stop token.

    Args:
        read: the completion is scored, not learnt: it may be empty, and its reasoning is left out.

    Raises:
        TemplateError: if the completion is empty or more than one turn, or the template leaves out what it says.
    """
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    before, (answer,) = alone(tokenizer, pair_steps(tokenizer, prompt, [completion], read=read, **beside))
    return before, answer


def pair_steps(
    tokenizer: Any, prompt: str | Messages, completions: list[Any], *, tools: Tools = None,
    chat_template_kwargs: Settings = None, read: bool = False,
) -> Steps[tuple[list[int], list[list[int]]]]:  # fmt: skip
    """The steps of `encode_pair` for several completions of one prompt."""
    beside: Beside = {"tools": tools, "chat_template_kwargs": chat_template_kwargs}
    before: list[int] = []
    answers = []
    opening: str | None = None
    for completion in completions:
        said: Any = reasoning.answer_of(completion) if read else completion
        if isinstance(prompt, str):
            words = str(said)
            if not words.strip() and not read:
                raise TemplateError(EMPTY)
            before, answer, _ = yield from _apart(tokenizer, prompt, words, plain=True)
            answers.append([*answer, tokenizer.eos_token_id])
            continue
        if len(completion) != 1 or completion[0]["role"] != "assistant":
            raise TemplateError(
                "a completion has to be one message of the assistant; end the prompt before its last turn"
            )
        turns = [*prompt, *said]
        _check_said(turns[-1], read)
        opening = _opening(tokenizer, prompt, beside) if opening is None else opening
        before, answer = yield from _turn_steps(tokenizer, turns, beside, opening=opening, read=read)
        answers.append(answer)
    return before, answers


EMPTY = "the assistant's turn is empty: it would teach to say nothing"


def _check_said(turn: dict[str, Any], read: bool) -> dict[str, Any]:
    """An answer with its reasoning apart, which says something."""
    said = reasoning.apart(turn)
    if not said["content"].strip() and not said.get("tool_calls") and not read:
        raise TemplateError(EMPTY if not said.get("reasoning_content") else "reasoning without an answer after it")
    return said


def _turn_steps(
    tokenizer: Any, messages: Messages, beside: Beside, *, opening: str | None = None, read: bool = False
) -> Steps[tuple[list[int], list[int]]]:
    """Token ids of all that comes before the last message, the assistant's, and of that one with its stop token.

    Args:
        opening: the text of what comes before, where it is known.
    """
    said = _check_said(messages[-1], read)
    opening = _opening(tokenizer, messages[:-1], beside) if opening is None else opening
    text = answered(tokenizer, [*messages[:-1], said], beside, opening)
    before, answer, ends = yield from _apart(tokenizer, opening, text)
    called, inside = call_end(tokenizer) if said.get("tool_calls") else (None, set[int]())
    stop = tokenizer.convert_tokens_to_ids(called or tokenizer.eos_token)
    end = _end(tokenizer, answer, ends, text, {stop, tokenizer.eos_token_id}, inside)
    if end is None:  # the template leaves it to the next turn's beginning
        check_kept(text, said, thoughts=True)
        return before, [*answer, stop]
    words, mark, _ = text.partition(tokenizer.convert_ids_to_tokens(answer[end - 1]))
    try:  # up to the first place that reads like the token, which ends there or later
        check_kept(words if mark else "", said, thoughts=True)
    except TemplateError:
        kept = text[: ends(end - 1)]
        if packed(said["content"]) not in packed(kept) and packed(said["content"]) in packed(text):
            raise TemplateError("the answer's words hold the token that ends an answer") from None
        check_kept(kept, said, thoughts=True)
    return before, answer[:end]


def _opening(tokenizer: Any, prompt: Messages, beside: Beside) -> str:
    """The text of a prompt, checked to hold what its messages say."""
    text = render(tokenizer, prompt, generation_prompt=True, **beside)
    for message in prompt:
        check_kept(text, message, thoughts=False)
    return text


def decode_answer(tokenizer: Any, prompt: list[int], ids: list[int], stopped: bool) -> tuple[str, str]:
    """The text of a sampled answer: what was thought before it ("" for nothing), and the answer itself.

    After plain text it is what was sampled, the leading blank included, so that training on it trains those tokens.
    After a template's prompt it is what the next turn would be told, without white space around it.

    Args:
        prompt: token ids that it was sampled after: they may have opened its reasoning, or be plain text.
        stopped: whether the last of `ids` is the stop token.
    """

    def text(ids: list[int], words_only: bool) -> str:  # and nothing made prettier: " ." stays " ."
        return tokenizer.decode(ids, skip_special_tokens=words_only, clean_up_tokenization_spaces=False)

    asked = text(prompt, False)
    if not is_turn(tokenizer, asked):
        head, whole = text(prompt, True), text([*prompt, *ids], True)
        return "", whole[len(head) :] if whole.startswith(head) else text(ids, True)
    raw = text(ids[:-1] if stopped else ids, False)
    thought, answer = reasoning.split(raw, reasoning.opened_by(asked))
    if answer == raw:
        return "", text(ids, True).strip()
    names = sorted(filter(None, map(tokenizer.convert_ids_to_tokens, special_ids(tokenizer))), key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, names)))
    return special.sub("", thought).strip(), special.sub("", answer).strip()


Ends = Callable[[int], int]  # where a token of an answer ends in its text


def _apart(tokenizer: Any, opening: str, text: str, *, plain: bool = False) -> Steps[tuple[list[int], list[int], Ends]]:
    """Token ids of a prompt and of what follows it, and where in `text` each token of the latter ends.

    They are the tokens of the whole text. Where that would change the prompt's last tokens, which generation has seen
    already, both are tokenised by themselves.

    Args:
        plain: no template has written the prompt, so the BOS goes before it.

    Raises:
        TemplateError: where neither gives back the text.
    """
    asked, whole = yield [opening, opening + text]
    before = _with_bos(tokenizer, asked.ids) if plain else asked.ids
    if whole.ids[: len(asked.ids)] == asked.ids:
        first = len(asked.ids)
        return before, whole.ids[first:], lambda at: whole.end(first + at) - len(opening)
    (tokens,) = yield [text]
    told = {"clean_up_tokenization_spaces": False}
    if tokenizer.decode(before + tokens.ids, **told) != tokenizer.decode(before, **told) + text:
        blank = "" if opening[-1:].strip() else "; let the answer begin with the blank that the prompt ends with"
        raise TemplateError(f"the prompt's last token changes when the answer follows it{blank}")
    return before, list(tokens.ids), tokens.end


def _end(tokenizer: Any, answer: list[int], ends: Ends, text: str, stops: set[int], inside: set[int]) -> int | None:
    """How many tokens of `answer` belong to it, the stop token included; None where there is none.

    Args:
        inside: special tokens that belong to a call of a tool, so end nothing.

    Raises:
        TemplateError: if another special token ends it, of which generation knows nothing.
    """
    if found := [answer.index(stop) for stop in stops if stop in answer]:
        return min(found) + 1
    special = special_ids(tokenizer) - inside
    last = next((at for at in reversed(range(len(answer))) if answer[at] in special), None)
    if last is not None and not text[ends(last) :].strip():
        raise TemplateError("the assistant's turn does not end with the stop token")
    return None


def _with_bos(tokenizer: Any, ids: list[int]) -> list[int]:
    """The tokens of plain text with the tokenizer's BOS, where it has one, and never its EOS."""
    has_bos = tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id
    return [tokenizer.bos_token_id, *ids] if has_bos and ids[:1] != [tokenizer.bos_token_id] else ids
