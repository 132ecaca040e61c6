"""Texts by themselves: how varied they are, whether they repeat, perplexity on held-out documents.

B windows, T tokens per window, V vocabulary.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import torch

from align import stats
from align.evaluate.results import Perplexity
from align.run.errors import ConfigError, DataError, RunError

PERIODS = 3  # how often a unit must stand at the end of a text to be a loop
LOOP_WORDS, LOOP_CHARACTERS = 12, 32  # and how long that end must be: "no, no, no" is none
LONGEST_UNIT = 300  # words or characters


def distinct(completions: Sequence[str | Sequence[int]], n: int) -> float | None:
    """Distinct-n of a set of completions: different n-grams / all n-grams (Li et al. 2016, section 5).

    They divide by the number of tokens; dividing by the number of n-grams, as most do since, lets 1 be reached.

    Args:
        completions: texts (read as lower-case words) or token ids; no n-gram crosses from one to the next.
        n: length of the n-grams, at least 1.

    Returns:
        In (0, 1]; None where no completion has n tokens. It falls as the set grows: compare sets of one size.
    """
    grams = [gram for completion in completions for gram in _grams(_tokens(completion), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(ids: Sequence[Any], n: int = 4) -> float:
    """Share of one completion's n-grams that it had before: 0 for none, towards 1 for an endless loop.

    1 - unique/all, seq-rep-n of Welleck et al. 2020, eq. 7. 0 where it is shorter than n tokens.
    """
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_repeating(text: str) -> bool:
    """Is the text caught in a loop?

    So it is where it ends in a unit that stands there at least three times and fills 12 words (or 32 characters and
    half of the text, for scripts without spaces), or where three quarters of its word 4-grams had been there before.
    """
    words = _tokens(text)
    if _ends_in_loop(words, LOOP_WORDS):
        return True
    if len(words) >= 2 * LOOP_WORDS and repetition(words) >= 0.75:
        return True
    characters = [c for c in text.lower() if not c.isspace()]
    return _ends_in_loop(characters, max(LOOP_CHARACTERS, len(characters) // 2))


def _tokens(completion: str | Sequence[int]) -> Sequence[Any]:
    """Token ids as they are; the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", completion.lower()) if isinstance(completion, str) else completion


def _grams(tokens: Sequence[Any], n: int) -> list[tuple]:
    assert n >= 1, n
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _ends_in_loop(tokens: Sequence[Any], length: int) -> bool:
    """Do the last `length` tokens or more consist of one unit, `PERIODS` times or more (the last may be cut)?"""
    for period in range(1, min(len(tokens) // PERIODS, LONGEST_UNIT) + 1):
        at = len(tokens) - 1
        while at >= period and tokens[at] == tokens[at - period]:
            at -= 1
        if len(tokens) - 1 - at + period >= max(length, PERIODS * period):
            return True
    return False


# ------------------------------------------------------------------------------------------------ words and numbers

_NUMBER = re.compile(
    r"(?:(?<![\w.,)\]])([-+−])\s?)?[$€£]?((?:\d{1,3}(?:[,_'\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
    r"([eE][-+]?\d{1,3}(?!\d))?"
)


def numbers(text: str) -> list[Decimal]:
    """All numbers in a text: signs, decimals, exponents, and thousands set apart by comma, apostrophe or thin space."""
    return [
        Decimal(("-" if sign in ("-", "−") else "") + re.sub(r"[^\d.]", "", digits) + exponent)
        for sign, digits, exponent in _NUMBER.findall(text)
    ]


def normalise(text: str) -> str:
    """Lower-case words and numbers with single spaces: no punctuation but a number's own, no thousands separators."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    text = re.sub(r"(?<=\d)[,_'](?=\d{3}(?!\d))", "", text)
    return " ".join(re.findall(r"(?:(?<![\w.)])-)?\d+(?:\.\d+)?(?!\w)|\w+", text.replace("_", " ")))


# ------------------------------------------------------------------------------------------------------ no answer


def broken(completion: str, prompt: str) -> Literal["empty", "repeating"] | None:
    """Is there no answer to grade: no letter and no digit, or a loop, or nothing but the prompt?"""
    said, asked = normalise(completion), normalise(prompt)
    if not said:
        return "empty"
    apart = asked.replace(" ", "  ")  # doubled, so that two echoes side by side do not share a space
    echo = bool(asked) and not f" {said} ".replace(" ", "  ").replace(f" {apart} ", "").strip()
    return "repeating" if echo or is_repeating(completion) else None


# ------------------------------------------------------------------------------------------------------- perplexity


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str], *, max_length: int, batch_size: int) -> Perplexity:
    """Perplexity of held-out documents, to see what alignment has cost in language modelling.

    Every document is read by itself after one beginning-of-text token, and each of its tokens is predicted exactly
    once: a long one in windows of `max_length` that share one token, so a window's first words have little context
    (the usual, slightly pessimistic, measure for fixed lengths). No end-of-text token is predicted: after SFT another
    token ends a turn, and its price would look like a loss of language.

    Args:
        model: a frozen causal language model, in eval mode.
        texts: documents, none of them empty.
        max_length: tokens per window, at least 2 and no more than the model has positions.
        batch_size: windows per forward pass; it changes the speed, not the result.

    Returns:
        Loss, perplexity, bits per byte = nats / (ln 2 · UTF-8 bytes), which is the one to compare across tokenizers,
        and how many tokens were predicted. Intervals are percentiles of a bootstrap over documents of the ratio of
        totals; a single document has none (`low` and `high` are None).

    Raises:
        ConfigError: for a `max_length` that cannot be, or a model without any token that begins a text.
        DataError: where there is no document, or an empty one.
        RunError: where the model's loss is not a number.
    """
    assert not model.training, "a frozen model is measured in eval mode"
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_length < 2 or (most is not None and max_length > most):
        raise ConfigError(f"max_length={max_length}: perplexity needs 2 to {most or 'any number of'} tokens per window")
    if not texts:
        raise DataError("perplexity: there is no held-out document")
    begin = _begin_id(model, tokenizer)
    owners: list[int] = []
    windows: list[list[int]] = []
    for number, text in enumerate(texts):
        ids = [begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        if len(ids) == 1:
            raise DataError(f"perplexity: document {number + 1} is empty; leave it out")
        for start in range(0, len(ids) - 1, max_length - 1):
            owners.append(number)
            windows.append(ids[start : start + max_length])
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts))
    for owner, window, value in zip(owners, windows, _nats(model, windows, begin, batch_size), strict=True):
        nats[owner] += value
        tokens[owner] += len(window) - 1
    if not np.isfinite(nats).all():
        worst = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise RunError(f"perplexity: the loss is {nats[worst]} on document {worst + 1}: {texts[worst][:60]!r}")
    sizes = np.array([len(text.encode()) for text in texts], dtype=float)
    loss, bits = _over_documents(nats, tokens), _over_documents(nats / math.log(2), sizes)
    low, high = (None if end is None else math.exp(end) for end in (loss.low, loss.high))
    surprise = stats.Estimate(math.exp(loss.value), low, high, loss.n)
    return Perplexity(surprise, loss, bits, int(tokens.sum()))


def _begin_id(model: Any, tokenizer: Any) -> int:
    """What a document begins with: the tokenizer's BOS, else the one of the model's config, else EOS (as GPT-2's)."""
    for token in (tokenizer.bos_token_id, model.config.get_text_config().bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ConfigError("perplexity: the tokenizer has neither a BOS nor an EOS token to begin a document with")


@torch.no_grad()
def _nats(model: Any, windows: list[list[int]], pad_id: int, batch_size: int) -> list[float]:
    """Summed negative log-likelihood of each window's tokens but the first, in nats."""
    out = [0.0] * len(windows)
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))  # the largest first: memory is known at once
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = len(windows[batch[0]])
        ids_BT = torch.full((len(batch), width), pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, index in enumerate(batch):
            ids_BT[row, : len(windows[index])] = torch.tensor(windows[index])
            mask_BT[row, : len(windows[index])] = 1
        ids_BT = ids_BT.to(model.device)
        logits = model(input_ids=ids_BT, attention_mask=mask_BT.to(model.device), use_cache=False).logits
        for row, index in enumerate(batch):  # row by row: [B, T, V] in fp32 may not fit
            end = len(windows[index])
            losses = torch.nn.functional.cross_entropy(
                logits[row, : end - 1].float(), ids_BT[row, 1:end], reduction="none"
            )
            out[index] = losses.double().sum().item()
    return out


def _over_documents(top: np.ndarray, bottom: np.ndarray) -> stats.Estimate:
    """sum(top) / sum(bottom), both [N]; a single document has no interval."""
    found = stats.ratio(top, bottom)
    assert found is not None, "documents have tokens and bytes"
    return found if len(top) > 1 else stats.Estimate(found.value, None, None, 1)
