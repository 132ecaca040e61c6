"""Rows: detect their schema, bring them into one of ours, tokenise, count what was dropped and why.

Schemas (TRL's, conversational or plain), and one of our own:
    text        text
    sft         messages, or prompt + completion
    preference  prompt + chosen + rejected (+ margin, category, weight); the prompt may be implicit
    prompt      prompt (other columns are kept)
    rankings    prompt + completions + ranking (1 is best, ties allowed), annotator, time; see align.data.pairs
"""

from __future__ import annotations

from typing import Any

from align.data import arrow, chat, encoding, pairs, preview
from align.data.forms.normal import normalise
from align.data.large import mapped
from align.data.large.stream import How, Stream
from align.data.overlap import prompts
from align.data.pairs import Pairing
from align.data.splits import Report, Splits, check_dropped, commits, read
from align.run.arguments import DataArguments, PairArguments
from align.run.errors import DataError


def rows(
    args: DataArguments, schema: str, tokenizer: Any, *, max_length: int | None, seed: int,
    pairing: PairArguments | None = None, answers_only: bool = False, how: How | None = None,
) -> Splits:  # fmt: skip
    """Load, normalise and tokenise the train split and, where there is one, the test split.

    Args:
        schema: `sft`, `preference` or `prompt`; see above.
        max_length: tokens of the longest row; longer ones are dropped and counted, never cut. None for no limit.
        pairing: how rankings become pairs to train on; by default as the flags' defaults say.
        answers_only: leave the reasoning of pairs out, for a reward model: it scores answers.
        how: where the rows to train on are read as they arrive (demonstrations only), by whom.

    Raises:
        DataError: rows that cannot be read, are malformed, or of which more are dropped than `args` allows.
    """
    done: dict[str, Any] = {"train": None, "test": None}
    reports = {}
    args.template_date = chat.pinned(tokenizer)  # for the record: today's or a parent's, where none was given
    encoder = encoding.answers_only if answers_only else encoding.ENCODERS[schema]
    raw, arriving = read(args, seed=seed, stream=how is not None), None
    for name, some in raw.items():
        if some is None:
            continue
        streams = how is not None and name == "train"
        source = f"{args.dataset_name or 'mixture'} ({name}{', streamed' * streams})"
        reports[name] = report = Report(source, commits=[] if streams else commits(some))
        pairs_of = _pairing(pairing or PairArguments(), name)
        report.limit, report.limit_flag = max_length, "max_prompt_length" if schema == "prompt" else "max_length"
        if streams:
            arriving = Stream.of(some, schema, report, tokenizer, args, how or How(), seed=seed)
            done[name] = arriving.dataset()
            continue
        normal = normalise(some, schema, source, args.columns, pairs_of, report, prompt_format=args.prompt_format)
        if args.preview:
            preview.show(normal, source, encoder, tokenizer, max_length)
        done[name] = mapped.tokenise(
            normal, tokenizer, max_length=max_length, report=report, encoder=encoder, processes=args.dataset_num_proc
        )
        lost = [f"chat_template_kwargs.{name}" for name in chat.not_read(tokenizer, sorted(report.settings))]
        report.not_read, report.matter = report.not_read + lost, report.matter + lost
        check_dropped(report, args)
        if report.rankings and report.rows_out < report.rows_in:
            done[name] = _weighed_again(done[name], pairs_of)
    shared = None
    if pairing and not reports["train"].rankings:
        _only_pairs(pairing, reports["train"].source)
    if arriving is not None:
        shared = {"line": "whether a stream has prompts of the test split is not looked for"} if raw["test"] else None
    elif raw["test"] is not None and schema in ("sft", "preference"):
        shared = prompts.within(
            raw["train"], raw["test"], args.dataset_name or "mixture", args.columns, args.dataset_num_proc
        )
    return Splits(done["train"], done["test"], reports, shared, arriving)


def _only_pairs(pairing: PairArguments, source: str) -> None:
    """Stop at what only rankings are chosen or made into pairs by: here it would change nothing."""
    asked = {"annotators": bool(pairing.annotators), "aggregate": pairing.aggregate != "each"}
    for name in filter(asked.get, asked):
        raise DataError(f"{source} holds pairs and no rankings, and {name} would change nothing: leave it out, or name "
                        "rows with completions, ranking and annotator")  # fmt: skip


def _weighed_again(rows: Any, pairing: Pairing) -> Any:
    """Pairs of which some were dropped: those that are left have weights with a mean of 1, as `pairs.weigh` says."""
    before = arrow.values(rows, "weight").to_numpy()
    weights = pairs.weighed(arrow.values(rows, "group"), before, pairing.weights)
    return rows.remove_columns("weight").add_column("weight", weights)


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


def texts(
    args: DataArguments, *, seed: int, tokenizer: Any = None, ids: bool = False, how: How | None = None
) -> Splits:
    """The `text` schema, train and (where there is one) test, as columns that are read when they are asked for.

    Args:
        tokenizer: where there is one already, `args.preview` shows its tokens.
        ids: columns of its token ids instead, each document between BOS (where there is one) and EOS.
        how: where the texts to train on are read as they arrive, by whom; there is no column of them then.
    """
    done: dict[str, Any] = {"train": None, "test": None}
    reports, arriving = {}, None
    for name, some in read(args, seed=seed, stream=how is not None).items():
        if some is None:
            continue
        streams = how is not None and name == "train"
        source = f"{args.dataset_name or 'mixture'} ({name}{', streamed' * streams})"
        reports[name] = report = Report(source)
        if streams:
            arriving = Stream.of(some, "text", report, tokenizer, args, how or How(), seed=seed)
            continue
        normal = normalise(some, "text", source, args.columns)
        if args.preview:
            preview.show(normal, source, preview.document, tokenizer, None)
        made = mapped.tokenise(
            normal, tokenizer if ids else None, max_length=None, report=report, processes=args.dataset_num_proc
        )
        if not report.rows_out:
            raise DataError(f"{source}: the data set is empty")
        done[name] = made["input_ids" if ids else "text"]
    return Splits(done["train"], done["test"], reports, stream=arriving)
