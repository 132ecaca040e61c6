"""Who says how positive a review is: VADER, whose scores make the preferences, and weights of words, which nothing is
trained on. As functions: `--reward_funcs align.reviews.judges:vader`, `--gold_func align.reviews.judges:second`.

Both read opening and continuation together, as Ziegler et al. 2019 do.
"""

from __future__ import annotations

import functools
from typing import Any

from align.reviews import wordlist
from align.run.errors import ConfigError

UNFINISHED = -1.0  # VADER's lowest: what no sentence end was reached in has nothing that it could be liked for
CLEAR = 0.05  # from where VADER's authors call a text positive (Hutto and Gilbert 2014)


@functools.cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigError("VADER is not installed: pip install 'align-recipes[real]'") from error
    return SentimentIntensityAnalyzer()


def compound(text: str) -> float:
    """VADER's score of a text, from -1 to 1."""
    return float(_analyser().polarity_scores(text)["compound"])


@functools.lru_cache(maxsize=2)
def _weights(path: str) -> dict[str, float]:
    return wordlist.load(path)


def vader(prompts: list[str], completions: list[str], stopped: list[bool], **_: Any) -> list[float]:
    """VADER's score, from -1 to 1; -1 for a sentence that did not come to its end."""
    rows = zip(prompts, completions, stopped, strict=True)
    return [compound(prompt + said) if ended else UNFINISHED for prompt, said, ended in rows]


def second(prompts: list[str], completions: list[str], judge: list[str], **_: Any) -> list[float]:
    """The second judge: log-odds of being positive by the words' weights in the file `judge`. Summed over words, so a
    longer text may have more of either sign."""
    rows = zip(prompts, completions, judge, strict=True)
    return [wordlist.score(_weights(path), prompt + said) for prompt, said, path in rows]


def rates(
    prompts: list[str], completions: list[str], judge: list[str], stopped: list[bool], **_: Any
) -> list[dict[str, bool]]:
    """Is a continuation positive by VADER, and by the second judge?"""
    first = vader(prompts, completions, stopped)
    other = second(prompts, completions, judge)
    return [
        {"positive (VADER)": one >= CLEAR, "positive (words)": score > 0}
        for one, score in zip(first, other, strict=True)
    ]
