"""Is a reward model any good? Held-out accuracy with its interval, mean and spread, and a length-only baseline."""

from __future__ import annotations

import math
from typing import Any

import torch

from align.generate import scores


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927): `right` successes out of `n`, 95 % for z = 1.96."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def length_baseline(train: Any, test: Any) -> float:
    """Accuracy on `test` of choosing by length alone, in the direction that `train` says; ties count half."""

    def longer_wins(rows: Any) -> float:
        gaps = [len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in rows]
        return sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps) / max(len(gaps), 1)

    return longer_wins(test) if longer_wins(train) >= 0.5 else 1 - longer_wins(test)


def whole(rows: Any) -> Any:
    """Preference rows with the prompt in front of each side: what `RewardTrainer` reads."""
    return rows.map(
        lambda row: {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
        },
        remove_columns=["prompt_ids"],
    )


def measure(model: Any, train: Any, test: Any, *, pad_id: int, batch_size: int) -> dict[str, float]:
    """Score held-out pairs (`whole` rows) with `model`.

    Returns:
        `accuracy` (ties count half) with `accuracy_low`/`accuracy_high` (95 %), `length_only_accuracy`, `n` pairs,
        `reward_mean` and `reward_std` over both sides, in the model's own units.
    """
    model.eval()
    chosen = scores(model, list(test["chosen_ids"]), pad_id=pad_id, batch_size=batch_size)
    rejected = scores(model, list(test["rejected_ids"]), pad_id=pad_id, batch_size=batch_size)
    right = (chosen > rejected).sum().item() + 0.5 * (chosen == rejected).sum().item()
    low, high = wilson(right, len(chosen))
    both = torch.cat([chosen, rejected])
    return {
        "accuracy": right / len(chosen),
        "accuracy_low": low,
        "accuracy_high": high,
        "length_only_accuracy": length_baseline(train, test),
        "reward_mean": both.mean().item(),
        "reward_std": both.std().item(),
        "n": len(chosen),
    }
