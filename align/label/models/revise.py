"""Critique and revise sampled answers by a constitution, as more completions to rank and as demonstrations.

    align revise runs/mine/sample --model_name_or_path Qwen/Qwen3-0.6B --output_dir runs/mine/revised
    align revise runs/mine/sample --judge_url http://localhost:8000/v1 --judge_model Qwen/Qwen3-8B --output_dir …
    align label runs/mine/revised                                          # people rank them, sources hidden

Then the sft recipe with --dataset_name runs/mine/revised/sft: the first half of constitutional AI.

What is written: `data/`, the prompts with all completions as the sample recipe writes them; `sft/`, each prompt with
its last revision; `revisions/`, every step, for people to read. One line is kept per prompt as it is done, and a
server's replies as they come: the same command goes on where an interrupted one was.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from align.data import splits
from align.data.forms import schemas
from align.judge.chat_models import Chat, LocalChat, ServerChat, seed_of
from align.judge.protocol import JudgeConfig
from align.judge.rankers import texts_of
from align.label.models import constitution, revision_files
from align.label.models.constitution import Principle
from align.label.models.critique import Chain, Done, Work, advance
from align.label.store.items import MOST
from align.label.store.notes import read_lines
from align.label.store.rows import REPEATS, SHARED_BY
from align.label.store.source import stored
from align.label.store.store import Store
from align.run import launch, lineage, record
from align.run.arguments import CodeArguments, DataArguments, RunArguments
from align.run.errors import DataError, RunError, fail, recipe
from align.run.lineage import parent_problem
from align.run.parse import parse, resolved


@dataclass
class ReviseArguments(RunArguments, CodeArguments):
    """What `align revise` takes beside the endpoint's flags. Either a model here or a server is named."""

    source: str | None = field(default=None, metadata={"help": "Prompts with completions: a run of the sample recipe."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write."})
    constitution: str = field(default="recipes/constitution.yaml", metadata={"help": "The principles (YAML)."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "A chat model that is loaded here."})
    completions_per_prompt: int = field(
        default=1,  # each costs two questions a revision
        metadata={"help": "How many of a prompt's differing completions are revised; drawn by the seed."},
    )
    revisions: int = field(
        default=1,  # each costs two questions more
        metadata={"help": "How many times in a row, each by another principle. Every revision joins the completions."},
    )
    max_new_tokens: int = field(default=512, metadata={"help": "Longest critique and longest answer; cut ones fail."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling; 0 takes the likeliest tokens."})
    max_prompts: int | None = field(default=None, metadata={"help": "At most so many prompts of each split."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Questions at once, of a model here."})
    label_dir: str | None = field(default=None, metadata={"help": "Labels that the rows are added to as well."})
    seed: int = field(default=0, metadata={"help": "Of what is drawn and sampled."})

    def __post_init__(self) -> None:
        problems = []
        for name in ("completions_per_prompt", "revisions", "max_new_tokens", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)}: at least 1")
        if self.max_prompts is not None and self.max_prompts < 1:
            problems.append(f"max_prompts={self.max_prompts}: at least 1, or leave it out")
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature={self.temperature}: 0 or more")
        if self.completions_per_prompt * (1 + self.revisions) > MOST:
            problems.append(
                f"completions_per_prompt={self.completions_per_prompt} with revisions={self.revisions} makes "
                f"{self.completions_per_prompt * (1 + self.revisions)} answers to rank; the most is {MOST}"
            )
        if problems:
            raise ValueError("; ".join(problems))


def _check(args: ReviseArguments, config: JudgeConfig) -> tuple[Principle, ...]:
    """Find what cannot work before anything is loaded. Returns the principles."""
    problems = []
    if bool(args.model_name_or_path) == bool(config.judge_url):
        problems.append("give one of --model_name_or_path (a model here) and --judge_url with --judge_model (a server)")
    if config.judge_prompt or config.judge_max_tokens != JudgeConfig().judge_max_tokens:
        problems.append("judge_prompt and judge_max_tokens are `align judge`'s; here: --constitution, --max_new_tokens")
    if problem := parent_problem(str(args.source), allow_hub=True):
        problems.append(f"source: {problem}")
    out = Path(str(args.output_dir)).absolute()
    for path in filter(None, (args.source, args.label_dir)):
        if Path(path).exists() and Path(path).absolute().is_relative_to(out):
            problems.append(f"output_dir {args.output_dir} holds {path}; name another folder")
    if args.label_dir:
        stored(args.label_dir)
    principles = constitution.load(args.constitution)
    if args.revisions > len(principles):
        problems.append(f"revisions={args.revisions}, but {args.constitution} has {len(principles)} principles")
    if problems:
        fail(problems)
    return principles


def load_rows(source: str, most: int | None) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split that is there.

    Raises:
        DataError: the first row without a prompt or completions.
    """
    found = {}
    for split, rows in splits.read(DataArguments(dataset_name=source), seed=0).items():
        if rows is None:
            continue
        found[split] = [dict(row) for row in rows.select(range(min(most or len(rows), len(rows))))]
        for number, row in enumerate(found[split], 1):
            said = row.get("completions")
            if not row.get("prompt") or not isinstance(said, list) or not said:
                raise DataError(
                    f"{source} ({split}), row {number}: needs a prompt and completions, has {', '.join(row)}; "
                    f"{recipe('sample')} makes them"
                )
            read = schemas.ranking(row, f"{source} ({split}), row {number}")
            row |= {name: read[name] for name in ("prompt", "completions")}  # a system prompt may stand beside them
    return found


def plan(row: dict[str, Any], index: int, split: str, principles: tuple[Principle, ...], args: Any) -> list[Work]:
    """Which of a prompt's completions are revised, and by what: drawn from the seed, the split and the row's index."""
    rng = random.Random(f"revise-{args.seed}-{split}-{index}")
    texts = texts_of(row)
    distinct = sorted({text: at for at, text in reversed(list(enumerate(texts))) if text.strip()}.values())
    works = []
    for at in sorted(rng.sample(distinct, min(args.completions_per_prompt, len(distinct)))):
        drawn = constitution.draw(principles, args.revisions, rng)
        works.append(Work(row["prompt"], Chain(at, texts[at]), drawn, seed_of(args.seed, split, index, at)))
    return works


def revise_split(
    chat: Chat, rows: list[dict[str, Any]], split: str, principles: tuple[Principle, ...], args: Any, part: Path
) -> Done:
    """Revise the rows that `part` does not hold yet, batch by batch, and add a line to it for each.

    A batch of which lines are missing, or in which something failed, is done again as a whole: what comes out is then
    what an uninterrupted run gives.
    """
    done: Done = {}
    for line in read_lines(part)[1:]:
        done[line["index"]] = [Chain(**chain) for chain in line["chains"]]
    for start in range(0, len(rows), chat.at_once):
        batch = range(start, min(start + chat.at_once, len(rows)))
        if all(index in done and not any(chain.problem for chain in done[index]) for index in batch):
            continue
        works = {index: plan(rows[index], index, split, principles, args) for index in batch}
        advance(chat, [work for found in works.values() for work in found])
        with part.open("a") as stream:
            stream.write("\n")  # ends the line that a kill may have cut
            for index, found in works.items():
                done[index] = [work.chain for work in found]
                chains = [asdict(chain) for chain in done[index]]
                stream.write(json.dumps({"index": index, "chains": chains}, ensure_ascii=False) + "\n")
        print(f"  {split}: {batch[-1] + 1:,} of {len(rows):,} prompts", flush=True)
    return done


def _open_part(folder: Path, split: str, settings: dict[str, Any]) -> Path:
    """The file of finished prompts. Its first line holds the settings; another run's is not gone on with.

    Raises:
        RunError: they differ.
    """
    part = folder / "data" / f".{split}.part"
    part.parent.mkdir(exist_ok=True)
    lines = read_lines(part)
    if lines and lines[0] != {"settings": settings}:
        raise RunError(
            f"{folder} holds an interrupted run with other rows, principles or settings; give those again to go on, or "
            "--overwrite to start anew"
        )
    if not lines:
        part.write_text(json.dumps({"settings": settings}) + "\n")
    return part


@contextlib.contextmanager
def open_chat(args: ReviseArguments, config: JudgeConfig, folder: Path) -> Iterator[Chat]:
    """The model that was named, loaded or connected; a server's replies are kept in `folder`."""
    if args.model_name_or_path:
        yield LocalChat(
            args.model_name_or_path, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
            batch_size=args.per_device_eval_batch_size,
        )  # fmt: skip
    else:
        from align.judge.endpoint import Endpoint

        with Endpoint(config, folder / "replies.sqlite") as endpoint:
            yield ServerChat(endpoint, max_new_tokens=args.max_new_tokens, temperature=args.temperature)


def main(argv: list[str]) -> None:
    """`align revise SOURCE --output_dir …`.

    Raises:
        RunError: no answer could be revised, or the server is down for good; the same command goes on from there.
    """
    args, config = parse(ReviseArguments, JudgeConfig, nano=None, required=("source", "output_dir"), argv=argv)
    principles = _check(args, config)
    launch.check(launch.ONE_PROCESS)
    splits = load_rows(args.source, args.max_prompts)
    folder = Path(args.output_dir)
    with record.start("revise", args.output_dir, resolved(args, config), overwrite=args.overwrite, resume=True) as run:
        run.note(parents=lineage.parents({"model": args.model_name_or_path, "data": args.source}))
        run.note(principles=[asdict(principle) for principle in principles])
        asked = sum(
            min(args.completions_per_prompt, len(row["completions"])) for rows in splits.values() for row in rows
        )
        print(f"at most {asked:,} answers, {args.revisions} revision(s) each: {2 * asked * args.revisions:,} questions")
        done = {}
        with open_chat(args, config, folder) as chat:
            for split, rows in splits.items():
                part = _open_part(folder, split, _settings(args, chat, principles, rows))
                done[split] = revise_split(chat, rows, split, principles, args, part)
        revised = {split: revision_files.write(folder, split, rows, done[split]) for split, rows in splits.items()}
        if not any(found.counts["revisions"] for found in revised.values()):
            reasons = {why for found in revised.values() for why in found.failed}
            raise RunError(f"no answer could be revised ({'; '.join(sorted(reasons))}); is this a chat model?")
        added = _add(args.label_dir, revised) if args.label_dir else None
        for part in (folder / "data").glob(".*.part"):
            part.unlink()
        run.finish("complete", metrics={split: found.metrics() for split, found in revised.items()})
    print(revision_files.report(folder, splits, done, revised, added))


def _settings(args: ReviseArguments, chat: Chat, principles: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a finished prompt depends on."""
    names = ("completions_per_prompt", "revisions", "max_new_tokens", "temperature", "seed")
    found = {name: getattr(args, name) for name in names}
    if args.model_name_or_path:
        found["batch"] = args.per_device_eval_batch_size
    principles = [list(asdict(principle).values()) for principle in principles]
    return found | {"model": chat.identity, "rows": splits.fingerprint(rows), "principles": principles}


def _add(label_dir: str, revised: dict[str, revision_files.Revised]) -> int:
    """Add the rows to labels that are there, wanted and repeated as often as those. Returns how many are new."""
    with Store(stored(label_dir), create=False) as store:
        shared_by, repeats = store.settings() or (SHARED_BY, REPEATS)
        with store.transaction():
            return sum(
                store.add(found.rows, split=split, shared_by=shared_by, repeats=repeats)
                for split, found in revised.items()
            )
