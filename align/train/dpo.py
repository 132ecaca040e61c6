"""TRL's DPO trainer on our own token ids with weighted pairs, and the check that it starts where it must.

B pairs in a micro-batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from trl import DPOTrainer

from align.data import arrow
from align.run.errors import ConfigError, RunError
from align.train import logits, pair_batches

MIXED = ("aot", "aot_unpaired")  # losses that sort the batch: no term belongs to one pair


class PairTrainer(DPOTrainer):
    """`DPOTrainer` that takes rows tokenised by `align.data.prepare` and checks its first batch.

    TRL always tokenises by itself, prompt and completion apart from our masks; the override keeps one tokenisation
    for SFT, reward model, DPO and PPO. It can go when DPOTrainer accepts `prompt_ids`/`chosen_ids`/`rejected_ids`.

    A pair's weight multiplies its gradient. TRL takes the plain mean inside 250 lines for fifteen losses, so the weight
    goes in where all of them begin: the gradient of each pair's two rows of log-probabilities is scaled by it, which
    makes the step that of mean_i w_i loss_i, whichever loss it is. The loss that is printed counts every pair once
    (ln 2 at the start).
    """

    _checked = False

    def __init__(self, *args: Any, pairs_together: bool = True, **kwargs: Any):
        self.pairs_together = pairs_together
        super().__init__(*args, **kwargs)
        self.data_collator: Any = pair_batches.WeightedCollator(self.data_collator)
        self._check_weights()

    def _check_weights(self) -> None:
        """Raise ConfigError where weights were given and the loss cannot take them; say that it takes no margins."""
        rows = self.train_dataset
        if "margin" in (rows.column_names or []):
            self.accelerator.print("not read: margin, which DPO's loss has no place for (the reward model's has)")
        if "weight" not in (rows.column_names or []) or arrow.values(rows, "weight").unique().to_pylist() == [1.0]:
            return
        loss = next((name for name in self.loss_types if name in MIXED), None)
        if loss or (self.args.use_liger_kernel and not logits.fused()):
            what = f"loss_type={loss} sorts the pairs of a batch" if loss else "use_liger_kernel keeps no logits"
            raise ConfigError(f"{what}, so pairs cannot have weights: --pair_weights pair --ties drop")

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns.append("weight")

    def _get_train_sampler(self, *args: Any) -> Any:
        return pair_batches.sampler(self, self.pairs_together) or super()._get_train_sampler(*args)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        with scaled_gradients(model, inputs.pop("weight")):
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self._checked and self.model.training:
            self._checked = True
            if self.state.global_step == 0:
                margin = self._metrics["train"]["rewards/margins"][-1]
                check_first_margin(margin)
        return result

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """The parent's, without the weights, which it would pass on to the model."""
        return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k != "weight"})


@contextlib.contextmanager
def scaled_gradients(model: Any, weight: torch.Tensor) -> Iterator[None]:
    """Inside the block, what `model` returns passes on gradients times `weight` [B], chosen first: log-probs [2B, T-1],
    or before TRL 1.15 the logits [2B, T, V] that they are made of, which comes to the same.

    Nothing is done where all weights are 1, so that a run without weights costs and computes what TRL's does.
    """
    if bool((weight == 1).all()):
        yield
        return

    def scale(_module: Any, _inputs: Any, outputs: Any) -> None:
        given = outputs.get("log_probs")
        given = outputs.logits if given is None else given
        if given.requires_grad:  # not where the same module serves as the reference
            both = torch.cat([weight, weight]).view(-1, *[1] * (given.ndim - 1))
            given.register_hook(lambda gradient: gradient * both.to(gradient))

    handle = model.register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()


def check_first_margin(margin: float) -> None:
    """At step 0 policy and reference are the same model: margin 0, and so a sigmoid loss of ln 2.

    Raises:
        RunError: if they are not. (A reference that is the raw base, or an adapter applied twice, shows up here.)
    """
    if abs(margin) > 1e-2:
        raise RunError(
            f"policy and reference differ before the first step (reward margin {margin:.4f} instead of 0): the "
            "reference is not the model that the policy starts from"
        )
