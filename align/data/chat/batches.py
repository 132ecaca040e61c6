"""The texts of many rows tokenised together, which is what fast tokenizers are fast at.

What encodes a row is a generator (`Steps`): it yields texts and is sent their tokens, until it returns the row's ids.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from align.data.chat.templates import TemplateError
from align.run.errors import ConfigError


@dataclass(frozen=True)
class Tokens:
    """The token ids of a text."""

    ids: list[int]
    text: str
    tokenizer: Any

    def end(self, at: int) -> int:
        """How many characters of the text there are up to the end of a token. Seldom asked for, so only then found."""
        return backend(self.tokenizer).encode(self.text, add_special_tokens=False).token_to_chars(at)[1]


T = TypeVar("T")
Steps = Generator[list[str], list[Tokens], T]  # asks for the tokens of some texts, as often as it needs to


def together(tokenizer: Any, steps: Sequence[Steps[T]]) -> list[T | TemplateError]:
    """Go through the steps of many rows; the texts that they ask for at the same time are tokenised at once.

    Returns:
        What each gives in the end, or the error that it ends with.
    """
    found: list[Any] = [None] * len(steps)
    asked: dict[int, list[str]] = {}

    def go_on(at: int, tokens: list[Tokens] | None) -> None:
        try:
            asked[at] = steps[at].send(tokens)  # type: ignore[arg-type]
        except StopIteration as end:
            found[at] = end.value
        except TemplateError as error:
            found[at] = error

    for at in range(len(steps)):
        go_on(at, None)
    while asked:
        waiting, texts = dict(asked), [*dict.fromkeys(text for some in asked.values() for text in some)]
        asked.clear()
        known = dict(zip(texts, _tokens(tokenizer, texts), strict=True))
        for at, some in waiting.items():
            go_on(at, [known[text] for text in some])
    return found


def alone(tokenizer: Any, steps: Steps[T]) -> T:
    """What the steps of one row give, or their error."""
    (found,) = together(tokenizer, [steps])
    if isinstance(found, TemplateError):
        raise found
    return found


def backend(tokenizer: Any) -> Any:
    """What a fast tokenizer runs on.

    Raises:
        ConfigError: for one that is written in Python.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} is a tokenizer in Python alone, and rows are read by fast ones; give a "
            "checkpoint whose tokenizer has a tokenizer.json"
        )
    return tokenizer.backend_tokenizer


def _tokens(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    tokenizer("", add_special_tokens=False)  # so that it neither pads nor cuts, whatever it was used for before
    made = backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)  # without places in the text
    return [Tokens(one.ids, text, tokenizer) for one, text in zip(made, texts, strict=True)]
