"""What passes through a model hold, in bytes for each token.

After Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models), section 4: a tensor
counts where an operation's gradient reads it, once however many read it. Theirs are a GPT's layers in fp16 with
dropout; here the same count is made for the layers that run here: a Llama's fused into two halves
(`align.models.fast`), a Llama's by transformers, and a GPT-2's, in fp32, in bf16, and under autocast, where the
residual stays fp32. Attention is `scaled_dot_product_attention`, which keeps its inputs and its output and no T x T
scores (Dao et al. 2022).

H hidden, A what the attention gives, K keys, I the MLP's inside, R the sum of LoRA's ranks in a layer.
"""

from __future__ import annotations

from align.models.packing import SHORT
from align.plan.memory.job import Job
from align.plan.shape import Layout


def layer(job: Job, shape: Layout | None = None) -> float:
    """Bytes a token that one layer keeps for its backward pass."""
    shape = shape or job.shape
    if shape.unknown:
        return 0.0
    attention = _attention(job, shape) + _dropped(job, shape)
    if job.fused and shape.fusable:
        return job.element * (2 * shape.hidden + 4 * shape.inner + job.ranks) + attention
    return attention + _norms(job, shape) + _mlp(job, shape) + _products(job) * job.ranks


def _products(job: Job) -> int:
    """Bytes of a number that a matrix product gives."""
    return 2 if job.autocast else job.element


def _attention(job: Job, shape: Layout) -> float:
    """Query, key, value and what comes out: 2 A + 2 K. On a CPU short rows in bf16 are attended to in fp32, and what
    comes out is then kept in both."""
    each, low = 2 * shape.query + 2 * shape.keys, _products(job)
    if low == 2 and not job.gpu and job.longest <= SHORT:
        return 4 * each + 2 * shape.query
    return low * each


def _norms(job: Job, shape: Layout) -> float:
    """A norm's input (fp32), what it makes of it before its weight (RMSNorm's, where that learns), and its output,
    which matrices read: under autocast as a copy in bf16 for each of them."""
    wide = 4 if not shape.centred or job.autocast else job.element
    inside = 0 if shape.centred or not job.whole else 4 if job.autocast else job.element
    read = 2 * (3 + 2 if shape.gated else 1 + 1) / 2 if job.autocast else job.element
    found = shape.norms * shape.hidden * (wide + inside + read)
    if shape.head_norms:
        found += (shape.query + shape.keys) * (wide + (_products(job) if job.whole else 0))
    return found


def _mlp(job: Job, shape: Layout) -> float:
    """What goes into the activation function and comes out; with a gate the other factor; the product."""
    return _products(job) * shape.inner * (shape.mlp_kept + (2 if shape.gated else 0))


def _dropped(job: Job, shape: Layout) -> float:
    """Dropout's mask after attention and MLP, fp32 on a CPU, and the scores that attention then keeps: of a row of T
    tokens T numbers a token and head, three times."""
    if not shape.dropout or job.stage in ("dpo", "ppo"):  # which switch it off
        return 0.0
    scores = 3 * job.longest * shape.heads
    return 2 * shape.hidden * (1 if job.gpu else 4) + scores * _products(job)


def kept(job: Job, tokens: int, shape: Layout | None = None) -> float:
    """All layers and what follows them: the last norm, and the hidden states that the loss reads, fp32 in it.

    With checkpointing each layer keeps its input alone (Chen et al. 2016), and one is whole again while its gradient is
    computed.
    """
    shape = shape or job.shape
    if shape.unknown:
        return 0.0
    each = layer(job, shape)
    wide = 4 if job.autocast else job.element
    in_layers = shape.layers * wide * shape.hidden + each if job.again else shape.layers * each
    return tokens * (in_layers + shape.hidden * (4 + 2 * wide))


def backward(job: Job, tokens: int, shape: Layout | None = None) -> float:
    """What the first layer of a backward pass holds beside what was kept: gradients of its MLP's inside, and of hidden
    states."""
    shape = shape or job.shape
    return 0.0 if shape.unknown else tokens * _products(job) * (3 * shape.inner + 4 * shape.hidden)


def forward(job: Job, tokens: int, shape: Layout | None = None, *, element: int | None = None) -> float:
    """The most that a pass holds of which no gradient is wanted: the inside of its widest layer."""
    shape = shape or job.shape
    size = element or _products(job)
    wide = 4 if job.autocast else size
    if shape.fusable and not job.gpu and not job.autocast:
        return tokens * size * (4 * shape.hidden + shape.query + 4 * shape.inner)
    return tokens * (wide * 3 * shape.hidden + size * 3 * shape.inner)
