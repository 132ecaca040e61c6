"""Padded batches through a model's trunk without their padding.

Trainers pad rows to the longest of a batch, and of a pair to the longer side. Here the trunk reads the real tokens
alone, in one row (`align.models.packing`), and gives back hidden states laid out as the batch was; on padding they are
zero, where no loss looks. B sequences, T tokens of a padded row, N real tokens, H width of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.models import heads, packing
from align.models.packing import Packing

PLAIN = {"return_dict", "use_cache", "num_items_in_batch"}  # arguments of a trunk that change nothing here
BOTH_WAYS = ("is_causal", "use_bidirectional_attention")  # settings of a decoder that may see what comes later


def use(model: Any) -> bool:
    """Let a causal model on a CPU, bare or with PEFT's adapters and whole in this process, read batches unpadded.

    Only those that are padded on the right, and where nothing but the last hidden states is asked for; any other runs
    as before.

    Returns:
        whether it does: a model that `packing` does not fit, or an encoder, stays as it is.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if next(bare.parameters()).device.type != "cpu" or heads.encodes(bare) or not packing.use(bare, 1):
        return False
    trunk, config = bare.base_model, bare.config.get_text_config()
    sees_both = [getattr(config, name, None) for name in BOTH_WAYS]
    if trunk is bare or trunk.config._attn_implementation != packing.NAME or sees_both[0] is False or sees_both[1]:
        return False
    if not isinstance(getattr(vars(trunk).get("forward"), "__self__", None), Trunk):
        trunk.forward = Trunk(trunk).forward
    return True


class Trunk:
    """A trunk and its forward pass."""

    def __init__(self, trunk: Any):
        self.trunk, self.own = trunk, trunk.forward

    def forward(self, *args: Any, **given: Any) -> Any:
        """As the trunk's own: ids and mask [B, T] to `last_hidden_state` [B, T, H]."""
        named = dict(zip(("input_ids",), args, strict=False)) | given
        input_ids, mask = named.pop("input_ids", None), named.pop("attention_mask", None)
        widths = self._widths(input_ids, mask, named) if len(args) < 2 else None
        if widths is None:
            return self.own(*args, **given)
        packed, (rows, width) = Packing(widths, input_ids.device), input_ids.shape
        places = packed.rows * width + packed.positions
        out = self.own(input_ids=input_ids.flatten()[places][None], **packed.arguments(packing.NAME))
        hidden = out.last_hidden_state[0]
        if len(hidden) < rows * width:
            hidden = hidden.new_zeros(rows * width, hidden.shape[1]).index_copy(0, places, hidden)
        out.last_hidden_state = hidden.view(rows, width, -1)
        return out

    def _widths(self, ids: Any, mask: Any, given: dict[str, Any]) -> list[int] | None:
        """Real tokens of each row; None where the batch is another's business."""
        config = self.trunk.config.get_text_config()
        more = any(value is not None for name, value in given.items() if name not in PLAIN)
        asked = config.output_hidden_states or config.output_attentions or given.get("return_dict") is False
        if more or asked or given.get("use_cache") is not False:
            return None
        if not isinstance(mask, Tensor) or ids is None or mask.shape != ids.shape:
            return None
        seen = mask.bool()
        widths = seen.sum(1)
        right = seen == (torch.arange(mask.shape[1], device=mask.device) < widths[:, None])
        if not right.all() or not widths.all() or not packing.windowless(config, mask.shape[1]):
            return None
        return widths.tolist()
