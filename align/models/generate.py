"""Batched sampling and scoring with frozen models, shared by sample, ppo, eval and compare.

B sequences, T tokens, V vocabulary, K completions per prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from align.data import chat
from align.models import layout


@dataclass
class Completion:
    """One sampled answer. `ids` is all that was sampled, with the stop token at its end where `stopped`.

    `text` is the answer, without special tokens and without `reasoning`, what the model thought before it ("" for
    nothing). Reasoning that never ended leaves no answer. After plain text, `text` is exactly what was sampled.
    """

    ids: list[int]
    text: str
    stopped: bool
    reasoning: str = ""


DISTRIBUTIONS_AT_ONCE = 2**28  # floats: 1 GiB a tensor of logits, of which one a model lives at once
DISTRIBUTIONS_IN_HAND = 2**24  # of these, floats that are worked on at once: 64 MiB, and a handful of such tensors


def _left_padded(rows: list[list[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids to `input_ids` and `attention_mask`, both [B, T], padded on the left."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, device=device)
    mask = torch.zeros((len(rows), width), dtype=torch.long, device=device)
    for row, tokens in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens, device=device)
        mask[row, width - len(tokens) :] = 1
    return ids, mask


def _read(model: Any, prompts: list[list[int]], pad_id: int, copies: int, more: int) -> tuple[Any, Any, Any, Any]:
    """Read each prompt once and lay `copies` of it side by side: cache with room for `more` tokens, next logits, last
    position, mask [B, T]."""
    from align.models.fast import decoding

    ids, seen = _left_padded(prompts, pad_id, model.device)
    positions = seen.cumsum(1).sub(1).clamp(min=0)
    cache = decoding.cache(model.config, ids.shape[1] + more)
    out = model(
        input_ids=ids, attention_mask=seen, position_ids=positions, **layout.cached(model, cache),
        **layout.options(model, logits_to_keep=1, output_router_logits=False),
    )  # fmt: skip
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    logits, place, seen = (x.repeat_interleave(copies, 0) for x in (out.logits[:, -1], positions[:, -1], seen))
    return cache, logits, place, seen


@torch.no_grad()
def sample(
    model: Any,
    prompts: list[list[int]],
    *,
    stops: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    noise: torch.Tensor | None = None,
    per_prompt: int = 1,
) -> list[list[int]]:
    """Sample from a causal language model until every row has stopped.

    A prompt is read once however many completions it gets, and rows that have stopped leave the batch. Token t of row b
    is the inverse of its cumulative distribution at `noise[b, t]`, so a completion depends on its own noise and not on
    which rows share its batch, or on how many processes share the work.

    Args:
        model: a bare causal language model (no wrapper); its adapters as they are set.
        prompts: token ids of each prompt.
        stops: ids that end a completion; the one met is its last token.
        temperature: 0 for the most likely token; otherwise the only warping that is done (no top-k, no top-p).
        noise: [prompts x per_prompt, max_new_tokens], uniform in [0, 1); not needed at temperature 0.
        per_prompt: completions of each prompt, next to each other in the result.

    Returns:
        Token ids of each completion, at most `max_new_tokens`.
    """
    done: list[list[int]] = [[] for _ in range(len(prompts) * per_prompt)]
    for drawn in stream(model, prompts, stops, pad_id, max_new_tokens, temperature, noise, per_prompt):
        for row, token in drawn:
            done[row].append(token)
    return done


@torch.no_grad()
def stream(
    model: Any, prompts: list[list[int]], stops: Collection[int], pad_id: int, max_new_tokens: int, temperature: float,
    noise: torch.Tensor | None, per_prompt: int = 1,
) -> Iterator[list[tuple[int, int]]]:  # fmt: skip
    """What `sample` returns, step by step: number and next token of each completion, [B] and fewer as they stop."""
    from align.models.fast import decoding, layers

    layout.check_room(model, max(map(len, prompts)), max_new_tokens)
    with layers.sampling(model):
        cache, logits, place, seen = _read(model, prompts, pad_id, per_prompt, max_new_tokens)
        width = seen.shape[1]
        mask = decoding.mask(model, torch.cat([seen, seen.new_ones(len(seen), max_new_tokens)], 1))
        same = layout.cached(model, cache) | layout.options(model, output_router_logits=False)
        rows = list(range(len(mask)))  # which completion each row of the batch is; -1 once it has stopped
        for t in range(max_new_tokens):
            tokens = _draw(logits, temperature, None if noise is None else noise[rows, t].to(mask.device))
            said = tokens.tolist()
            yield [(row, token) for row, token in zip(rows, said, strict=True) if row >= 0]
            rows = [-1 if token in stops else row for row, token in zip(rows, said, strict=True)]
            alive = [position for position, row in enumerate(rows) if row >= 0]
            if not alive or t == max_new_tokens - 1:
                break
            if 4 * len(alive) <= 3 * len(rows):  # fewer rows are worth the copy of the cache
                keep = torch.tensor(alive, device=mask.device)
                cache.batch_select_indices(keep)
                tokens, place, mask = tokens[keep], place[keep], mask[keep]
                rows = [rows[position] for position in alive]
            place = place + 1
            seen = mask[..., : width + t + 1]
            out = model(input_ids=tokens[:, None], attention_mask=seen, position_ids=place[:, None], **same)
            logits = out.logits[:, -1]


def _draw(logits: torch.Tensor, temperature: float, noise: torch.Tensor | None) -> torch.Tensor:
    """One token a row: [B, V] logits and [B] noise in [0, 1) to [B] ids."""
    if temperature == 0:
        return logits.argmax(-1)
    assert noise is not None
    below = (logits.float() if temperature == 1 else logits.float() / temperature).softmax(-1).cumsum(-1)
    point = noise[:, None] * below[:, -1:]
    return torch.searchsorted(below, point, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def uniform(seed: int, rows: list[int], width: int) -> torch.Tensor:
    """Noise for `sample`: [rows, width] in [0, 1), each row from `seed` and its own number alone."""
    keys = np.array(rows, dtype=np.uint64)
    return torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(key=[seed, int(k)])).random(width) for k in keys]).astype("f4")
    ).clamp_(max=1 - 2**-24)


def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    per_prompt: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    skip: set[int] = frozenset(),  # type: ignore[assignment]
) -> Iterator[tuple[int, list[Completion]]]:
    """Sample `per_prompt` completions for each prompt, yielding `(index, completions)` batch by batch.

    Prompts of similar length share a batch. A completion depends on `seed` and its own number alone, so it comes out
    the same whichever process samples it and after which others.

    Args:
        prompts: token ids of each prompt, up to where the assistant begins.
        temperature: 0 for the most likely token; otherwise the only warping that is done (no top-k, no top-p).
        share: `(rank, processes)`: every how-manieth batch is this process's.
        skip: indices that need not be sampled again; a batch is left out when all of its prompts are in it.
    """
    stops = model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    copies = per_prompt if temperature > 0 else 1
    lengths = [len(ids) for ids in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], i))
    rank, processes = share
    for start in range(rank * batch_size, len(order), batch_size * processes):
        batch = order[start : start + batch_size]
        if skip.issuperset(batch):
            continue
        noise = uniform(seed, [i * copies + k for i in batch for k in range(copies)], max_new_tokens)
        out = sample(
            model, [prompts[i] for i in batch], stops=stops, pad_id=tokenizer.pad_token_id,
            max_new_tokens=max_new_tokens, temperature=temperature, noise=noise, per_prompt=copies,
        )  # fmt: skip
        done = [as_completion(prompts[batch[n // copies]], ids, stops, tokenizer) for n, ids in enumerate(out)]
        for position, index in enumerate(batch):
            yield index, done[position * copies : (position + 1) * copies]


def as_completion(prompt: list[int], ids: list[int], stops: Collection[int], tokenizer: Any) -> Completion:
    """What was sampled after a prompt, as text, and whether it stopped by itself."""
    stopped = ids[-1] in stops
    thought, text = chat.decode_answer(tokenizer, prompt, ids, stopped)
    return Completion(ids, text, stopped, thought)


@torch.no_grad()
def sequence_statistics(
    model: Any,
    reference: Any | None,
    prompts: list[list[int]],
    completions: list[list[int]],
    *,
    pad_id: int,
    temperature: float = 1.0,
    batch_size: int = 64,
) -> dict[str, torch.Tensor]:
    """Log-probability, entropy and KL of completions under a frozen policy, each [B], in nats a sequence.

    KL is summed over the completion's positions t from the whole distributions there,

        KL = sum_t sum_v p(v | s_t) (log p(v | s_t) - log q(v | s_t)),

    p the policy's, q the reference's. On completions that p sampled, its mean is the KL of the sequences' distributions
    just as that of log p(y) - log q(y) is, with less variance (Rao-Blackwell; Amini et al. 2025), and never negative.

    Args:
        model, reference: causal language models with one vocabulary; without a reference there is no `kl`.
        temperature: that the completions were sampled at; both distributions are taken at it.

    Returns:
        `logps`, `entropy`, and with a reference `ref_logps` and `kl`.
    """
    sums: dict[str, list[torch.Tensor]] = {}
    widest = 1 + max(map(len, completions), default=1)
    # one may have more rows than the other, to spare: they are no part of either distribution
    vocabulary = min(one.get_output_embeddings().weight.shape[0] for one in (model, reference) if one is not None)
    batch_size = max(1, min(batch_size, DISTRIBUTIONS_AT_ONCE // (widest * vocabulary)))
    order = sorted(range(len(prompts)), key=lambda row: (len(completions[row]), len(prompts[row])))  # little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = _left_padded([prompts[row] + completions[row] for row in rows], pad_id, model.device)
        width = max(1, len(completions[rows[-1]]))
        lengths = torch.tensor([len(completions[row]) for row in rows], device=ids.device)
        real = torch.arange(width, 0, -1, device=ids.device) <= lengths[:, None]
        for name, values in _position_statistics(model, reference, ids, mask, width, vocabulary, temperature).items():
            sums.setdefault(name, []).append(values.masked_fill(~real, 0.0).sum(1).cpu())
    back = torch.tensor(order).argsort()
    return {name: torch.cat(values)[back] for name, values in sums.items()}


def _position_statistics(
    model: Any, reference: Any | None, ids: Any, mask: torch.Tensor, width: int, vocabulary: int, temperature: float
) -> dict[str, torch.Tensor]:
    """The same, for each of the last `width` tokens of left-padded rows: [B, width]."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def logits_of(one: Any) -> torch.Tensor:
        keep = layout.options(one, logits_to_keep=width + 1, output_router_logits=False)
        logits = one(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **keep).logits
        return logits[:, -width - 1 : -1, :vocabulary]

    few = max(1, DISTRIBUTIONS_IN_HAND // (width * vocabulary))
    each = [logits_of(one).split(few) for one in (model, reference) if one is not None]
    pieces = zip(ids[:, -width:, None].split(few), *each, strict=True)
    parts = [_of_logits(*rows, temperature=temperature) for rows in pieces]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_logits(
    targets: torch.Tensor, logits: torch.Tensor, reference: torch.Tensor | None = None, *, temperature: float
) -> dict[str, torch.Tensor]:
    """The same again, from targets [B, T, 1] and logits [B, T, V]: [B, T]."""
    mine = (logits.float() / temperature).log_softmax(-1)
    weights = mine.exp()
    found = {"logps": mine.gather(-1, targets).squeeze(-1), "entropy": -(weights * mine).sum(-1)}
    if reference is not None:
        theirs = (reference.float() / temperature).log_softmax(-1)
        found |= {
            "ref_logps": theirs.gather(-1, targets).squeeze(-1),
            "kl": (weights * (mine - theirs)).sum(-1).clamp(min=0),
        }
    return found


def completion_logps(
    model: Any, prompts: list[list[int]], completions: list[list[int]], *, pad_id: int, batch_size: int = 64
) -> torch.Tensor:
    """Summed log-probability of each completion given its prompt, in nats, shape [B]."""
    return sequence_statistics(model, None, prompts, completions, pad_id=pad_id, batch_size=batch_size)["logps"]
