"""Reward models: TRL's trainer with weighted pairs that reads every distinct completion once, and how good they are.

B pairs in a micro-batch, U distinct sequences among their 2B, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import RewardTrainer
from trl.trainer.utils import pad

from align import stats
from align.data import arrow
from align.models.heads import scores
from align.train import pair_batches


def pair_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, weight: torch.Tensor, margin: Any = 0.0, center: float | None = None
) -> torch.Tensor:
    """Weighted Bradley-Terry loss with centering, a scalar in nats; all arguments [B].

    mean_i w_i (-log sigmoid(r_i+ - r_i- - m_i) + c (r_i+ + r_i-)^2): Ouyang et al. 2022, eq. 1, where w_i is in
    proportion to 1/(K choose 2); the margin as in Touvron et al. 2023, eq. 2; the centering term is Eisenstein et al.
    2023, eq. 2, an expectation over the same pairs and so under the same weights. Divided by B and not by the sum of
    the weights: their mean over the data is 1, and so gradients add up over micro-batches and processes.
    """
    losses = -logsigmoid(chosen - rejected - margin)
    if center is not None:
        losses = losses + center * (chosen + rejected) ** 2
    return (weight * losses).mean()


@dataclass
class DistinctCollator:
    """Pairs to a batch in which every distinct sequence is one row.

    `input_ids` and `attention_mask` [U, T]; `chosen` and `rejected` [B], each pair's rows in them; `margin` [B] where
    the rows have one.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        sides = [tuple(row["chosen_ids"]) for row in examples] + [tuple(row["rejected_ids"]) for row in examples]
        places: dict[tuple[int, ...], int] = {}
        index = torch.tensor([places.setdefault(side, len(places)) for side in sides])
        rows = [torch.tensor(side) for side in places]
        options = {"padding_side": "right", "pad_to_multiple_of": self.pad_to_multiple_of}
        batch = {
            "input_ids": pad(rows, padding_value=self.pad_token_id, **options),
            "attention_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, **options),
            "chosen": index[: len(examples)],
            "rejected": index[len(examples) :],
        }
        if "margin" in examples[0]:
            batch["margin"] = torch.tensor([row["margin"] for row in examples], dtype=torch.float)
        return batch


class ScoreTrainer(RewardTrainer):
    """`RewardTrainer` whose pairs have weights, stay with their prompt, and share one reading of each completion.

    With K completions of a prompt ranked, each is in K-1 pairs: TRL 1.12 reads it K-1 times, and shuffles the pairs, so
    that an epoch is K-1 epochs over every completion. Ouyang et al. 2022, section 3.5, train on all pairs of a prompt
    together for this reason. With weight 1 everywhere the loss is TRL's.
    """

    def __init__(self, *args: Any, pairs_together: bool = True, **kwargs: Any):
        self.pairs_together = pairs_together
        super().__init__(*args, **kwargs)
        collator = DistinctCollator(self.processing_class.pad_token_id, self.args.pad_to_multiple_of)
        self.data_collator = pair_batches.WeightedCollator(collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns.append("weight")

    def _get_train_sampler(self, *args: Any) -> Any:
        return pair_batches.sampler(self, self.pairs_together) or super()._get_train_sampler(*args)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = model(**read, use_cache=False)
        rewards = outputs.logits.squeeze(-1)
        chosen, rejected = rewards[inputs["chosen"]], rewards[inputs["rejected"]]
        loss = pair_loss(
            chosen, rejected, inputs["weight"], inputs.get("margin", 0.0), self.args.center_rewards_coefficient
        )
        self._note(inputs["attention_mask"], chosen.detach(), rejected.detach())
        return (loss, outputs) if return_outputs else loss

    def _note(self, seen: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """TRL's metrics of one batch; the tokens are those that were read."""
        mode = "train" if self.model.training else "eval"
        found = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += self.accelerator.gather_for_metrics(seen.sum()).sum().item()
        found["num_tokens"] = [self._total_train_tokens]
        both = self.accelerator.gather(torch.cat([chosen, rejected]))
        found["min_reward"].append(both.min().item())
        found["mean_reward"].append(both.mean().item())
        found["max_reward"].append(both.max().item())
        right = (chosen > rejected).float().mean()
        found["accuracy"].append(self.accelerator.gather_for_metrics(right).mean().item())
        margin = (chosen - rejected).mean()
        found["margin"].append(self.accelerator.gather_for_metrics(margin).mean().item())


def length_baseline(train: Any, test: Any) -> float:
    """Accuracy on `test` of choosing by length alone, in the direction that `train` says; ties count half."""

    def longer_wins(rows: Any) -> float:
        gaps = arrow.lengths(rows, "chosen_ids") - arrow.lengths(rows, "rejected_ids")
        return float((gaps > 0).sum() + 0.5 * (gaps == 0).sum()) / max(len(gaps), 1)

    return longer_wins(test) if longer_wins(train) >= 0.5 else 1 - longer_wins(test)


def whole(rows: Any) -> Any:
    """Preference rows with the prompt in front of each side: what `RewardTrainer` reads."""
    return rows.map(
        lambda some: {
            name: [before + after for before, after in zip(some["prompt_ids"], some[name], strict=True)]
            for name in ("chosen_ids", "rejected_ids")
        },
        batched=True, batch_size=256, writer_batch_size=256,
    )  # fmt: skip


def held_out(trainer: Any, train: Any, test: Any) -> dict[str, Any]:
    """`measure` with a trainer's own model and batch; nothing where there are no held-out pairs."""
    if test is None:
        return {}
    pad_id, size = trainer.processing_class.pad_token_id, trainer.args.per_device_eval_batch_size
    return measure(trainer.model, train, test, pad_id=pad_id, batch_size=size)


def measure(model: Any, train: Any, test: Any, *, pad_id: int, batch_size: int) -> dict[str, Any]:
    """Score held-out pairs (`whole` rows) with `model`.

    Returns:
        `accuracy` (ties count half) with `accuracy_low`/`accuracy_high` (95 %), `length_only_accuracy`, `n` pairs
        (`prompts` where they are of fewer),
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
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "length_only_accuracy": length_baseline(train, test),
        "reward_mean": both.mean().item(),
        "reward_std": both.std().item(),
        "n": len(chosen),
        "prompts": accuracy.prompts,
    }
    if "category" in test.column_names:
        names = list(test["category"])
        for name in sorted({name for name in names if name is not None}):  # some rows may have none
            mine = [i for i, n in enumerate(names) if n == name]
            own = by_prompt(right[mine], [prompts[i] for i in mine])
            found.setdefault("categories", {})[name] = own.as_dict()
    return found


def by_prompt(right: torch.Tensor, prompts: list) -> stats.Estimate:
    """Accuracy over pairs, with an interval that knows that the pairs of one ranking are not independent.

    `right` is [pairs], 1 where the model is right and 1/2 for a tie.

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
        assert found.low is not None and found.high is not None
        low, high = found.low, found.high
    return stats.Estimate(share, low, high, len(right), len(order))
