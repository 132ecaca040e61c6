"""Demonstrations without padding: several in one row of up to `max_length` tokens, each attending to itself alone.

TRL's packing and TRL's collator, on the packed attention of `align.models.packing` where there is no FlashAttention.
N demonstrations, T tokens of a packed row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from align.models import packing

AT_ONCE = 1_000  # demonstrations of a stream that are packed together
LENGTHS = "seq_lengths"  # TRL's column: the tokens of each demonstration in a packed row


@dataclass
class Collator:
    """Packed rows one after the other in a single row, as TRL does it; rows that are not packed padded."""

    pad_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        flat = LENGTHS in rows[0]
        return DataCollatorForLanguageModeling(self.pad_id, flat, pad_to_multiple_of=self.pad_to_multiple_of)(rows)


def problems(args: Any, model: Any) -> list[str]:
    """Why rows cannot be packed for this model.

    Args:
        model: its modules, with or without weights.
    """
    if not args.packing or packing.use(model, args.max_length):
        return []
    config = model.config.get_text_config()
    kind, window = config.model_type, getattr(config, "sliding_window", None)
    if not packing.windowless(config, args.max_length):
        if packing.windowless(config, 1):
            return [f"packing: layers of {kind} models see {window:,} tokens back, fewer than --max_length "
                    f"{args.max_length} has; give --max_length {window}, or leave --packing out"]  # fmt: skip
        why = (
            "have layers that are no attention over the whole row, and would read on from one demonstration to another"
        )
    elif config._attn_implementation == "eager":
        return [f"packing: {kind} models run with eager attention here, which cannot keep packed demonstrations apart; "
                "give --attn_implementation sdpa where they have it, or leave --packing out"]  # fmt: skip
    else:
        why = "have an attention of their own, which cannot keep packed demonstrations apart"
    return [f"packing: {kind} models {why}; leave --packing out"]


def rows(rows: Any, args: Any, policy: Any, run: Any) -> Any:
    """What to train on: the demonstrations, or under `--packing` rows that hold several.

    Afterwards the trainer is told of no packing, since nothing is left to pack. Tokens are counted without looking for
    padding: there is none, and a demonstration may hold the pad token as text.
    """
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    if not args.packing:
        return rows.train
    packing.use(policy, args.max_length)
    packing.read_packed(policy)
    args.packing = False
    if args.include_num_input_tokens_seen == "non_padding":
        args.include_num_input_tokens_seen = "all"
    whole = rows.train.select_columns(["input_ids", "labels"])
    if rows.stream is not None:
        if run.main:
            print(f"packing: {AT_ONCE:,} demonstrations of the stream at a time, in rows of up to {args.max_length:,} "
                  "tokens", flush=True)  # fmt: skip
        made = pack_dataset(whole, args.max_length, "bfd", {"batch_size": AT_ONCE})
        return made.shuffle(seed=args.seed, buffer_size=AT_ONCE // 4)  # they come with the longest first
    made = pack_dataset(whole.shuffle(seed=args.seed), args.max_length, "bfd")
    tokens = sum(map(sum, made[LENGTHS]))
    facts = {"demonstrations": len(whole), "rows": len(made), "filled": tokens / (len(made) * args.max_length)}
    run.note(packing=facts)
    if run.main:
        print(f"packing: {facts['demonstrations']:,} demonstrations in {facts['rows']:,} rows of up to "
              f"{args.max_length:,} tokens, {facts['filled']:.1%} full", flush=True)  # fmt: skip
    return made
