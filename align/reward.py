"""Is a reward model any good? Held-out accuracy with its interval, mean and spread, and a length-only baseline."""

from __future__ import annotations

from typing import Any

import torch

from align import stats
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
    prompts = (
        [tuple(ids) for ids in test["prompt_ids"]] if "prompt_ids" in test.column_names else list(range(len(right)))
    )
    accuracy = by_prompt(right, prompts)
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
        for name in sorted(set(names)):
            mine = [i for i, n in enumerate(names) if n == name]
            found.setdefault("categories", {})[name] = by_prompt(right[mine], [prompts[i] for i in mine])
    return found


def by_prompt(right: torch.Tensor, prompts: list) -> stats.Estimate:
    """Accuracy over pairs, with an interval that knows that the pairs of one ranking are not independent.

    Wilson's where every prompt has one pair; else a bootstrap over prompts, and no narrower than Wilson's for as many
    pairs as there are prompts where all are right or wrong alike. `n` counts pairs, `prompts` prompts.
    """
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    where = torch.tensor([order[prompt] for prompt in prompts])
    sums = torch.zeros(len(order)).index_add_(0, where, right.float())
    counts = torch.bincount(where, minlength=len(order))
    share = float(right.float().mean())
    low, high = stats.wilson(share * len(order), len(order))
    if len(order) < len(right) and 0 < share < 1:
        found = stats.ratio(sums.numpy(), counts.numpy())
        assert found is not None
        low, high = found["low"], found["high"]
    return stats.estimate(share, low, high, len(right)) | {"prompts": len(order)}
