"""Batched sampling and scoring with frozen models, shared by sample, rank, ppo and the nano table.

B sequences, T tokens, V vocabulary, K completions per prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Completion:
    """One sampled answer. `ids` ends with the stop token where `stopped`; `text` is without special tokens."""

    ids: list[int]
    text: str
    stopped: bool


def _left_padded(rows: list[list[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids to `input_ids` and `attention_mask`, both [B, T], padded on the left."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, device=device)
    mask = torch.zeros((len(rows), width), dtype=torch.long, device=device)
    for row, tokens in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens, device=device)
        mask[row, width - len(tokens) :] = 1
    return ids, mask


@torch.no_grad()
def complete(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
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

    Prompts of similar length share a batch. Every batch is seeded by its own first index, so a batch comes out the same
    whether or not those before it were sampled in this process.

    Args:
        prompts: token ids of each prompt, up to where the assistant begins.
        temperature: 0 for the most likely token; otherwise the only warping that is done (no top-k, no top-p).
        share: `(rank, processes)`: every how-manieth batch is this process's.
        skip: indices that need not be sampled again; a batch is left out when all of its prompts are in it.
    """
    from transformers import GenerationConfig

    stops = model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    settings: dict[str, Any] = dict(do_sample=False)
    if temperature > 0:
        settings = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, num_return_sequences=per_prompt)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=sorted(stops), pad_token_id=tokenizer.pad_token_id, **settings
    )
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    rank, processes = share
    for start in range(rank * batch_size, len(order), batch_size * processes):
        batch = order[start : start + batch_size]
        if skip.issuperset(batch):
            continue
        ids, mask = _left_padded([prompts[i] for i in batch], tokenizer.pad_token_id, model.device)
        torch.manual_seed(seed * 1_000_003 + start)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
        copies = len(out) // len(batch)
        done = [_cut(tokens, stops, tokenizer) for tokens in out]
        for position, index in enumerate(batch):
            yield index, done[position * copies : (position + 1) * copies]


def _cut(tokens: list[int], stops: set[int], tokenizer: Any) -> Completion:
    """One generated row up to and including its first stop token."""
    end = next((t for t, token in enumerate(tokens) if token in stops), None)
    ids = tokens if end is None else tokens[: end + 1]
    return Completion(ids, tokenizer.decode(ids, skip_special_tokens=True).strip(), end is not None)


@torch.no_grad()
def completion_logps(
    model: Any, prompts: list[list[int]], completions: list[list[int]], *, pad_id: int, batch_size: int = 64
) -> torch.Tensor:
    """Summed log-probability of each completion given its prompt, in nats, shape [B]."""
    sums = []
    for start in range(0, len(prompts), batch_size):
        heads, tails = prompts[start : start + batch_size], completions[start : start + batch_size]
        ids, mask = _left_padded([h + t for h, t in zip(heads, tails, strict=True)], pad_id, model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, :-1]
        logps_BT = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        width = ids.shape[1]
        for row, tail in enumerate(tails):
            sums.append(logps_BT[row, width - 1 - len(tail) :].sum() if tail else logps_BT.new_zeros(()))
    return torch.stack(sums).cpu()


@torch.no_grad()
def scores(model: Any, rows: list[list[int]], *, pad_id: int, batch_size: int = 64) -> torch.Tensor:
    """A reward model's score of each sequence (prompt and completion), shape [B], in its own units."""
    from trl.trainer.utils import pad

    out: list[torch.Tensor] = []
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        batch = [torch.tensor(rows[i]) for i in order[start : start + batch_size]]
        ids = pad(batch, padding_value=pad_id, padding_side="right")
        mask = pad([torch.ones_like(row) for row in batch], padding_value=0, padding_side="right")
        device = next(model.parameters()).device
        result = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        out += list(result.logits.squeeze(-1).float().cpu())
    back = torch.empty(len(rows))
    for position, index in enumerate(order):
        back[index] = out[position]
    return back
