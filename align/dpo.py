"""TRL's DPO trainer on our own token ids, with the check that it starts where it must."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from align.record import RunError


class PairTrainer(DPOTrainer):
    """`DPOTrainer` that takes rows tokenised by `align.data` and checks its first batch.

    TRL 1.12 always tokenises by itself, prompt and completion apart from our masks; the override keeps one tokenisation
    for SFT, reward model, DPO and PPO. It can go when DPOTrainer accepts `prompt_ids`/`chosen_ids`/`rejected_ids`.
    """

    _checked = False

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self._checked and self.model.training:
            self._checked = True
            if self.state.global_step == 0:
                margin = self._metrics["train"]["rewards/margins"][-1]
                check_first_margin(margin)
        return result


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
