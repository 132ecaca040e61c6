"""A judge of sentiment that can be read: a weight for every word and every two words in a row.

Naive Bayes' log-ratios as the features of a logistic regression (Wang and Manning 2012, "Baselines and bigrams"): with

    r_w = log (p_w / |p|) - log (n_w / |n|),   p_w = 1 + positive reviews with w,   n_w = 1 + negative ones

the regression's weight b_w of the feature r_w [w is there] gives w the weight r_w b_w; a text's score is their sum: the
log-odds that it is positive. No intercept: learnt on whole reviews, it would call nearly every sentence positive.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from align.run.errors import ConfigError
from align.run.received import files

WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|[!?]")
FEWEST = 2  # reviews with a word, for it to count
PENALTY = 0.1  # scikit-learn's C


def parts(text: str) -> set[str]:
    """The words of a text, and its pairs of neighbours."""
    words = WORD.findall(text.lower())
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))}


def fit(texts: list[str], positive: list[bool]) -> dict[str, float]:
    """The weight of each word and each pair.

    Raises:
        ConfigError: where scikit-learn is not installed, or all texts are of one kind.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError("training the judge needs scikit-learn: pip install 'align-recipes[real]'") from error
    if len(set(positive)) < 2:
        raise ConfigError("training the judge needs reviews of both kinds: all labels are the same")
    import numpy as np

    counter = CountVectorizer(analyzer=parts, min_df=FEWEST, binary=True)
    there, good = counter.fit_transform(texts), np.array(positive)
    with_word = [1 + np.asarray(there[side].sum(0)).ravel() for side in (good, ~good)]
    ratio = np.log(with_word[0] / with_word[0].sum()) - np.log(with_word[1] / with_word[1].sum())
    found = LogisticRegression(C=PENALTY, fit_intercept=False, max_iter=1000).fit(there.multiply(ratio).tocsr(), good)
    weights = zip(counter.get_feature_names_out(), (ratio * found.coef_[0]).tolist(), strict=True)
    return {word: round(weight, 5) for word, weight in weights}


def score(weights: dict[str, float], text: str) -> float:
    """The log-odds that a text is positive."""
    return math.fsum(weights.get(part, 0.0) for part in parts(text))


def accuracy(weights: dict[str, float], texts: list[str], positive: list[bool]) -> float:
    """Share of texts that are judged right."""
    right = [(score(weights, text) > 0) == label for text, label in zip(texts, positive, strict=True)]
    return sum(right) / max(1, len(right))


def save(weights: dict[str, float], path: Path) -> None:
    """Write weights as JSON, the heaviest words first."""
    files.replace(path, json.dumps(dict(sorted(weights.items(), key=lambda pair: -abs(pair[1]))), indent=0) + "\n")


def load(path: str) -> dict[str, float]:
    """What `save` wrote.

    Raises:
        ConfigError: for anything else.
    """
    try:
        found: Any = files.parsed(files.text(Path(path)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no weights of words ({error}); the stage `reviews` writes them") from error
    if not isinstance(found, dict) or not all(isinstance(weight, (int, float)) for weight in found.values()):
        raise ConfigError(f"{path}: no weights of words (a JSON object of numbers)")
    return found
