"""What must not move while the policy learns is tried out before a run: a step that is undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from align.ppo import roles
from align.run import launch
from align.run.errors import RunError

STEP = 0.05  # beside weights of some 0.02: it moves a policy by nats, in any precision
TOKENS = 16  # of the first prompt


def try_a_step(trainer: Any) -> None:
    """Move all that is trained and look: the reference, and a reward adapter, must give what they gave before, the
    policy must not, and what samples must be what learns. Then everything is put back, to the bit.

    Raises:
        RunError: if one of them does not hold.
    """
    both = trainer.both
    kind = launch.kind(trainer.accelerator)
    if kind in ("FSDP2", "ZeRO-3"):
        if trainer.is_world_process_zero():
            print(f"no trial step: under {kind} no process holds whole weights that it could move", flush=True)
        return
    if not both.switch.layers:
        _own_memory(both, trainer.reference)
        return
    ids = trainer.train_rows[0]["input_ids"][:TOKENS]
    ids = ids if len(ids) > 1 else ids * 2
    batch = roles.Batch.of([ids[:1]], [ids[1:]], trainer.args.device, packed=both.packs)

    def still() -> dict[str, Tensor]:
        found = {"reference": trainer.model("reference", batch, 1.0)}
        return found | ({"reward model": trainer.model("score", batch)} if both.reward_head is not None else {})

    with torch.no_grad():
        before, again, policy = still(), still(), trainer.model("actions", batch, 1.0, False)[0]
        with _moved(both.policy):
            after, learns = still(), trainer.model("actions", batch, 1.0, False)[0]
            samples = trainer.model("sampled_logps", ids)
    moved = _apart(policy, learns)
    for name, was in before.items():
        noise = _apart(was, again[name])  # of kernels that are not deterministic
        if _apart(was, after[name]) > 4 * noise:
            raise RunError(
                f"the {name} moves with the policy: after a change of what is trained it says something else (by "
                f"{_apart(was, after[name]):.2g}); leave out what is given beside --use_peft (--lora_modules_to_save, "
                "--lora_target_parameters), or train without --use_peft"
            )
    if moved == 0:
        raise RunError("the policy does not move with what is trained: give other --lora_target_modules")
    apart = ((learns - samples).abs() / (1 + learns.abs())).max().item()
    if apart > (1e-3 if samples.device.type == "cpu" and not trainer.args.bf16 else 0.2):
        raise RunError(
            f"the policy that samples is not the one that learns: their log-probs differ by {apart:.1%} after a change "
            "of what is trained; leave out what is given beside --use_peft (--use_dora, --lora_modules_to_save)"
        )


def _own_memory(both: Any, reference: Any) -> None:
    """A reference that is a model of its own cannot move with the policy as long as they share no memory."""
    mine = {weight.data_ptr() for weight in both.parameters() if weight.numel()}
    others = [name for name, weight in reference.named_parameters() if weight.numel() and weight.data_ptr() in mine]
    assert not others, f"policy and reference share {len(others)} weights, the first: {others[0]}"


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors of one shape; infinite where they are not finite."""
    return (one - other).abs().nan_to_num(torch.inf).max().item()


@contextmanager
def _moved(policy: Any) -> Iterator[None]:
    """All that is trained, moved by a ramp (what moves all logits alike would not be seen) inside the block."""
    kept = [(weight, weight.detach().clone()) for weight in policy.parameters() if weight.requires_grad]
    try:
        for weight, _ in kept:
            weight.data.add_(torch.linspace(-STEP, STEP, weight.numel(), device=weight.device).view_as(weight))
        yield
    finally:
        for weight, was in kept:
            weight.data.copy_(was)
