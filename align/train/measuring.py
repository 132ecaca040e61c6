"""What is measured around training: losses before and after, whether answers stop, and how many rows fit at once.

A measurement may fail (memory, a judge's function): the run that was saved before it stays what it is, and its record
says what is missing.

B rows at once, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from align.models.generate import DISTRIBUTIONS_AT_ONCE, complete, sample
from align.run.errors import NotFinite, RunError, in_words, recipe
from align.run.record import Run

SHARE, LEAST = 0.25, 10.0  # the gate on stopping may take this part of the training's time; or so many seconds
FEWEST, MOST = 8, 64  # prompts that it asks
STEPS = 4  # on which the time of one is measured


def take(run: Run, measurements: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """Metrics of some measurements, by name. One that fails is printed, and recorded as `not_measured` with the reason.

    Raises:
        NotFinite: weights that give no number are of no use, measured or not.
    """
    found: dict[str, Any] = {}
    for what, measure in measurements.items():
        try:
            found |= measure()
        except NotFinite:
            raise
        except (RuntimeError, MemoryError) as error:  # RuntimeError: what torch's allocators raise, and our RunError
            why = in_words(error)
        else:
            continue
        run.note(not_measured={**run.not_measured, what: why})
        if run.main:
            print(f"not measured: {what}: {why}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def rows_at_once(tokens: int, width: int, most: int) -> int:
    """How many rows of `tokens` tokens, with `width` floats for each, may be evaluated together: at most `most`.

    The largest tensor then holds at most `DISTRIBUTIONS_AT_ONCE` floats, or one row.
    """
    return max(1, min(most, DISTRIBUTIONS_AT_ONCE // max(1, tokens * width)))


def bound_evaluation(trainer: Any) -> None:
    """Lower `per_device_eval_batch_size` to what the longest held-out row and the vocabulary allow.

    A language model's largest tensor are its logits [B, T, V]; a pair is two rows of them. A reward model's is the
    inside of its widest layer.
    """
    rows, args = trainer.eval_dataset, trainer.args
    if rows is None or len(rows) == 0:
        return
    names = rows.column_names
    sides = [name for name in ("chosen_ids", "rejected_ids") if name in names] or ["input_ids"]
    answers = max(len(ids) for name in sides for ids in rows[name])
    scores = hasattr(trainer.accelerator.unwrap_model(trainer.model), "score")
    apart = "chosen_ids" in names and not scores  # DPO's rows keep the prompt apart
    longest = answers + (max(map(len, rows["prompt_ids"])) if apart else 0)
    config = trainer.model.config.get_text_config()
    layers = [getattr(config, name, None) or 0 for name in ("hidden_size", "intermediate_size")]
    width = max(layers) if scores else config.vocab_size
    size = rows_at_once(longest, len(sides) * width, args.per_device_eval_batch_size)
    if size < args.per_device_eval_batch_size and trainer.is_world_process_zero():
        what = "rows" if len(sides) == 1 else "pairs"
        print(f"evaluation: {size} {what} at once instead of {args.per_device_eval_batch_size}: they have up to "
              f"{longest:,} tokens, and each takes {width:,} numbers", flush=True)  # fmt: skip
    args.per_device_eval_batch_size = size


def loss_before(trainer: Any, rows: Any) -> dict[str, float]:
    """`loss_before`: the parent's loss on held-out rows. Nothing where there are none, or where weights are sharded.

    Nothing either under a loss other than likelihood: the evaluation after training could not be compared with it.

    Batches as in evaluation, but no loader and no wrapper: `trainer.evaluate` before `trainer.train` leaves a model
    that accelerate takes for prepared, and DDP then trains without exchanging gradients (transformers 5.23).
    """
    if rows is None or len(rows) == 0 or not _whole(trainer) or trainer.args.loss_type == "dft":
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    training, device = model.training, next(model.parameters()).device
    model.eval().to(trainer.args.device)
    size, total = trainer.args.per_device_eval_batch_size, 0.0
    keys = ("input_ids", "labels")
    for start in range(0, len(rows), size):
        some = [{key: row[key] for key in keys} for row in rows.select(range(start, min(start + size, len(rows))))]
        batch = {key: value.to(trainer.args.device) for key, value in trainer.data_collator(some).items()}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            total += model(**batch).loss.item() * len(some)
    model.train(training).to(device)
    return {"loss_before": total / len(rows)}


def held_out(trainer: Any) -> dict[str, float]:
    """Evaluation metrics on the trainer's held-out rows, or nothing where there are none."""
    if trainer.eval_dataset is None or len(trainer.eval_dataset) == 0:
        return {}
    metrics = trainer.evaluate()  # not of rows: those that TRL was given carry the reference's log-probabilities
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float))}


def stop_rate(trainer: Any, rows: Any, tokenizer: Any, trained: float) -> dict[str, float]:
    """`stops`: the share of greedy answers to (held-out) demonstrations' prompts that end by themselves, and
    `stops_prompts`, on how many.

    An answer may be twice as long as the longest demonstration among them, less where the model has no room for that,
    and never less than that demonstration. Between `FEWEST` and `MOST` prompts are asked, as many as fit into a `SHARE`
    of the training's time were no answer to end. Nothing where weights are sharded.

    Args:
        trained: seconds that the training took.

    Raises:
        RunError: if there is no time for `FEWEST`. Fewer, or shorter answers, would not say whether they end.
    """
    some = rows.train if rows.test is None else rows.test
    if some is None or "labels" not in some.column_names or not _whole(trainer):
        return {}
    found = [_first_answer(row["input_ids"], row["labels"]) for row in some.select(range(min(MOST, len(some))))]
    longest = max(length for _, length in found)
    config = trainer.model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None) or 2**30
    prompts = [ids for ids, _ in found if len(ids) + longest <= room]
    if not prompts:
        return {}
    allowed = min(2 * longest, room - max(map(len, prompts)))
    policy = trainer.accelerator.unwrap_model(trainer.model).eval()
    policy = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    tokens = allowed + max(map(len, prompts))
    size = rows_at_once(tokens, _cache_width(config), trainer.args.per_device_eval_batch_size)
    prompts, size = _affordable(policy, prompts, size, allowed, tokenizer.pad_token_id, trained)
    with torch.no_grad():
        answers = complete(policy, tokenizer, prompts, max_new_tokens=allowed, temperature=0.0, batch_size=size)
        stopped = [said[0].stopped for _, said in answers]
    return {"stops": sum(stopped) / len(stopped), "stops_prompts": len(stopped)}


def _affordable(
    policy: Any, prompts: list[list[int]], size: int, allowed: int, pad_id: int, trained: float
) -> tuple[list[list[int]], int]:
    """The first prompts, as many as there is time for, and how many at once: `size`, or fewer where that is too slow.

    Raises:
        RunError: if there is time for fewer than `FEWEST`.
    """
    budget, fewest, best = max(LEAST, SHARE * trained), min(FEWEST, len(prompts)), (0, 0)
    few = min(size, fewest)
    for group in dict.fromkeys((few, min(size, len(prompts)))):  # few first: where they are too slow, so are more
        needed = _seconds(policy, sorted(prompts, key=len)[-group:], allowed, pad_id)
        best = max(best, (min(int(budget / max(needed, 1e-9)) * group, len(prompts)), group))
        if best[0] < fewest:
            raise RunError(
                f"the training was too short for it: {fewest} answers of up to {allowed:,} tokens may take "
                f"{needed * -(-fewest // few):.0f} s here, more than the {budget:.0f} s that it gets (a quarter of the "
                f"training's time, at least {LEAST:.0f} s); {recipe('sample')} tells how many stop"
            )
    return prompts[: best[0]], best[1]


def _seconds(policy: Any, prompts: list[list[int]], tokens: int, pad_id: int) -> float:
    """How long a batch of answers takes if each has so many tokens: told from `STEPS` of them and from one prompt."""

    def took(some: list[list[int]], most: int) -> float:
        start = time.perf_counter()
        sample(policy, some, stops=(), pad_id=pad_id, max_new_tokens=most, temperature=0.0)
        return time.perf_counter() - start

    ends = [ids[-1:] for ids in prompts]
    took(ends, 1)  # warms up
    first, more = took(ends, 1), took(ends, 1 + STEPS)
    return took([max(prompts, key=len)], 1) * len(prompts) + max(more - first, 0.0) / STEPS * tokens


def _first_answer(ids: list[int], labels: list[int]) -> tuple[list[int], int]:
    """What comes before a demonstration's first answer that is learnt, and that answer's length."""
    start = next(place for place, label in enumerate(labels) if label != -100)
    return ids[:start], sum(1 for _ in itertools.takewhile(lambda label: label != -100, labels[start:]))


def _cache_width(config: Any) -> int:
    """Keys and values of one token over all layers, in floats; a quarter, for one cache lives where a handful of
    distributions do."""
    heads = getattr(config, "num_attention_heads", None) or 1
    size = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", None) or 0) // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return max(1, 2 * (getattr(config, "num_hidden_layers", None) or 1) * shared * size // 4)


def _whole(trainer: Any) -> bool:
    """Does every process hold all weights?"""
    return not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled)
