"""A run as its memory sees it: numbers alone, no configuration and no model."""

from __future__ import annotations

from dataclasses import dataclass

from align.plan.shape import Layout


@dataclass(frozen=True)
class Reader:
    """A model beside the one that learns, which only reads."""

    role: str
    shape: Layout
    held: float  # bytes of a weight
    shared: bool = False  # an adapter on the backbone of the model that learns


@dataclass(frozen=True)
class Sampling:
    """Completions that are sampled at once."""

    prompts: int
    copies: int  # of each
    prompt: int  # tokens of the longest
    answer: int  # tokens at most

    @property
    def rows(self) -> int:
        """Completions that are written at once."""
        return self.prompts * self.copies

    @property
    def room(self) -> int:
        """Tokens of the longest prompt with the longest completion."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Job:
    """All that the formulas read."""

    stage: str  # sft, reward, dpo, ppo, sample, eval
    shape: Layout  # of the model that learns, or speaks
    trained: int = 0  # numbers that an optimizer moves
    ranks: float = 0.0  # of LoRA, summed over a layer's matrices; 0: all weights are trained
    held: float = 4.0  # bytes of a weight that is not trained, or of every one
    autocast: bool = False  # products in bf16 although the weights are fp32
    again: bool = False  # layers are computed again in the backward pass (gradient checkpointing)
    gpu: bool = False
    processes: int = 1
    sharding: str = "single"  # ddp, zero1, zero2, zero3, fsdp2
    offload: bool = False  # optimizer and weights wait in the CPU's memory (ZeRO-3)
    file: float = 4.0  # bytes of a weight in the checkpoint's files
    optimizer: float = 8.0  # bytes for each trained number
    beside: tuple[Reader, ...] = ()
    rows: int = 0  # of a micro-batch; of a pair both
    tokens: int = 0  # of the largest micro-batch
    longest: int = 0  # tokens of its longest row
    learnt: int = 0  # tokens of it that a loss is taken of
    pieces: int = 1  # micro-batches of a step
    eval_rows: int = 0  # at once; 0 where nothing is held out
    eval_longest: int = 0
    asked: Sampling | None = None  # what is sampled
    critic: str = ""  # PPO's: head, adapter, full
    scored: int = 0  # rows that a reward model reads at once
    temperature: float = 1.0

    @property
    def learns(self) -> bool:
        """Is something trained?"""
        return self.trained > 0

    @property
    def whole(self) -> bool:
        """Is every weight trained?"""
        return self.learns and not self.ranks

    @property
    def fused(self) -> bool:
        """Do its layers run fused?"""
        together = self.sharding in ("single", "ddp")
        return self.shape.fusable and not self.gpu and together and not self.autocast

    @property
    def element(self) -> int:
        """Bytes of a hidden state's number, where not mixed."""
        return 2 if self.held <= 2 else 4
