"""Both at once, for models that are trained by TRL's trainers or only read."""

from __future__ import annotations

from typing import Any

from align.models.fast import layers, unpadding


def quicken(*models: Any) -> None:
    """Let models on a CPU, each whole in this process, run fused layers on unpadded batches, as far as they fit.

    Args:
        models: bare or with PEFT's adapters; None for one that is not there.
    """
    for model in filter(None, models):
        unpadding.use(model)
        layers.use(model)
