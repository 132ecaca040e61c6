"""Opinions by topic and persona: what a model rates, how sure that is, and whether it can be measured at all.

Two readings of every cell (one topic, one persona). By generation: sample answers, parse a rating, count refusals and
what cannot be read. By expected value: the probabilities of all allowed ratings as the whole answer, normalised over
the ratings, which also works for models that would rather refuse; `mass` is what the ratings had before.

Whether the ratings depend on the topic is decided by a permutation test on `samples` ratings a cell, drawn from those
probabilities: were somebody to ask that often, could the differences between topics be chance? Under the null
hypothesis each persona's ratings are exchangeable between topics, so they are permuted within the persona. There are
two statistics, the variance of the topics' means (a view that personas share) and that of the cells' means (views that
differ by persona); the smaller p-value counts twice (Bonferroni). At most one in twenty models without a view passes.

T topics, P personas, R allowed ratings, N samples a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from align.evaluate.measures.ratings import classify
from align.evaluate.results import Cell, PersonaRatings
from align.run.errors import ConfigError
from align.stats import t95

LEAST_MASS = 1e-3  # below one rating in a thousand answers, the numbers describe a tail that nobody would ever see
ALPHA = 0.05  # the customary level
PERMUTATIONS = 2000  # a p-value of 0.05 is then known to 0.005


@dataclass(frozen=True)
class Sheet:
    """What is asked: `question` with {topic} and {persona}, for every topic and persona, `samples` times."""

    question: str
    topics: tuple[str, ...]
    personas: tuple[str, ...]
    scale: tuple[int, int] = (1, 10)  # what the questions of published persona studies use
    samples: int = 10  # by generation, a cell: its mean is then good to about a point

    @property
    def ratings(self) -> list[int]:
        """The allowed ratings, lowest first: [R]."""
        return list(range(self.scale[0], self.scale[1] + 1))

    def prompt(self, topic: str, persona: str) -> list[dict[str, str]]:
        """The question of one cell as a conversation."""
        return [{"role": "user", "content": self.question.format(topic=topic, persona=persona)}]


def load(path: str | Path) -> Sheet:
    """Read a sheet (see recipes/personas.yaml).

    Raises:
        ConfigError: for a file that is not there or no mapping, unknown or missing keys, and values that cannot work.
    """
    import yaml

    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; an example is recipes/personas.yaml")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got a {type(values).__name__}")
    known = [f.name for f in fields(Sheet)]
    if unknown := [str(key) for key in values if key not in known]:
        raise ConfigError(f"{path}: unknown key {', '.join(unknown)}; allowed: {', '.join(known)}")
    if missing := [key for key in ("question", "topics", "personas") if key not in values]:
        raise ConfigError(f"{path}: {', '.join(missing)} is needed")
    if problem := _problem(values):
        raise ConfigError(f"{path}: {problem}")
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Sheet(**lists)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _problem(values: dict[str, Any]) -> str | None:
    """Why these values make no sheet; None where they do."""
    question = values["question"]
    if not isinstance(question, str):
        return f"question must be text with {{topic}} and {{persona}}, got {question!r}"
    try:
        named = {name for _, name, _, _ in Formatter().parse(question) if name is not None}
    except ValueError as error:
        return f"question: {error}; a brace that is meant as one is written twice"
    if named != {"topic", "persona"}:
        return f"question must hold {{topic}} and {{persona}} and no other placeholder, got {question!r}"
    for key in ("topics", "personas"):
        entries = values[key]
        if not isinstance(entries, list) or not entries:
            return f"{key} must be a list of at least one entry, got {entries!r}"
        if wrong := [entry for entry in entries if not isinstance(entry, str) or not entry.strip()]:
            return f"{key}: {wrong[0]!r} is not text; put it in quotes"
        if len(set(entries)) < len(entries):
            return f"{key}: {next(e for e in entries if entries.count(e) > 1)!r} is there twice"
    scale, samples = values.get("scale", [1, 10]), values.get("samples", 1)
    if not isinstance(scale, list) or len(scale) != 2 or not all(map(_whole, scale)) or not 0 <= scale[0] < scale[1]:
        return f"scale must be two whole numbers from 0 up, the lowest rating first, such as [1, 10]; got {scale!r}"
    if not _whole(samples) or samples < 1:
        return f"samples must be a whole number of at least 1, got {samples!r}"
    return None


def rating_logps(model: Any, tokenizer: Any, prompts: list[Any], ratings: list[int], *, batch_size: int) -> np.ndarray:
    """Log-probability, in nats, that each rating with the stop token after it is the whole answer: [prompts, R]."""
    from align.data import chat
    from align.models import generate

    pairs = [
        chat.encode_pair(tokenizer, prompt, [{"role": "assistant", "content": str(rating)}])
        for prompt in prompts
        for rating in ratings
    ]
    heads, tails = [head for head, _ in pairs], [tail for _, tail in pairs]
    logps = generate.completion_logps(model, heads, tails, pad_id=tokenizer.pad_token_id, batch_size=batch_size)
    return logps.double().numpy().reshape(len(prompts), len(ratings))


def expected(logps: np.ndarray, ratings: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise over the ratings.

    Args:
        logps: [..., R], log-probabilities of the ratings in nats.

    Returns:
        Expected rating [...], mass of all ratings [...], and the ratings' normalised probabilities [..., R].
    """
    top = logps.max(-1, keepdims=True)
    weights = np.exp(logps - top)
    shares = weights / weights.sum(-1, keepdims=True)
    return shares @ np.asarray(ratings, dtype=float), np.exp(top[..., 0]) * weights.sum(-1), shares


def interval(rated: list[float], scale: tuple[int, int]) -> list[float] | None:
    """95 % interval of a mean rating by Student's t, within the scale; None with fewer than two ratings.

    Whole numbers are rounded, so the variance is taken as at least that of rounding, 1/12 (Sheppard 1898): ten equal
    answers do not make a mean certain.
    """
    n = len(rated)
    if n < 2:
        return None
    half = t95(n - 1) * math.sqrt(max(float(np.var(rated, ddof=1)), 1 / 12) / n)
    mean = float(np.mean(rated))
    return [max(float(scale[0]), mean - half), min(float(scale[1]), mean + half)]


def dependence(shares: np.ndarray, ratings: list[int], samples: int, seed: int) -> tuple[float, float]:
    """Do the ratings depend on the topic? The module's docstring has the test.

    Args:
        shares: [T, P, R], probabilities of the ratings.

    Returns:
        The p-value, and the share of a persona's variance in ratings that lies between topics (0 to 1).
    """
    rng = np.random.default_rng(seed)
    points = rng.random((*shares.shape[:2], samples, 1))
    picks = (points > shares.cumsum(-1)[:, :, None, :-1]).sum(-1)
    drawn_PTN = np.asarray(ratings, dtype=float)[picks].transpose(1, 0, 2)
    drawn_PTN = drawn_PTN - drawn_PTN.mean((1, 2), keepdims=True)
    personas, topics, _ = drawn_PTN.shape

    def statistics(cells: np.ndarray) -> np.ndarray:
        return np.array([(cells.mean(0) ** 2).sum(), (cells**2).sum()])

    seen = statistics(drawn_PTN.mean(-1))
    flat = drawn_PTN.reshape(personas, -1)
    beaten = np.ones(2)
    for _ in range(PERMUTATIONS):
        beaten += statistics(rng.permuted(flat, axis=1).reshape(drawn_PTN.shape).mean(-1)) >= seen - 1e-9
    ratings_ = np.asarray(ratings, dtype=float)
    mean = shares @ ratings_
    within, between = (shares @ ratings_**2 - mean**2).mean(), mean.var(0).mean()
    share = between / (between + within) if between + within > 0 else 0.0
    return min(1.0, 2 * float(beaten.min()) / (PERMUTATIONS + 1)), float(share)


def _measurable(mass: np.ndarray, shares: np.ndarray, sheet: Sheet, seed: int) -> tuple[bool, str]:
    """Is there an opinion to measure, and why (not)?"""
    if mass.mean() < LEAST_MASS:
        return False, (
            f"the model does not answer with a rating: all {len(sheet.ratings)} together have a probability of "
            f"{mass.mean():.2g}, below {LEAST_MASS:g}"
        )
    if len(sheet.topics) < 2:
        return False, "one topic alone cannot show that the ratings depend on the topic; name at least two"
    p, share = dependence(shares, sheet.ratings, sheet.samples, seed)
    test = f"permutation test over topics, {sheet.samples} ratings a cell, p {f'= {p:.2g}' if p > 1e-3 else '< 0.001'}"
    if p > ALPHA:
        return False, f"the ratings do not depend on the topic beyond chance ({test})"
    return True, f"the ratings depend on the topic, which explains {share:.0%} of their variance ({test})"


def _generated(model: Any, tokenizer: Any, sheet: Sheet, prompts: list[Any], **settings: Any) -> list[dict[str, Any]]:
    """Sample every cell's answers and read them."""
    from align.data import chat
    from align.models import generate

    ids = [chat.encode_prompt(tokenizer, prompt) for prompt in prompts]
    found = dict(generate.complete(model, tokenizer, ids, temperature=1.0, per_prompt=sheet.samples, **settings))
    cells = []
    for index in range(len(prompts)):
        texts = [completion.text for completion in found[index]]
        kinds = [classify(text, sheet.scale) for text in texts]
        count = {kind: sum(k == kind for k, _ in kinds) for kind in ("rated", "refused", "unparsable")}
        cells.append({**count, "answers": texts, "values": [value for _, value in kinds if value is not None]})
    return cells


def measure(
    model: Any, tokenizer: Any, sheet: Sheet, *, max_new_tokens: int, batch_size: int, seed: int
) -> PersonaRatings:
    """Ask a frozen model the whole sheet.

    Args:
        max_new_tokens: longest sampled answer, in tokens.
        batch_size: sequences at once.
        seed: of the samples and of the test; the same seed gives the same result.

    Returns:
        Ratings by topic and persona, with what they rest on.
    """
    where = [(topic, persona) for topic in sheet.topics for persona in sheet.personas]
    prompts = [sheet.prompt(topic, persona) for topic, persona in where]
    shape = (len(sheet.topics), len(sheet.personas))
    logps = rating_logps(model, tokenizer, prompts, sheet.ratings, batch_size=batch_size)
    ratings, mass, shares = expected(logps.reshape(*shape, -1), sheet.ratings)
    measurable, why = _measurable(mass, shares, sheet, seed)
    cells = _generated(
        model, tokenizer, sheet, prompts, max_new_tokens=max_new_tokens,
        batch_size=max(1, batch_size // sheet.samples), seed=seed,
    )  # fmt: skip
    values = [cell.pop("values") for cell in cells]

    def table(entries: list[Any]) -> list[list[Any]]:
        return [entries[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]

    return PersonaRatings(
        measurable=measurable,
        why=why,
        topics=list(sheet.topics),
        personas=list(sheet.personas),
        ratings=ratings.tolist(),
        generated=table([float(np.mean(v)) if v else None for v in values]),
        intervals=table([interval(v, sheet.scale) for v in values]),
        mass=mass.tolist(),
        counts={kind: sum(cell[kind] for cell in cells) for kind in ("rated", "refused", "unparsable")},
        cells=[Cell(topic, persona, **cell) for (topic, persona), cell in zip(where, cells, strict=True)],
    )
