"""Read a rating off what a model wrote, or say that it refused, or that nothing can be read off it.

A text with two readings counts as unparsable: it is better counted as such than guessed.
"""

from __future__ import annotations

import re

from align.data.chat import reasoning

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBER = re.compile(r"(?<![\w.,-])(-?\d+(?:\.\d+)?|" + "|".join(_WORDS) + r")(?![\w%]|-\w|[.,]\d)")
_RANGE = re.compile(
    r"\s*(?:-|–|—|to|or|and|\.\.\.?|,|/|out of)\s*(?:an?\s+|maybe\s+)?(?:\d|half\b|" + "|".join(_WORDS) + r")"
)
_BOUND = re.compile(
    r"\b(not|no|above|below|over|under|than|least|most|between|except|any|every|either|neither)\s*(an?\s)?$"
)
# "one" is a rating only where it counts nothing and belongs to no "no one"
_ONE = (re.compile(r"\b(?:no|any|every|some|each|this|that|which) $"), re.compile(r"\s*(?:$|[.!,;:/])"))
_HARD = re.compile(
    r"\b(can ?not|can't|could not|couldn't|will not|won't|would not|wouldn't|unable to|not able to|not going to"
    r"|decline to|refuse to|must decline|not appropriate (for me )?to|not comfortable)\b[^.!?]*?\b(help|answer|rate"
    r"|rating|give|provide|say|offer|assign|judge|assist|take|express|choose|pick|do|comply|engage|respond|evaluate|share)\b"
)  # fmt: skip
_SOFT = re.compile(
    r"\b(as an ai|as a language model|i am an ai|i'm an ai|i (do not|don't) (have|hold) (any )?(personal )?(opinion"
    r"|view|belief)|no (personal )?opinion|sorry|apologi[sz]e|i decline|i refuse|i'd rather not|i would rather not"
    r"|i (do not|don't) know)"
)  # fmt: skip


def _plain(text: str) -> str:
    """Lower case, without markdown, curly quotes and whatever was thought aloud before the answer."""
    text = reasoning.split(text)[1].replace("’", "'").replace("−", "-").replace("\\", "")
    return " ".join(re.sub(r"[*_`#$\"“”()\[\]{}]|boxed", " ", text).lower().split())


def _number(word: str) -> float:
    return float(_WORDS.index(word)) if word in _WORDS else float(word)


def parse_rating(text: str, scale: tuple[int, int] = (1, 10)) -> float | None:
    """The rating that an answer gives: its first number, with "/10" and the like left out.

    None where there is no number, where the first one is out of range or a bound ("at least 5"), and where a second
    alternative follows ("3 or 7", "between 3 and 7"). Numbers up to ten may be words.
    """
    low, high = scale
    ends = [rf"(?:{end}|{_WORDS[end]})" if end <= 10 else str(end) for end in scale]
    said = re.sub(rf"\b(from |between |of )?{ends[0]}\s?(to|-|–|and)\s?{ends[1]}\b(?!\.\d)", " scale ", _plain(text))
    said = re.sub(rf"\bout of (a possible )?{ends[1]}\b(?!\.\d)", " ", said)
    said = re.sub(rf"(\d|{'|'.join(_WORDS)})\s?(/|of|on)\s?{ends[1]}\b(?!\.\d)", r"\1 ", said).strip()
    for match in _NUMBER.finditer(said):
        before, word, rest = said[: match.start()], match[1], said[match.end() :]
        if word == "one" and (_ONE[0].search(before) or not _ONE[1].match(rest)):
            continue
        if _BOUND.search(before) or _RANGE.match(rest) or re.match(r"\s*percent", rest):
            return None
        value = _number(word)
        beside = _NUMBER.match(rest.lstrip())
        if beside and _number(beside[1]) != value:  # a list of numbers
            return None
        return value if low <= value <= high else None
    return None


def classify(text: str, scale: tuple[int, int] = (1, 10)) -> tuple[str, float | None]:
    """`("rated", rating)`, `("refused", None)` or `("unparsable", None)`.

    "I cannot rate that" is a refusal whatever number follows; "As an AI I have no opinion" only where none does.
    """
    said, rating = _plain(text), parse_rating(text, scale)
    starts = bool(_NUMBER.match(said))  # "7. I cannot say more" is an answer
    if _HARD.search(said) and not (starts and rating is not None):
        return "refused", None
    if rating is not None:
        return "rated", rating
    return ("refused" if _SOFT.search(said) else "unparsable"), None
