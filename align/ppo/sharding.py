"""Several processes: sums over all; under ZeRO-3 and FSDP2 whole weights for a rollout, and frozen models in shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation


@contextlib.contextmanager
def whole_weights(trainer: Any) -> Iterator[None]:
    """Gather the weights once for a whole rollout instead of once for every token."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    if trainer.accelerator.is_fsdp2:
        shards = [part for part in trainer.model.modules() if hasattr(part, "set_reshard_after_forward")]
        for part in shards:
            part.set_reshard_after_forward(False, recurse=False)
        yield
        for part in shards:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
    elif plugin is not None and plugin.zero_stage == 3:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator):
            yield
    else:
        yield


def place_frozen(part: Any, accelerator: Any, device: str | None = None) -> Any:
    """A frozen model where it belongs: sharded under ZeRO-3 and FSDP2, whole on the device (or the one named)."""
    if part is None:
        return None
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return prepare_deepspeed(part, accelerator)
    if accelerator.is_fsdp2:
        return prepare_fsdp(part, accelerator)
    return part.to(device or accelerator.device)


class Everyone:
    """What all processes have together; with one process, what it has."""

    def __init__(self, accelerator: Any):
        self.accelerator, self.several = accelerator, accelerator.num_processes > 1

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes, of `x`'s shape."""
        return self.accelerator.reduce(x, "sum") if self.several else x

    def mean(self, values: list) -> float:
        """The mean of all processes' numbers."""
        sums = torch.tensor([sum(values), len(values)], dtype=torch.float64, device=self.accelerator.device)
        sums = self.total(sums)
        return (sums[0] / sums[1]).item()

    def gather(self, values: list) -> list:
        """All processes' values, one process after the other."""
        from accelerate.utils import gather_object

        return gather_object(values) if self.several else values
