"""What is in memory when: each phase of a run as lines of role, kind and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from align.models.fast.layers import JOINT_BYTES
from align.models.generate import DISTRIBUTIONS_AT_ONCE
from align.plan import machines
from align.plan.memory import activations, states
from align.plan.memory.job import Job, Reader, Sampling
from align.train.pieces import LOGITS_AT_ONCE

FLOAT = 4
BLOCKS = 4  # tensors of a block's size that `align.train.pieces` has at once
PROGRAM = "the program itself"
ALLOCATOR = "the allocator"


@dataclass(frozen=True)
class Amount:
    """Something that takes memory."""

    role: str  # policy, reference, critic, reward model, or what is no model's
    kind: str
    size: float  # bytes


@dataclass
class Phase:
    """A part of a run, and what is there in it."""

    name: str
    lines: list[Amount] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(line.size for line in self.lines)

    def add(self, role: str, kind: str, size: float) -> None:
        """One more line, where it is anything."""
        if size > 0:
            self.lines.append(Amount(role, kind, size))


def of(job: Job) -> list[Phase]:
    """The phases of a run in their order."""
    if job.stage == "sample":
        found = [_loading(job), *_sampling(job)]
    elif job.stage == "eval":
        found = [_loading(job), *_sampling(job), *_scoring(job), _distances(job)]
    elif job.stage == "ppo":
        found = [_loading(job), *_sampling(job), *_scoring(job), _compared(job), *_training(job)]
    else:
        found = [_loading(job), *_before(job), *_training(job), *_evaluating(job), *_sampling(job)]
    found = found if job.gpu else [_reading(job), *found]
    return found if job.gpu else [*found, *_saved(job, found)]


def peak(phases: list[Phase]) -> Phase:
    """The one that needs the most."""
    return max(phases, key=lambda phase: phase.total)


def speaker(job: Job) -> str:
    """What the model that learns or speaks is called."""
    return {"reward": "reward model", "sample": "model", "eval": "policy"}.get(job.stage, "policy")


def _start(job: Job, name: str, *, later: bool = True) -> Phase:
    """A phase with what is there all the time: the program, every model's weights, and once steps were taken (`later`)
    the optimizer."""
    phase = Phase(name)
    phase.add(PROGRAM, "", machines.program(job))
    phase.add(speaker(job), "weights", states.weights(job))
    for one in job.beside:
        phase.add(one.role, "weights (an adapter)" if one.shared else "weights", _held(job, one))
    if later and job.learns:
        phase.add(speaker(job), "optimizer", states.optimizer(job))
    return phase


def _held(job: Job, one: Reader) -> float:
    """Weights of a model that only reads, in shards where those of the model that learns are."""
    return one.held * one.shape.parameters * states.share("weights", job.sharding, job.processes)


def _reading(job: Job) -> Phase:
    """Rows, before there is any model."""
    phase = Phase("reading rows")
    phase.add(PROGRAM, "and rows", machines.program(job, reading=True))
    return phase


def _saved(job: Job, before: list[Phase]) -> Iterator[Phase]:
    """What was saved is read again. A CPU's process keeps what is freed (`align.run.device.keep_memory`), so the file
    comes on top of the most that it ever held."""
    if job.learns:
        top = peak(before)
        phase = Phase("checking what was saved", list(top.lines))
        phase.add("files", "what was saved", FLOAT * (job.shape.parameters if job.whole else job.trained))
        yield phase


def _loading(job: Job) -> Phase:
    """Weights and, where they are held in another precision, the file that they are read from; files are mapped into
    memory, so that what keeps its precision is there once."""
    phase = _start(job, "loading", later=False)
    if not job.gpu and job.file != job.held:
        phase.add("files", "being read", job.file * job.shape.parameters)
    return phase


# ------------------------------------------------------------------------------------------------------------ training


def _training(job: Job) -> list[Phase]:
    """A step: where the backward pass begins (all that was kept is there, no gradient yet), where it ends (the other
    way round), and of DPO the reference's pass beside what the policy's has kept."""
    begins, ends = _start(job, "backward pass begins"), _start(job, "backward pass ends")
    head = _head_gradient(job)
    whole = states.gradients(job)
    waiting = whole if job.pieces > 1 else 0.0
    begins.add(speaker(job), "gradients", waiting)
    begins.add(ALLOCATOR, "what gradients left free, too small for activations", _holes(job, whole - waiting))
    begins.add(speaker(job), "gradient of the matrix to the vocabulary", head)
    _add_kept(job, begins)
    begins.add("loss", "blocks of logits", logits(job))
    begins.add(speaker(job), "passing back", activations.backward(job, job.tokens))
    ends.add(speaker(job), "gradients", whole)
    ends.add(speaker(job), "gradient of the embeddings, being added", head if job.pieces > 1 or job.shape.tied else 0.0)
    ends.add(speaker(job), "passing back", activations.backward(job, job.tokens))
    found = [begins, ends]
    for phase in found:
        phase.add(speaker(job), "weights in bf16", states.cast(job))
        phase.add(speaker(job), "weights of two layers, gathered", states.gathered(job))
    if job.stage == "dpo":
        found.insert(0, _compared(job))
    return found


def _before(job: Job) -> Iterator[Phase]:
    """SFT's loss on held-out rows before the training, by the model's own code: whole logits and their softmax."""
    if job.stage == "sft" and job.eval_rows and job.sharding in ("single", "ddp"):
        phase = _start(job, "loss before training", later=False)
        each = FLOAT * 2 + (2 if job.autocast or job.held == 2 else 0)
        phase.add("loss", "whole logits", each * job.eval_rows * job.eval_longest * job.shape.vocabulary)
        phase.add(speaker(job), "weights in bf16", states.cast(job))
        yield phase


def _holes(job: Job, freed: float) -> float:
    """On a CPU the optimizer's tensors are laid between the first step's gradients. Once those are freed, activations,
    which are larger, do not fit in between, and the heap grows by as much (seen in traces of glibc's)."""
    return 0.0 if job.gpu else freed


def _add_kept(job: Job, phase: Phase) -> None:
    """What the policy's pass has kept and, where PPO's critic has layers of its own, that one's."""
    how = "activations, one layer at a time" if job.again else "activations"
    phase.add(speaker(job), how, activations.kept(job, job.tokens))
    if job.critic in ("adapter", "full"):
        phase.add("critic", how, activations.kept(job, job.tokens))


def _head_gradient(job: Job) -> float:
    """V H in fp32, where the matrix to the vocabulary learns: made whole before it is added to the others."""
    return FLOAT * job.shape.embeddings if job.whole and job.stage != "reward" else 0.0


def logits(job: Job) -> float:
    """The loss multiplies by the matrix to the vocabulary in blocks (`align.train.pieces`), never to whole logits.

    On a GPU TRL's own kernels do it, in tiles of a like size.
    """
    if job.stage == "reward":
        return 0.0
    return (
        BLOCKS * FLOAT * min(LOGITS_AT_ONCE, job.learnt * job.shape.vocabulary) + FLOAT * job.learnt * job.shape.hidden
    )


def _compared(job: Job) -> Phase:
    """Log-probabilities of policy and reference, before a step is taken: what the policy's pass kept is there already.

    Of PPO only where the update goes on from it: in one process, without checkpointing.
    """
    phase = _start(job, "log-probabilities")
    if job.stage == "dpo" or (job.processes == 1 and not job.again):
        _add_kept(job, phase)
    phase.add("loss", "blocks of logits", logits(job))
    phase.add("reference", "a pass", activations.forward(job, job.tokens))
    phase.add(speaker(job), "weights in bf16", states.cast(job) * (2 if job.whole else 1))
    return phase


def _evaluating(job: Job) -> Iterator[Phase]:
    """Held-out rows after the training; the optimizer is still there."""
    if job.eval_rows:
        tokens = job.eval_rows * job.eval_longest * (2 if job.stage == "dpo" else 1)
        phase = _start(job, "held-out rows")
        phase.add(speaker(job), "a pass", activations.forward(job, tokens))
        phase.add(speaker(job), "weights in bf16", states.cast(job))
        phase.add("loss", "blocks of logits", logits(replace(job, learnt=tokens)))
        yield phase


# ------------------------------------------------------------------------------------------------------------ sampling


def _sampling(job: Job) -> Iterator[Phase]:
    """Reading the prompts, then writing the completions token by token."""
    asked, who = job.asked, speaker(job)
    if asked is None:
        return
    if job.stage == "sft":  # measured without autocast
        job = replace(job, autocast=False)
    reads = _start(job, "reading prompts")
    writes = _start(job, "sampling")
    reads.add(who, "a pass", activations.forward(job, asked.prompts * asked.prompt))
    writes.add(who, "logits and probabilities", 3 * FLOAT * asked.rows * job.shape.vocabulary)
    reads.add(who, "keys and values", keys_and_values(job, asked.prompts, asked.room))
    writes.add(who, "keys and values", keys_and_values(job, asked.rows, asked.room))
    writes.add(who, "their copies", copied(job, asked))
    for phase in (reads, writes):
        phase.add(who, "weights laid together for sampling", joint(job))
        phase.add(who, "weights in bf16", states.cast(job))
    yield reads
    yield writes


def keys_and_values(job: Job, rows: int, tokens: int) -> float:
    """2 K numbers a token and layer. Under autocast a key is fp32, for its position is, and a value bf16."""
    size = 3 if job.autocast else job.element
    return 2 * size * job.shape.keys * job.shape.layers * rows * tokens


def copied(job: Job, asked: Sampling) -> float:
    """The larger of two copies: what was read of a prompt is repeated for each of its completions, and lies there
    beside the room that they get; and when a quarter of the rows have stopped, the others are copied out (taken to be
    after a quarter of the answer)."""
    read = keys_and_values(job, asked.prompts, asked.room) + keys_and_values(job, asked.rows, asked.prompt)
    out = 0.75 * keys_and_values(job, asked.rows, asked.prompt + asked.answer // 4)
    return max(out, read if asked.copies > 1 else 0.0)


def joint(job: Job) -> float:
    """Fused layers sample with copies of their matrices laid together, up to 1 GiB of them; PPO's LoRA is added to the
    weights in a copy as well, in fp32."""
    size = job.held * job.shape.in_layers
    folded = size if job.stage == "ppo" and job.ranks and job.held == FLOAT else 0.0
    fused = job.shape.fusable and not job.gpu and job.sharding in ("single", "ddp")
    return folded + (size if fused and size <= JOINT_BYTES else 0.0)


def _scoring(job: Job) -> Iterator[Phase]:
    """A reward model reads prompts and answers."""
    asked = job.asked
    readers = [one for one in job.beside if one.role == "reward model"]
    if asked is None or not job.scored or not readers:
        return
    phase = _start(job, "scoring")
    size = 2 if readers[0].held <= 2 else FLOAT
    phase.add(
        "reward model", "a pass", activations.forward(job, job.scored * asked.room, readers[0].shape, element=size)
    )
    yield phase


def _distances(job: Job) -> Phase:
    """KL from whole distributions: logits of one model, scaled, as log-probabilities, beside the other's two."""
    assert job.asked is not None
    asked, phase = job.asked, _start(job, "KL to the reference")
    width = asked.answer + 1
    rows = max(1, min(job.scored, DISTRIBUTIONS_AT_ONCE // (width * job.shape.vocabulary)))
    phase.add("policy and reference", "distributions", 5 * FLOAT * rows * width * job.shape.vocabulary)
    phase.add("reference", "a pass", rows * asked.room * job.element * job.shape.hidden)
    return phase
