"""How good the rules are, measured against what reviewers have decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from align import stats
from align.clean.config import COPIES

ALL = "all rules"


class Decided(Protocol):
    """What `quality` asks of decisions: `Decisions`, or anything that answers."""

    def of(self, document: str) -> str | None:
        """`keep`, `drop` or None."""
        ...


def quality(rows: Iterable[Mapping[str, Any]], decisions: Decided) -> list[dict[str, Any]]:
    """Precision and recall of each rule against the reviewers, and of all rules together (the last entry).

    A rule is a step (`quality`); where a step has several reasons, each has an entry of its own behind the step's
    (`quality: gopher_too_many_hashes`).

    A rule flags what it drops and what it is unsure of. Precision: of what it flagged, the share that reviewers
    dropped. Recall: of what reviewers dropped, the share that it flagged; None until documents that every rule keeps
    have been reviewed too, for without them nothing that was missed could be seen. Each document counts 1/probability
    of being sampled; intervals are Wilson's with Kish's effective number, (sum w)^2 / sum w^2. Rules come one after
    another, so what an earlier one took counts against the recall of a later one, which never saw it. Near-duplicates
    have a precision only (a copy that was missed shows in no document), and other rules need not have found them.

    Args:
        rows: the queue: `id`, `rule`, `reason`, `verdict` (keep, drop, review) and `weight` of each.

    Returns:
        `{"rule", "flagged", "reviewed", "precision", "recall"}` each; the last two as in `align.stats`, or None.
    """
    documents: dict[str, dict[str, Any]] = {}
    reasons: dict[str, set[str]] = {}
    for row in rows:
        held = documents.setdefault(row["id"], {"rules": set(), "weight": float("inf")})
        held["weight"] = min(held["weight"], float(row.get("weight") or 1))
        if row.get("verdict") != "keep":
            rule = str(row.get("rule") or "")
            reason = f"{rule}: {row.get('reason')}"
            held["rules"] |= {rule, reason, ALL}
            reasons.setdefault(rule, set()).add(reason)
    known = [(held, decisions.of(document)) for document, held in documents.items()]
    reviewed = [(held["rules"], held["weight"], said == "drop") for held, said in known if said is not None]
    dropped = [(rules, weight) for rules, weight, bad in reviewed if bad and COPIES not in rules]
    misses_seen = any(not rules for rules, _, _ in reviewed)
    found = []
    for rule in [*(n for r, of in sorted(reasons.items()) for n in (r, *(sorted(of) if len(of) > 1 else ()))), ALL]:
        mine = [(weight, bad) for rules, weight, bad in reviewed if rule in rules]
        single = rule.split(": ")[0] != COPIES
        found.append(
            {
                "rule": rule,
                "flagged": sum(rule in held["rules"] for held, _ in known),
                "reviewed": len(mine),
                "precision": _share(mine),
                "recall": _share([(w, rule in rules) for rules, w in dropped]) if misses_seen and single else None,
            }
        )
    return found


def _share(items: list[tuple[float, bool]]) -> dict[str, Any] | None:
    """A weighted share with Wilson's interval at the effective number of items; None of nothing."""
    if not items:
        return None
    total = sum(weight for weight, _ in items)
    share = sum(weight for weight, yes in items if yes) / total
    effective = total**2 / sum(weight**2 for weight, _ in items)
    low, high = stats.wilson(share * effective, effective)  # type: ignore[arg-type]
    return stats.Estimate(share, low, high, len(items)).as_dict()
