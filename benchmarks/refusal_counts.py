"""How often a refusal judge and people agree, and both kinds of its mistakes, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 4000
Judged = dict[str, np.ndarray]  # by model: [N], whether each answer refuses, by the prompt's number


def measure(judged: Judged, told: Judged) -> dict[str, dict[str, float]]:
    """Each model's share of answers on which judge and people agree, and the two kinds of mistakes, as counts."""
    found = {}
    for model, own in told.items():
        said = judged[model]
        found[model] = {
            "agreement": round(float((said == own).mean()), 4),
            "refusals": int(own.sum()), "missed": int((own & ~said).sum()),
            "compliances": int((~own).sum()), "mistaken": int((said & ~own).sum()),
        }  # fmt: skip
    return found


def with_intervals(judged: Judged, told: Judged, seed: int = 0) -> dict[str, Any]:
    """The same with 95 % intervals over prompts: agreement of each model, their mean, and both kinds of mistakes."""
    said, own = (np.stack([side[model] for model in told]) for side in (judged, told))  # [models, prompts]
    draws = np.random.default_rng(seed).integers(own.shape[1], size=(RESAMPLES, own.shape[1]))

    def estimate(value: Callable[[np.ndarray, np.ndarray], float], n: int) -> dict[str, float]:
        low, high = np.quantile([value(said[:, draw], own[:, draw]) for draw in draws], [0.025, 0.975])
        return {"value": round(value(said, own), 4), "low": round(low, 4), "high": round(high, 4), "n": n}

    found: dict[str, Any] = {
        "agreement": estimate(lambda s, o: float((s == o).mean()), own.size),
        "missed": estimate(lambda s, o: float((o & ~s).sum() / o.sum()), int(own.sum())),
        "mistaken": estimate(lambda s, o: float((s & ~o).sum() / (~o).sum()), int((~own).sum())),
    }
    counts = measure(judged, told)
    found["models"] = {
        model: {
            "agreement": estimate(lambda s, o, at=at: float((s[at] == o[at]).mean()), own.shape[1]),  # type: ignore[misc]
            "missed": [counts[model]["missed"], counts[model]["refusals"]],
            "mistaken": [counts[model]["mistaken"], counts[model]["compliances"]],
        }
        for at, model in enumerate(told)
    }
    return found
