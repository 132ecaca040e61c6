"""Whose turn it is on a shared backbone: the policy's adapter, another's, or nobody's (the reference)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Switch:
    """Turns adapters on and off in every layer that PEFT has put into a model.

    PEFT's own `set_adapter` and `disable_adapter` also turn gradients on and off, which an optimizer and a sharded
    model must not see.
    """

    def __init__(self, model: Any):
        self.model = model
        self.active: str | None = "default"
        self._of: tuple[str, ...] = ()  # the adapters that `_layers` was made for
        self._layers: list[Any] = []

    @property
    def layers(self) -> list[Any]:
        """Layers with adapters, and modules of which an adapter has a copy of its own (`modules_to_save`)."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        known = tuple(getattr(self.model, "peft_config", ()))
        if known != self._of:
            kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
            self._of, self._layers = known, [part for part in self.model.modules() if isinstance(part, kinds)]
        return self._layers

    def set(self, adapter: str | None) -> None:
        """Let the next passes run with this adapter, or with none."""
        self.active = adapter
        for layer in self.layers:
            # a copy that this adapter does not have: the module that was there before
            copies = getattr(layer, "modules_to_save", None)
            layer._active_adapter = [adapter or "default"]
            layer._disable_adapters = adapter is None or (copies is not None and adapter not in copies)

    @contextlib.contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Run the backbone with another adapter, or with none, inside the block."""
        if adapter == self.active:
            yield
            return
        before = self.active
        self.set(adapter)
        try:
            yield
        finally:
            self.set(before)

    def recomputing(self) -> tuple[Any, Any]:
        """For `torch.utils.checkpoint`'s `context_fn`: what is computed again in the backward pass runs through the
        adapter that the forward pass ran through, whoever's turn it is by then."""
        return contextlib.nullcontext(), self.using(self.active)
