"""Models rank the items of a labels file, beside the people, and tell whom to ask first.

    align judge runs/mine/label --reward_model_path runs/mine/reward
    align judge runs/mine/label --judge_url http://localhost:8000/v1 --judge_model Qwen/Qwen3-8B
    align judge runs/mine/label --judge_model_path Qwen/Qwen3-0.6B

A judge's rankings stand in the file under its name with the kind `model`; nobody takes them for a person's. What else
it said (scores, choices in both orders) is kept beside the file in `judges/`, and so are a prompted judge's replies: a
run that was ended goes on where it was, and tries an item that the judge could not rank again, after all others.

In the end, items get priorities (see align.judge.uncertainty): people are asked first where judges disagree with each
other or are unsure.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.judge.protocol import JudgeConfig
from align.judge.rankers import Judge, Judgement, Rankable, texts_of
from align.judge.uncertainty import disagreement, of_choices, of_scores, pairs_of, priority, spread
from align.label.models import worth
from align.label.store.items import Annotator
from align.label.store.notes import Notes, read_notes
from align.label.store.source import stored
from align.label.store.store import Store
from align.run import launch
from align.run.arguments import CodeArguments, RunArguments
from align.run.errors import RunError, fail
from align.run.lineage import parent_problem
from align.run.parse import parse

UNRANKED = 1.0  # unsureness of an item that a judge could not rank: it knows nothing of it


@dataclass
class FeedbackArguments(RunArguments, CodeArguments):
    """What `align judge` takes beside the endpoint's flags. One of the three judges is named."""

    source: str | None = field(default=None, metadata={"help": "The labels: what `align label` wrote."})
    reward_model_path: str | None = field(default=None, metadata={"help": "Judge: a reward model."})
    judge_model_path: str | None = field(default=None, metadata={"help": "Judge: a chat model that is loaded here."})
    judge_name: str | None = field(
        default=None, metadata={"help": "The judge's name among the annotators. None: that of its model."}
    )
    tie: float = field(
        default=0.0,  # exact ties only: how small a difference is nothing depends on the model
        metadata={"help": "Largest difference of a reward model's scores that is a tie, in the scores' unit."},
    )
    max_items: int | None = field(default=None, metadata={"help": "Rank at most so many more items."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Sequences at once, of a model here."})
    prioritise: bool = field(default=True, metadata={"help": "Ask people first where judges differ or are unsure."})

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.tie < float("inf"):
            problems.append(f"tie={self.tie}: give the largest difference of scores that is a tie, 0 or more")
        if self.max_items is not None and self.max_items < 1:
            problems.append(f"max_items={self.max_items}: give 1 or more, or leave it out")
        if self.per_device_eval_batch_size < 1:
            problems.append(f"per_device_eval_batch_size={self.per_device_eval_batch_size}: at least 1")
        if problems:
            raise ValueError("; ".join(problems))


def rank_items(
    store: Store, judge: Judge, annotator: Annotator, notes: Notes, *, most: int | None = None
) -> worth.JudgeRun:
    """Let a judge rank every item that it has not ranked yet, and write each batch down before the next.

    What people have ranked comes first, so that a judge stopped early, or by `most`, can be compared with them. What
    the judge could not rank comes last, the longest ago first, so that it never keeps `most` from the others.
    """
    known = {row["item"] for row in store.rankings(annotators=[annotator.name])}
    found = worth.JudgeRun(before=len(known))
    todo = [item for item in store.items() if item["item"] not in known]
    failed = notes.failed()
    todo = sorted(todo, key=lambda item: (failed.get(item["item"], 0), not item["taken"]))[:most]
    reasons: dict[str, str] = {}  # by their words: a server's numbers (how long a request was) differ each time
    for start in range(0, len(todo), judge.at_once):
        some = todo[start : start + judge.at_once]
        judgements = judge.judge(some)
        notes.keep(judgements)
        with store.transaction():
            for judgement in judgements:
                if judgement.ranking is None:
                    reason = reasons.setdefault(re.sub(r"\d+", "", judgement.problem), judgement.problem)
                    found.unranked[reason] += 1
                else:
                    _write(store, annotator, judgement)
                    found.ranked += 1
        if len(todo) > judge.at_once:
            print(f"  {start + len(some):,} of {len(todo):,} items", flush=True)
    return found


def _write(store: Store, annotator: Annotator, judgement: Judgement) -> None:
    """One judgement as an answer, its ranks in the order in which the item is shown."""
    assert judgement.ranking is not None
    task = store.task_of(annotator, judgement.item)  # not `next`: what a judge cannot rank must not hold up the rest
    store.answer(task.id, annotator, ranking=[judgement.ranking[index] for index in task.order])


def unsureness(items: Mapping[str, Rankable], said: Mapping[str, Judgement]) -> dict[str, float]:
    """How unsure one judge is of each item that it was given, 0 to 1."""
    unit = spread([found.distinct_scores(texts_of(items[key])) for key, found in said.items() if key in items])
    out = {}
    for key, judgement in said.items():
        if key not in items:
            continue
        if judgement.ranking is None:
            out[key] = UNRANKED
        elif judgement.scores is not None:
            out[key] = of_scores(judgement.scores, pairs_of(texts_of(items[key])), unit)
        else:
            out[key] = of_choices(judgement.shown, judgement.ranking)
    return out


def priorities(
    items: Mapping[str, Rankable],
    notes: Mapping[str, Mapping[str, Judgement]],
    ranked: Mapping[str, Sequence[list[int]]],
) -> dict[str, float]:
    """What to ask people first: an item's priority, from all that judges said of it.

    Args:
        items: by id.
        notes: each judge's judgements by item (`read_notes`).
        ranked: the judges' rankings of each item, those without notes included (merged from another file, say).
    """
    unsure: dict[str, list[float]] = {}
    for said in notes.values():
        for key, value in unsureness(items, said).items():
            unsure.setdefault(key, []).append(value)
    out = {}
    for key in unsure.keys() | (ranked.keys() & items.keys()):
        apart = disagreement(ranked.get(key, []), pairs_of(texts_of(items[key])))
        out[key] = round(priority(unsure.get(key, []), apart), 6)
    return out


@contextlib.contextmanager
def open_judge(args: FeedbackArguments, config: JudgeConfig, folder: Path) -> Iterator[Judge]:
    """The judge that was named, loaded or connected.

    Raises:
        ConfigError: its path or its server's settings cannot be used.
    """
    from align.judge.endpoint import Endpoint
    from align.judge.rankers import LocalJudge, PairwiseJudge, RewardJudge

    replies = folder / "replies.sqlite"
    if args.reward_model_path:
        yield RewardJudge(args.reward_model_path, tie=args.tie, batch_size=args.per_device_eval_batch_size)
    elif args.judge_model_path:
        local = LocalJudge(
            args.judge_model_path, replies, prompt=config.judge_prompt, max_new_tokens=config.judge_max_tokens,
            batch_size=args.per_device_eval_batch_size,
        )  # fmt: skip
        identity = _identity(local.chat.identity, local.template)
        yield PairwiseJudge(local, local.chat.name, identity, args.per_device_eval_batch_size)
    else:
        with Endpoint(config, replies) as endpoint:
            at_once = 16 * config.judge_workers  # the workers then seldom wait for the last of a batch
            yield PairwiseJudge(endpoint, endpoint.model, _identity(endpoint.model, endpoint.template), at_once)


def _identity(model: str, prompt: str) -> str:
    """A prompted judge is its model and its prompt; a server's address may change."""
    return f"{model}, prompt {hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def _one_judge(args: FeedbackArguments, config: JudgeConfig) -> None:
    """Raises ConfigError where not exactly one judge was named, or its folder is not there."""
    named = {
        "--reward_model_path": args.reward_model_path,
        "--judge_model_path": args.judge_model_path,
        "--judge_url": config.judge_url,
    }
    given = [flag for flag, value in named.items() if value]
    if len(given) != 1:
        what = f"{' and '.join(given)} were given" if given else "no judge was named"
        fail([f"{what}: give one of {', '.join(named)}"])
    if args.judge_model_path and (problem := parent_problem(args.judge_model_path, allow_hub=True)):
        fail([f"judge_model_path: {problem}"])


def main(argv: list[str]) -> None:
    """`align judge SOURCE`, with a judge: rank the items, set priorities, say what the rankings are worth."""
    args, config = parse(FeedbackArguments, JudgeConfig, nano=None, required=("source",), argv=argv)
    _one_judge(args, config)
    launch.check(launch.ONE_PROCESS)
    path = stored(args.source)
    folder = path.parent / "judges"
    with Store(path, create=False) as store:
        if not store.counts()["items"]:
            raise RunError(f"{path} holds no items; `align label <run of the sample recipe>` fills it")
        with open_judge(args, config, folder) as judge:
            name = args.judge_name or default_name(judge.name)
            annotator = store.annotator(name, kind="model")
            notes = Notes(folder, annotator.name, judge.identity)
            print(f"judge {annotator.name} ({judge.name}): ranks the items of {path}", flush=True)
            became = rank_items(store, judge, annotator, notes, most=args.max_items)
        said = read_notes(folder)
        items = {item["item"]: item for item in store.items()}
        ranked: dict[str, dict[str, list[int]]] = {}
        for row in store.rankings(kinds=["model"]):
            if row["ranking"] is not None and not row["repeat"]:
                ranked.setdefault(row["item"], {})[row["annotator"]] = row["ranking"]
        order = priorities(items, said, {key: list(found.values()) for key, found in ranked.items()})
        if args.prioritise:
            store.prioritise(order)
        print(worth.report(annotator.name, became, items, said.get(annotator.name, {}), list(store.rankings())))
        print(_asked_first(items, order, len({n for found in ranked.values() for n in found}), args.prioritise))


def default_name(model: str) -> str:
    """An annotator's name from a path or a hub id: its last two parts, `nano/reward`."""
    return "/".join(Path(model).parts[-2:]).strip("/")


def _asked_first(items: Mapping[str, Rankable], order: Mapping[str, float], judges: int, prioritised: bool) -> str:
    """What the priorities came to, with the first items in line."""
    if not order:
        return "priorities: no item has been ranked by a judge"
    asked = ": people are asked first about" if prioritised else " (not set: --no_prioritise); the first would be"
    lines = [f"priorities of {len(order):,} items, from {judges} judge{'s' if judges != 1 else ''}{asked}"]
    for key, value in sorted(order.items(), key=lambda pair: -pair[1])[:3]:
        prompt = items[key]["prompt"]
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        lines.append(f"  {value:.2f}  {' '.join(text.split())[:90]}")
    return "\n".join(lines)
