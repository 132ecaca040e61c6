"""What is measured around training: losses before and after, whether answers stop, and how many rows fit at once.

A measurement may fail (memory, a judge's function): the run that was saved before it stays what it is, and its record
says what is missing.

B rows at once, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch

from align.data import arrow
from align.models.generate import DISTRIBUTIONS_AT_ONCE, complete
from align.run.errors import NotFinite, OneProcess, RunError, in_words, recipe
from align.run.record import Run

# Tokens that the gate on stopping may write, of those trained on: told from what a run was given and not from a clock,
# so that every machine and every process asks the same prompts. Writing a token takes longer than learning one.
SHARE, LEAST = 1 / 16, 4096
FEWEST, MOST = 8, 64  # prompts that it asks
PATIENCE = timedelta(minutes=2)  # of a process whose measurement failed, for the others to come to its end


def take(run: Run, measurements: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """Metrics of some measurements, by name. One that fails is printed, and recorded as `not_measured` with the reason,
    if it fails on one process of several, too.

    Raises:
        NotFinite: weights that give no number are of no use, measured or not.
        OneProcess: where the others wait inside a measurement for the process on which it failed.
    """
    found: dict[str, Any] = {}
    for what, measure in measurements.items():
        some, why = {}, ""
        try:
            some = measure()
        except NotFinite:
            raise
        except (RuntimeError, MemoryError) as error:  # RuntimeError: what torch's allocators raise, and our RunError
            why = in_words(error)
        why = _anywhere(what, why)
        if not why:
            found |= some
            continue
        run.note(not_measured={**run.not_measured, what: why})
        if run.main:
            print(f"not measured: {what}: {why}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def _anywhere(what: str, why: str) -> str:
    """Why a measurement failed on any process, "" where it did on none; they tell each other once all are through."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return why
    store, rank, world = dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size()
    key = f"measured/{what}"
    if why:
        store.set(f"{key}/why", why)
    if store.add(f"{key}/through", 1) == world:
        store.set(f"{key}/all", "")
    try:
        store.wait([f"{key}/all"], PATIENCE if why else timedelta(days=1))
    except RuntimeError as error:  # each kind of store has its own for a time that is up
        raise OneProcess(
            f"{what} could not be measured on process {rank} of {world}, and the others wait for it there: {why}. What "
            "was trained is in the last checkpoint: go on with --resume_from_checkpoint last, and with a smaller "
            "--per_device_eval_batch_size where memory ran out"
        ) from error
    return store.get(f"{key}/why").decode() if store.check([f"{key}/why"]) else ""


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
    answers = max(int(arrow.lengths(rows, name).max()) for name in sides)
    scores = hasattr(trainer.accelerator.unwrap_model(trainer.model), "score")
    apart = "chosen_ids" in names and not scores  # DPO's rows keep the prompt apart
    longest = answers + (int(arrow.lengths(rows, "prompt_ids").max()) if apart else 0)
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
    if "eval_aux_loss" in metrics and "eval_loss" in metrics:  # a mixture's balance is no part of how well it predicts
        metrics["eval_loss"] -= trainer.router_aux_loss_coef * metrics["eval_aux_loss"]
    return {k: v for k, v in metrics.items() if isinstance(v, (int, float))}


def stop_rate(trainer: Any, rows: Any, tokenizer: Any, trained: int) -> dict[str, float]:
    """`stops`: the share of greedy answers to (held-out) demonstrations' prompts that end by themselves, and
    `stops_prompts`, on how many.

    An answer may be twice as long as the longest demonstration among them, less where the model has no room for that,
    and never less than that demonstration. Between `FEWEST` and `MOST` prompts are asked, as many as a `SHARE` of the
    tokens trained on allows were no answer to end. Nothing where weights are sharded.

    Args:
        trained: tokens that the training saw.

    Raises:
        RunError: if there are no tokens for `FEWEST`. Fewer, or shorter answers, would not say whether they end.
    """
    some = rows.test
    if some is None:
        some = rows.train.select(range(min(MOST, len(rows.train)))) if rows.stream is None else rows.stream.head
    if not _whole(trainer):
        return {}
    found = [_first_answer(row["input_ids"], row["labels"]) for row in itertools.islice(some, MOST)]
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
    prompts = _affordable(prompts, allowed, trained)
    with torch.no_grad():
        answers = complete(policy, tokenizer, prompts, max_new_tokens=allowed, temperature=0.0, batch_size=size)
        stopped = [said[0].stopped for _, said in answers]
    return {"stops": sum(stopped) / len(stopped), "stops_prompts": len(stopped)}


def _affordable(prompts: list[list[int]], allowed: int, trained: int) -> list[list[int]]:
    """The first prompts, as many as there are tokens for.

    Raises:
        RunError: if that is fewer than `FEWEST`.
    """
    budget, fewest = max(LEAST, int(SHARE * trained)), min(FEWEST, len(prompts))
    if fewest * allowed > budget:
        raise RunError(
            f"the training was too short for it: {fewest} answers of up to {allowed:,} tokens may be "
            f"{fewest * allowed:,} tokens, more than the {budget:,} that it gets (1 for {1 / SHARE:.0f} of the "
            f"training's, at least {LEAST:,}); {recipe('sample')} tells how many stop"
        )
    return prompts[: budget // allowed]


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
