"""Rows: detect their schema, bring them into one of ours, tokenise, count what was dropped and why.

Schemas (TRL's, conversational or plain), and one of our own:
    text        text
    sft         messages, or prompt + completion
    preference  prompt + chosen + rejected (+ margin, category, weight); the prompt may be implicit
    prompt      prompt (other columns are kept)
    rankings    prompt + completions + ranking (1 is best, ties allowed), annotator, time; see align.data.pairs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from align.data import chat, pairs, preview, text
from align.data.chat import reasoning
from align.data.forms.normal import normalise
from align.data.overlap import prompts
from align.data.pairs import Pairing
from align.data.splits import Report, Splits, check_dropped, commits, fingerprint, read
from align.run.arguments import DataArguments, PairArguments
from align.run.errors import DataError

# ------------------------------------------------------------------------------------------------------- tokenising


def _encode_sft(tokenizer: Any, row: dict) -> list[dict]:
    if row.get("messages") is not None:
        found = chat.encode_messages(tokenizer, row["messages"], **chat.beside(row))
        return [{"input_ids": one.input_ids, "labels": one.labels} for one in found]
    prompt, completion = chat.encode_pair(tokenizer, row["prompt"], row["completion"], **chat.beside(row))
    return [{"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}]


def _encode_preference(tokenizer: Any, row: dict, answers_only: bool = False) -> list[dict]:
    sides = [reasoning.answer_of(row[side]) if answers_only else row[side] for side in ("chosen", "rejected")]
    prompt, chosen = chat.encode_pair(tokenizer, row["prompt"], sides[0], **chat.beside(row))
    again, rejected = chat.encode_pair(tokenizer, row["prompt"], sides[1], **chat.beside(row))
    assert prompt == again, (prompt, again)
    return [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}]


def _encode_prompt(tokenizer: Any, row: dict) -> list[dict]:
    return [{"input_ids": chat.encode_prompt(tokenizer, row["prompt"], **chat.beside(row))}]


Encoder = Callable[[Any, dict], list[dict]]
KEPT = ("margin", "category", "weight")  # what is kept of a pair beside its words
# A row to what is trained on: one example, or several where a template renders a conversation's earlier turns otherwise
# than it asked for them (see `chat.encode_messages`)
ENCODERS: dict[str, Encoder] = {
    "sft": _encode_sft,
    "preference": _encode_preference,
    "prompt": _encode_prompt,
}


def _length(schema: str, encoded: dict) -> int:
    if schema == "preference":
        return len(encoded["prompt_ids"]) + max(len(encoded["chosen_ids"]), len(encoded["rejected_ids"]))
    return len(encoded["input_ids"])


def tokenise(
    rows: Any, schema: str, tokenizer: Any, *, max_length: int | None, report: Report, encode: Encoder | None = None
) -> Any:
    """Tokenise normalised rows, drop what cannot be used, and count it in `report`. Nothing is truncated."""
    from align.data import lines

    made = lines.of_rows(_tokenised(rows, schema, partial(encode or ENCODERS[schema], tokenizer), max_length, report))
    lost = [f"chat_template_kwargs.{name}" for name in chat.not_read(tokenizer, sorted(report.settings))]
    report.not_read, report.matter = report.not_read + lost, report.matter + lost
    return made


def _tokenised(
    rows: Any, schema: str, encode: Callable[[dict], list[dict]], max_length: int | None, report: Report
) -> Iterator[dict]:
    report.limit = max_length
    report.limit_flag = "max_prompt_length" if schema == "prompt" else "max_length"
    for number, row in enumerate(rows, 1):
        report.rows_in += 1
        report.settings |= {*row.get("chat_template_kwargs", ())}
        reason, encoded = row["drop"], []
        if not reason:
            report.forms["text" if isinstance(row.get("prompt"), str) else "chat"] += 1
            try:
                encoded = encode(row)
            except chat.TemplateError as error:
                reason = f"unusable ({error})"
        length = max((_length(schema, one) for one in encoded), default=0)
        report.longest = max(report.longest, length)
        if too_long := max_length is not None and length > max_length:
            report.too_long += 1
        elif reason:
            report.dropped[reason] += 1
        if too_long or reason:
            told = {key: value for key, value in row.items() if key not in ("drop", "origin")}
            report.first.setdefault(reason or "too long", f"row {number}, {text.short(str(told), 160)}")
            continue
        report.rows_out += 1
        report.examples += len(encoded)
        rest = {key: value for key, value in row.items() if key in _kept(schema, row) and value is not None}
        if schema == "preference":
            rest["group"] = pairs.prompt_key(row["prompt"], row.get("chat_template_kwargs"))
        yield from ({**rest, **one} for one in encoded)
    report.not_read, report.matter = list(rows.names), list(rows.matter)


def _kept(schema: str, row: dict) -> Collection[str]:
    """What a tokenised row keeps beside its ids: a prompt all its columns, which rewards and files of samples use."""
    return row.keys() - {"drop", "origin"} if schema == "prompt" else KEPT


def rows(
    args: DataArguments, schema: str, tokenizer: Any, *, max_length: int | None, seed: int,
    pairing: PairArguments | None = None, answers_only: bool = False,
) -> Splits:  # fmt: skip
    """Load, normalise and tokenise the train split and, where there is one, the test split.

    Args:
        schema: `sft`, `preference` or `prompt`; see above.
        max_length: tokens of the longest row; longer ones are dropped and counted, never cut. None for no limit.
        pairing: how rankings become pairs to train on; by default as the flags' defaults say.
        answers_only: leave the reasoning of pairs out, for a reward model: it scores answers.

    Raises:
        DataError: rows that cannot be read, are malformed, or of which more are dropped than `args` allows.
    """
    done: dict[str, Any] = {"train": None, "test": None}
    reports = {}
    args.template_date = chat.pinned(tokenizer)  # for the record: today's or a parent's, where none was given
    encode = partial(_encode_preference, answers_only=True) if answers_only else ENCODERS[schema]
    raw = read(args, seed=seed)
    for name, some in raw.items():
        if some is None:
            continue
        source = f"{args.dataset_name or 'mixture'} ({name})"
        reports[name] = report = Report(source, commits=commits(some))
        how = _pairing(pairing or PairArguments(), name)
        normal = normalise(some, schema, source, args.columns, how, report, prompt_format=args.prompt_format)
        if args.preview:
            preview.show(normal, source, partial(encode, tokenizer), tokenizer, max_length)
        report.fingerprint = fingerprint({key: row[key] for key in row if key != "origin"} for row in normal)
        done[name] = tokenise(normal, schema, tokenizer, max_length=max_length, report=report, encode=encode)
        check_dropped(report, args)
        if report.rankings and report.rows_out < report.rows_in:
            done[name] = _weighed_again(done[name], how)
    shared = None
    if pairing and not reports["train"].rankings:
        _only_pairs(pairing, reports["train"].source)
    if raw["test"] is not None and schema in ("sft", "preference"):
        shared = prompts.within(raw["train"], raw["test"], args.dataset_name or "mixture", args.columns)
    return Splits(done["train"], done["test"], reports, shared)


def _only_pairs(pairing: PairArguments, source: str) -> None:
    """Stop at what only rankings are chosen or made into pairs by: here it would change nothing."""
    asked = {"annotators": bool(pairing.annotators), "aggregate": pairing.aggregate != "each"}
    for name in filter(asked.get, asked):
        raise DataError(f"{source} holds pairs and no rankings, and {name} would change nothing: leave it out, or name "
                        "rows with completions, ranking and annotator")  # fmt: skip


def _weighed_again(rows: Any, pairing: Pairing) -> Any:
    """Pairs of which some were dropped: those that are left have weights with a mean of 1, as `pairs.weigh` says."""
    from align.data import lines

    kept = list(rows)
    pairs.weigh(kept, pairing.weights)
    return lines.of_rows(kept)


def _pairing(args: PairArguments, split: str) -> Pairing:
    """How rankings become pairs. Held-out pairs have no ties and weigh the same: they are measured, not trained on."""
    train = split == "train"
    return Pairing(
        ties=args.ties if train else "drop",
        weights=args.pair_weights if train else "pair",
        annotators=tuple(args.annotators),
        aggregate=args.aggregate,
        held_out=not train,
    )


# pretraining and the tokenizer take what there is
TEXTS_REFUSED = dict.fromkeys(
    ("max_dropped", "max_too_long"), "texts are taken as they are; empty ones are left out and counted"
) | {"prompt_format": "texts hold no prompts"}


def texts(args: DataArguments, *, seed: int, tokenizer: Any = None) -> Splits:
    """The `text` schema as lists of strings, train and (where there is one) test: for tokenizer and pretraining.

    Args:
        tokenizer: where there is one already, `args.preview` shows its tokens.
    """
    done: dict[str, Any] = {"train": None, "test": None}
    reports = {}
    for name, some in read(args, seed=seed).items():
        if some is None:
            continue
        source = f"{args.dataset_name or 'mixture'} ({name})"
        normal = normalise(some, "text", source, args.columns)
        if args.preview:
            preview_texts(normal, source, tokenizer)
        found = [row["text"] for row in normal]
        kept = [text for text in found if text.strip()]
        empty = len(found) - len(kept)
        if not kept:
            raise DataError(f"{source}: the data set is empty")
        dropped = Counter({"empty": empty}) if empty else Counter()
        reports[name] = Report(source, len(found), dropped, len(kept), fingerprint=fingerprint(found))
        done[name] = kept
    return Splits(done["train"], done["test"], reports)


def preview_texts(rows: Any, source: str, tokenizer: Any) -> None:
    """Print the first documents and end the program."""

    def encode(row: dict) -> list[dict]:
        head = [tokenizer.bos_token_id] if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else []
        ids = [*head, *tokenizer(row["text"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return [{"input_ids": ids, "labels": [-100, *ids[1:]]}]  # nothing in a document predicts its first token

    preview.show(rows, source, encode, tokenizer, None)
