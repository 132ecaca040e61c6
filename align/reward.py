"""Is a reward model any good? Held-out accuracy with its interval, mean and spread, and a length-only baseline."""

from __future__ import annotations

from typing import Any

import torch

from align.evaluate import stats
from align.generate import scores


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


def measure(model: Any, train: Any, test: Any, *, pad_id: int, batch_size: int) -> dict[str, Any]:
    """Score held-out pairs (`whole` rows) with `model`.

    Returns:
        `accuracy` (ties count half) with `accuracy_low`/`accuracy_high` (95 %), `length_only_accuracy`, `n` pairs,
        `reward_mean` and `reward_std` over both sides, in the model's own units; and where the rows have a `category`,
        `categories`: the accuracy in each as an estimate.
    """
    model.eval()
    chosen = scores(model, list(test["chosen_ids"]), pad_id=pad_id, batch_size=batch_size)
    rejected = scores(model, list(test["rejected_ids"]), pad_id=pad_id, batch_size=batch_size)
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    accuracy = stats.rate(right.sum().item(), len(right))
    assert accuracy is not None, "held-out pairs are never empty here"
    both = torch.cat([chosen, rejected])
    found = {
        "accuracy": accuracy["value"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "length_only_accuracy": length_baseline(train, test),
        "reward_mean": both.mean().item(),
        "reward_std": both.std().item(),
        "n": len(chosen),
    }
    if "category" in test.column_names:
        names = list(test["category"])
        mine = {name: right[[n == name for n in names]] for name in sorted(set(names))}
        found["categories"] = {name: stats.rate(values.sum().item(), len(values)) for name, values in mine.items()}
    return found
