"""What a comparison found, as it travels from the measured arms to verdict, tables, figures and `results.json`.

`align.evaluate.results` has what it shares with an evaluation, and `plain` and `read` for JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from align.evaluate.results import Gate, Sample, Sampled, Setup
from align.stats import Estimate, Fit


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run: a seed of a setting. `kl` is in nats a completion, `win_rate` against the reference."""

    seed: int
    status: str = "complete"
    path: str
    reward: float | None = None
    gold: float | None = None
    second: float | None = None
    kl: float
    length: float
    stops: float
    repetition: float
    entropy: float
    kl_per_token: float
    distinct_1: float | None = None
    distinct_2: float | None = None
    rates: dict[str, float]
    win_rate: float | None
    seconds: float
    tokens: int
    peak_memory_bytes: int

    def score(self, key: str) -> float | None:
        """`reward`, `gold` or `second`."""
        return getattr(self, key, None)


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A run that did not finish."""

    seed: int
    status: str = "failed"
    error: str


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """One method at one strength: its runs, and means over seeds and prompts where any run finished."""

    method: str
    knob: str
    strength: float
    label: str
    runs: tuple[RunResult | FailedRun, ...]
    reward: Estimate | None = None
    gold: Estimate | None = None
    second: Estimate | None = None
    kl: Estimate | None = None
    length: Estimate | None = None
    stops: Estimate | None = None
    repetition: Estimate | None = None
    entropy: Estimate | None = None
    distinct_2: Estimate | None = None
    win_rate: dict[str, Estimate | None] | None = None  # against the reference, by judge

    def score(self, key: str) -> Estimate | None:
        """`reward`, `gold` or `second`."""
        return getattr(self, key, None)

    @property
    def finished(self) -> list[RunResult]:
        """The runs that have numbers."""
        return [run for run in self.runs if isinstance(run, RunResult)]


@dataclass(frozen=True)
class BestOfN:
    """The best of `n` completions of the reference by the reward model, at its analytic KL."""

    n: int
    kl: float
    reward: Estimate | None = None
    gold: Estimate | None = None
    second: Estimate | None = None

    def score(self, key: str) -> Estimate | None:
        """`reward`, `gold` or `second`."""
        return getattr(self, key, None)


@dataclass(frozen=True)
class HeadToHead:
    """Setting `a` against setting `b`, over `seeds` seeds: a's win rate by the judge, and who won (None: nobody)."""

    a: str
    b: str
    kl_a: float
    kl_b: float
    judge: str
    win_rate: Estimate | None
    seeds: int
    length_controlled: Estimate | None
    prompts_needed: int | None
    verdict: str
    won: str | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run of a method took, from the cheapest run to the dearest; the gain is of its best setting."""

    method: str
    runs: int
    seconds: Estimate
    tokens: Estimate
    peak_memory_bytes: Estimate
    dollars: Estimate | None = None
    gain_per_minute: float


@dataclass(frozen=True)
class Verdict:
    """The comparison's answer in words."""

    headline: str
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ComparisonResults:
    """Methods at several strengths and seeds, against one another and the model that they began from."""

    title: str
    made: str = ""
    reference: Sampled | None = None
    settings: tuple[SettingResult, ...] = ()
    best_of_n: tuple[BestOfN, ...] = ()
    fits: dict[str, dict[str, Fit]] | None = None  # by method, then `reward` or `gold`
    failed: tuple[str, ...] = ()
    verdict: Verdict
    pairs: tuple[HeadToHead, ...] = ()
    notes: tuple[str, ...] = ()
    cost: tuple[Cost, ...] = ()
    samples: tuple[Sample, ...] = ()
    units: dict[str, str] | None = None
    gates: tuple[Gate, ...] = ()
    command: str = ""
    setup: Setup | None = None

    @property
    def reference_name(self) -> str:
        """What the reference is called."""
        return (self.reference and self.reference.name) or "the reference"
