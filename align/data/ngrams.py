"""How similar two prompts are: Jaccard similarity of their words' n-grams. W words of one prompt.

A prompt is the set of its 1-, 2- and 3-grams of words, padded at both ends: W words have 3 W + 3 of them, and every
word counts alike wherever it stands. For prompts whose words all differ this gives, to check by hand:

    one word replaced in W       (W - 1) / (W + 3)    at least 0.8 from 17 words on
    one word added to W          W / (W + 3)          at least 0.8 from 12 words on

So a long prompt with a word changed is near, and short ones that share a template are not: "What is the capital of
Peru?" against Spain is 5 / 9, "What is 17 plus 25?" against 26 is 4 / 8. Characters' 5-grams put the latter at 0.87,
because the sums differ in one character; unpadded 1- to 3-grams put templates of ten words that end in another name at
0.8. The price: of prompts below 12 words, only equal ones are found at 0.8. Paraphrases are not what this finds: word
overlap cannot see them (Yang et al. 2023, "Rethinking Benchmark and Contamination for Language Models with Rephrased
Samples").
"""

from __future__ import annotations

import re
import unicodedata

import regex

# A letter of scripts that put no space between words is a word. Marks (Thai and Hindi vowels) belong to their letter.
LONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# Symbols carry the meaning of sums and code ("2 + 2", "C#"): they are words. A hyphen is one where a number follows.
_TOKENS = regex.compile(
    rf"\p{{Nd}}+(?:[.,]\p{{Nd}}+)*|{LONE}\p{{M}}*|(?:(?!{LONE})[\p{{L}}\p{{M}}\p{{N}}_])+"
    r"|-(?=\s*\p{Nd})|[\p{Sm}\p{Sc}\p{So}^*/%#&@\\]"
)

_ASCII_TOKENS = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[a-z_][a-z0-9_]*|-(?=\s*[0-9])|[$+<=>|~^*/%#&@\\]")


def words(text: str) -> list[str]:
    """The words of a prompt without case, spaces, sentence punctuation and Unicode forms.

    Text of nothing but punctuation is one word, itself; empty text has none.
    """
    if text.isascii():  # the same rules, five times as fast
        plain = text.lower().replace("'", "")
        return _ASCII_TOKENS.findall(plain) or plain.split()
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "").replace("'", "")
    return _TOKENS.findall(plain) or plain.split()


def grams(text: str) -> set[tuple[str, ...]]:
    """The padded 1-, 2- and 3-grams of a prompt's words: what `similarity` compares."""
    found: set[tuple[str, ...]] = set()
    for size in (1, 2, 3):
        padded = [""] * (size - 1) + words(text) + [""] * (size - 1)
        found |= {tuple(padded[at : at + size]) for at in range(len(padded) - size + 1)}
    return found


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of two prompts, 0 to 1: the definition, for one pair at a time."""
    one, other = grams(a), grams(b)
    return len(one & other) / len(one | other) if words(a) and words(b) else 0.0
