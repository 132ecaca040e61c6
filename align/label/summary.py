"""What `agreement.summary` finds, as dataclasses; `as_dict` gives each as JSON files hold it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from align.stats import Estimate


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha on pairs of completions; None where no pair has two opinions that could differ."""

    nominal: float | None
    ordinal: float | None  # worse < tie < better


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree over the items that they share."""

    items: int
    tau_b: Estimate | None  # the mean over items of the mean over pairs of annotators
    raw: Estimate | None  # the share of pairs of completions on which two say the same (better, worse, tie), likewise
    alpha: Alpha | None = None  # of groups; one annotator against the others has none

    def as_dict(self) -> dict[str, Any]:
        """`items`, `tau_b`, `raw`, and of a group `alpha` and `alpha_ordinal`."""
        found = {"items": self.items, "tau_b": _json(self.tau_b), "raw": _json(self.raw)}
        return found | ({"alpha": self.alpha.nominal, "alpha_ordinal": self.alpha.ordinal} if self.alpha else {})


@dataclass(frozen=True)
class PositionBias:
    """How often the completion that was shown first is ranked best, and how often by a ranking without regard to it."""

    rate: Estimate
    expected: float

    def as_dict(self) -> dict[str, Any]:
        """The rate's own keys, and `expected`."""
        return {**self.rate.as_dict(), "expected": self.expected}


@dataclass(frozen=True)
class LengthBias:
    """How often the longer of two completions is preferred, over so many `pairs`."""

    rate: Estimate
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """The rate's own keys, and `pairs`."""
        return {**self.rate.as_dict(), "pairs": self.pairs}


@dataclass(frozen=True)
class Pace:
    """Seconds a ranking (the median), rankings an hour at that pace, and how many were timed."""

    seconds: float
    per_hour: float
    timed: int

    def as_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True)
class OneAnnotator:
    """What one annotator did, and how far they agree with the others and with themselves."""

    name: str
    kind: str
    rankings: int
    skipped: int
    all_bad: int
    repeats: int
    others: Agreement
    themselves: Agreement  # the repeated rankings with the first ones
    position: PositionBias | None  # None for who never sees the order shown
    length: LengthBias | None
    pace: Pace | None

    def as_dict(self) -> dict[str, Any]:
        """Its fields; agreement with themselves is `self`."""
        return {
            "name": self.name, "kind": self.kind, "rankings": self.rankings, "skipped": self.skipped,
            "all_bad": self.all_bad, "repeats": self.repeats, "others": self.others.as_dict(),
            "self": self.themselves.as_dict(), "position": _json(self.position), "length": _json(self.length),
            "pace": _json(self.pace),
        }  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """One set of rankings, measured: for the terminal, the manager's page and the data set's card."""

    rankings: int
    items: int
    shared: int  # items with two annotators or more
    verdicts: dict[str, int]  # rows by `ranked`, `all_bad` and `skip`
    people: Agreement
    everybody: Agreement
    models: dict[str, Agreement]  # each annotator that is no person against the people, on items that both ranked
    position: PositionBias | None  # of people
    length: LengthBias | None  # of people or, without any, of everybody
    pace: Pace | None  # likewise
    annotators: list[OneAnnotator]

    def kind(self, name: str) -> str:
        """What sort of annotator that is."""
        return next(one.kind for one in self.annotators if one.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Its fields, a model's with its kind."""
        return {
            "rankings": self.rankings, "items": self.items, "shared": self.shared, "verdicts": self.verdicts,
            "people": self.people.as_dict(), "everybody": self.everybody.as_dict(),
            "models": {name: {"kind": self.kind(name), **one.as_dict()} for name, one in self.models.items()},
            "position": _json(self.position), "length": _json(self.length), "pace": _json(self.pace),
            "annotators": [one.as_dict() for one in self.annotators],
        }  # fmt: skip


def _json(part: Estimate | PositionBias | LengthBias | Pace | None) -> dict[str, Any] | None:
    return None if part is None else part.as_dict()
