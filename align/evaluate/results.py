"""What an evaluation found, as it travels from the measures to tables, pages and `results.json`.

`plain` turns any of it, or of a comparison's results, into what JSON holds, and `read` turns that back. A field whose
default is None (or `UNASKED`) was not measured where it holds it, and is left out of the JSON.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from align.stats import Estimate

UNASKED = Estimate(float("nan"), None, None, 0)  # not asked for, where None says: asked, but there is none
Grid = list[list[float | None]]  # [T][P]: a row for each topic, a column for each persona


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Means over `n` held-out prompts, of completions that one model sampled (`name`, where nothing else says which).

    `kl` is in nats a completion, `kl_per_token` and `entropy` in nats a token, `length` in tokens; `stops`,
    `distinct_1`, `distinct_2` and `repetition` are shares; the scores are in their graders' units.
    """

    name: str | None = None
    reward: Estimate | None = None
    gold: Estimate | None = None
    second: Estimate | None = None
    kl: Estimate | None = None
    kl_per_token: Estimate | None = None
    entropy: Estimate | None = None
    length: Estimate | None = None
    stops: Estimate | None = None
    distinct_1: Estimate | None = None
    distinct_2: Estimate | None = None
    repetition: Estimate | None = None
    n: int

    def measures(self) -> dict[str, Estimate]:
        """What was measured, by name."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in ("name", "n")}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def score(self, key: str) -> Estimate | None:
        """`reward`, `gold` or `second`."""
        return getattr(self, key, None)


@dataclass(frozen=True)
class Perplexity:
    """Held-out text: `loss` in nats a token, `perplexity` = exp(loss); `tokens` is how many were predicted."""

    perplexity: Estimate
    loss: Estimate
    bits_per_byte: Estimate
    tokens: int


@dataclass(frozen=True)
class OfOneModel:
    """The refusal judge on one model's answers. `missed` and `mistaken` are [how many, of how many]."""

    agreement: Estimate
    missed: list[int]
    mistaken: list[int]


@dataclass(frozen=True, kw_only=True)
class RefusalJudge:
    """How often the shipped refusal judge is wrong against people, on answers that it did not learn from.

    `agreement` is the share of answers that both say comply, or both say do not; `missed` the share of people's
    refusals that it takes for compliance, `mistaken` that of their compliances that it takes for refusals.
    """

    agreement: Estimate
    missed: Estimate
    mistaken: Estimate
    models: dict[str, OfOneModel]


@dataclass(frozen=True, kw_only=True)
class SafetyGrades:
    """A suite of safe and unsafe prompts: shares done right, and counts of answers that were neither right nor wrong.

    `both` is the share of prompt pairs with both right; None where the suite has no pairs. `judge` told the refusals;
    it could not judge `not_judged` of the answers, which are in no share. Where an endpoint told them, `shipped` is
    what the shipped judge says, and `agreement` how often the two agree, comply or not.
    """

    kind: str = "pairs"
    unsafe_refused: Estimate | None
    safe_complied: Estimate | None
    both: Estimate | None
    partial: int
    empty: int
    repeating: int
    by_type: dict[str, Estimate | None]
    not_judged: int
    judge: str
    agreement: Estimate | None = None
    shipped: SafetyGrades | None = None


@dataclass(frozen=True, kw_only=True)
class SkillGrades:
    """A suite of prompts with one right answer each."""

    kind: str = "skill"
    accuracy: Estimate | None
    unparsable: int
    empty: int
    repeating: int


@dataclass(frozen=True)
class Cell:
    """One topic under one persona: how many sampled answers were ratings, refusals, neither; and the answers."""

    topic: str
    persona: str
    rated: int
    refused: int
    unparsable: int
    answers: list[str]


@dataclass(frozen=True, kw_only=True)
class PersonaRatings:
    """A sheet's ratings, T topics by P personas.

    `ratings` are expected values, `generated` means of sampled ratings (None where no answer was one) and `intervals`
    those means' 95 % intervals, `mass` the probability of all ratings together. Where `mass` is small, a rating is what
    a model that would not rate would rate.
    """

    method: str = "expected value"
    measurable: bool
    why: str
    topics: list[str]
    personas: list[str]
    ratings: Grid
    generated: Grid
    intervals: list[list[list[float] | None]]
    mass: list[list[float]]
    counts: dict[str, int]
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """Everything that was measured of one model. Win rates are by judge, suites and standard benchmarks by name."""

    path: str
    recipe: str
    hash: str
    sampled: Sampled
    rates: dict[str, Estimate] | None = None
    win_rate: dict[str, Estimate | None] | None = None
    preference_accuracy: Estimate | None = UNASKED
    tax: Perplexity | None = None
    personas: PersonaRatings | None = None
    lm_eval: dict[str, dict[str, Estimate]] | None = None
    suites: dict[str, SafetyGrades | SkillGrades] | None = None


@dataclass(frozen=True)
class RewardModelResult:
    """A reward model's agreement with held-out pairs, in all and by category, beside that of length alone."""

    accuracy: Estimate
    length_only_accuracy: float
    categories: dict[str, Estimate]


@dataclass(frozen=True)
class Check:
    """One thing that a gate asks (see `align.run.gates`)."""

    name: str
    value: float
    bound: str
    passed: bool
    why: str


@dataclass(frozen=True)
class Gate:
    """A run's gate."""

    run: str
    passed: bool
    checks: tuple[Check, ...]
    not_measured: dict[str, str] = field(default_factory=dict)  # what failed to be measured, and why


@dataclass(frozen=True)
class Answer:
    """A completion as the page shows it, with its scores where there are any."""

    name: str
    text: str
    reward: float | None
    gold: float | None


@dataclass(frozen=True)
class Sample:
    """One prompt, and what each model answered; `rule` says why this prompt is shown."""

    rule: str
    prompt: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What it takes to do it again. `rows` are [what, where, hash], `budgets` [method, budget]."""

    rows: list[list[str]]
    prompts: int
    template: str
    versions: dict[str, str]
    hardware: str
    seeds: list[int] | None = None
    budgets: list[list[str]] | None = None
    seconds_in_all: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """Several models beside each other."""

    models: dict[str, ModelResult]
    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()
    reward_model: RewardModelResult | None = None
    refusal_judge: RefusalJudge | None = None
    title: str = ""
    made: str = ""
    command: str = ""
    reference: str = "the reference"
    samples: tuple[Sample, ...] = ()
    setup: Setup | None = None


def plain(found: Any) -> Any:
    """The same as mappings, lists and numbers."""
    if is_dataclass(found):
        held = [(entry, getattr(found, entry.name)) for entry in fields(found)]
        return {e.name: plain(v) for e, v in held if v is not e.default or (v is not None and v is not UNASKED)}
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    return [plain(value) for value in found] if isinstance(found, (list, tuple)) else found


def read(kind: Any, found: Any) -> Any:
    """What `plain` made of a value of this type (`read(EvaluationResults, json.loads(…))`) as it was."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        if found is None:
            return None
        kinds = [one for one in inner if one is not type(None)]
        fitting = (one for one in kinds if len(kinds) == 1 or set(found) <= {entry.name for entry in fields(one)})
        return read(next(fitting), found)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{key: read(hints[key], value) for key, value in found.items()})  # type: ignore[operator]
    if typing.get_origin(kind) is tuple:
        return tuple(read(inner[0], value) for value in found)
    if typing.get_origin(kind) is list:
        return [read(inner[0], value) for value in found]
    if typing.get_origin(kind) is dict:
        return {key: read(inner[1], value) for key, value in found.items()}
    return found
