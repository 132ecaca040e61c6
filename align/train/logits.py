"""Losses that read a model's head by themselves, and whether they see the logits that the model has.

Several families change their logits after the head's matrix (Granite, Cohere and Falcon-H1 scale them, Gemma caps
them). A loss that multiplies the last hidden states by that matrix must know of it, or another model is trained.
Told from the family's own code before any weights are loaded, so that it is the same under every kind of sharding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import Trainer
from transformers.modeling_outputs import MoeModelOutputWithPast
from trl import SFTTrainer

from align.run.errors import FOREIGN
from align.train import pieces

WORDS, TOKENS, LARGE = 8, 4, 20.0  # logits as large as this are seen by any cap


def fused() -> bool:
    """Do all of TRL's losses multiply by the head's matrix themselves, without logits? (From 1.15 on.)"""
    from trl.trainer import utils

    return hasattr(utils, "add_fused_lm_head")


class _OnCpu:
    """In the place of TRL's function for log-probabilities without logits: ours, where there is no Triton.

    TRL's tiles are for a GPU. On a CPU they hold 4,096 x 32,768 numbers several times over, also for the prompt's
    positions, and are multiplied in fp32 (TRL 1.16). ZeRO-3's shards, which TRL gathers in its backward, stay TRL's.
    """

    def __init__(self, theirs: Any):
        self.theirs = theirs

    def apply(
        self, hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float, chunk: int, *rest: Any
    ) -> Any:
        """As TRL calls it; `rest` is the cap of the logits, their scale and the outputs."""
        if hidden.device.type != "cpu" or hasattr(weight, "ds_id"):
            return self.theirs.apply(hidden, weight, bias, targets, temperature, chunk, *rest)
        return pieces.HeadLogps.apply(hidden, weight, bias, targets, temperature, *rest)


def lighten() -> None:
    """From here on TRL's losses without logits take a CPU's way, and look at positions with a label only."""
    from trl.trainer import utils

    if not fused() or isinstance(utils._ChunkedLogProbFunction, _OnCpu):
        return
    theirs, triton = utils._ChunkedLogProbFunction, utils._use_triton
    utils._ChunkedLogProbFunction = _OnCpu(theirs)
    utils._use_triton = lambda device: device.type == "cpu" or triton(device)


class Seen(NamedTuple):
    """Which computations of the logits give the model's own?"""

    plain: bool  # hidden states times the head's matrix
    in_pieces: bool  # TRL's losses that keep no logits


class _Hidden(MoeModelOutputWithPast):
    """What a trunk returns; whatever else a family's head asks for is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@torch.no_grad()
def seen(model: Any) -> Seen:
    """Run a family's own code from hidden states to logits, with a small matrix, and compare.

    Where that cannot be done, neither is taken for the model's own: the model's own loss always is.

    Args:
        model: its modules on the meta device; it is of no further use afterwards.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return Seen(False, False)
    random = torch.Generator().manual_seed(0)
    few = torch.nn.Linear(head.in_features, WORDS, bias=head.bias is not None, dtype=torch.float32)
    hidden = torch.randn(1, TOKENS, head.in_features, generator=random)
    for weight in few.parameters():
        weight.copy_(torch.randn(weight.shape, generator=random) * LARGE / head.in_features**0.5)
    ids = torch.arange(TOKENS)[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        _gathered(few)
        model.set_output_embeddings(few)
        for trunk in (model.base_model, model.get_decoder()):
            if trunk is not None and trunk is not model:
                trunk.forward = lambda *_, **__: _Hidden(last_hidden_state=hidden)
        own = model.eval()(**given).logits.float()
        loss = torch.nn.functional.cross_entropy(own[0, :-1], ids[0, 1:])
        theirs = _in_pieces(model)(**given, labels=ids).loss
    except FOREIGN:  # a trunk that is called in a way of its own
        return Seen(False, False)
    return Seen(torch.allclose(own, few(hidden), rtol=1e-3), torch.allclose(loss, theirs, rtol=1e-3))


def _gathered(head: torch.nn.Module) -> None:
    """Under ZeRO-3 TRL asks of the head's parameters whether they are gathered; these were never cut up."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        for weight in head.parameters():
            weight.ds_status = ZeroParamStatus.AVAILABLE


def _in_pieces(model: Any) -> Callable[..., Any]:
    """The model's forward pass with TRL's own loss in it."""
    if fused():
        from trl.trainer.utils import add_fused_lm_head

        lighten()
        add_fused_lm_head(model)
        return partial(model, fused_lm_head=True)
    from trl.trainer.sft_trainer import _patch_chunked_ce_lm_head

    _patch_chunked_ce_lm_head(model, chunk_size=WORDS)
    return model


class WholeLossTrainer(SFTTrainer):
    """`SFTTrainer` with the loss of the model's own forward pass: for a family that TRL's loss without logits does not
    know. All logits are kept, and TRL's token accuracy and entropy are left out, which would be another model's."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
