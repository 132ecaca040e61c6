"""One frozen policy on held-out prompts: sample, score, and measure its distance from the reference.

The same estimators serve every method. Reward and gold score are of completions sampled at the configured temperature;
KL is summed over a model's own completions (`generate.sequence_statistics`). Every completion is written down with its
numbers, and what has been measured once is not measured again.

N prompts, K completions per prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from align import stats
from align.data import splits, text
from align.evaluate.config import MeasureArguments
from align.evaluate.measures.texts import distinct, repetition
from align.evaluate.results import Sampled
from align.models import adapters, checkpoints, generate, scorers
from align.run import lineage
from align.run.errors import ConfigError, RunError
from align.stats import Estimate
from align.train import reward

Rows = list[dict[str, Any]]
SCORES = ("reward", "gold", "second")
DECIDE = ("second", "gold", "reward")  # the first that is there has the last word
FEW = 16  # prompts that show what rounding makes


class Bench:
    """What every policy is measured with: tokenizer, prompts, scorers and the reference, loaded once."""

    def __init__(self, args: MeasureArguments, tokenizer: Any, rows: Rows, reference: str):
        self.args, self.tokenizer, self.rows, self.reference_path = args, tokenizer, rows, reference
        self.prompts = [list(row["input_ids"]) for row in rows]
        self.graders = _graders(args, tokenizer)
        self.reference = self._load(reference)
        self.rates = scorers.load_function(args.rates_func) if args.rates_func else None
        self.grader_ids = [lineage.identity(path) for path in (args.reward_model_path, args.gold_model_path) if path]
        self.grader_ids += [
            _function_id(where) for where in (args.gold_func, args.second_func, args.rates_func) if where
        ]
        self.fingerprint = splits.fingerprint(rows)

    def load(self, path: str) -> Any:
        """A policy that can be compared with the reference.

        Raises:
            ConfigError: where its vocabulary is another one.
        """
        checkpoints.check(path)
        own = checkpoints.load_tokenizer(path, beside=self.tokenizer)
        if own.get_vocab() != self.tokenizer.get_vocab():
            raise ConfigError(f"{path} has another vocabulary than {self.reference_path}: no KL between them exists")
        if own.chat_template != self.tokenizer.chat_template:
            print(f"note: {path} has another chat template; every model is asked in that of {self.reference_path}")
        return self._load(path)

    def _load(self, path: str) -> Any:
        """In the one dtype that all models are measured in, whole or an adapter: a model's KL to itself is then 0."""
        try:
            return checkpoints.load_trained(path, self.tokenizer, dtype=getattr(torch, self.args.dtype))
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{path} does not fit beside the others in {self.args.dtype}; give --dtype bfloat16, which then holds "
                "for policies and reference alike, or a GPU with more memory"
            ) from error

    def answer(self, policy: Any, *, temperature: float, copies: int, seed: int) -> list[list[generate.Completion]]:
        """`copies` completions of every prompt."""
        found = generate.complete(
            policy, self.tokenizer, self.prompts, max_new_tokens=self.args.max_new_tokens, temperature=temperature,
            per_prompt=copies, batch_size=max(1, self.args.per_device_eval_batch_size // copies), seed=seed,
        )  # fmt: skip
        by_prompt = dict(found)
        return [by_prompt[i] for i in range(len(self.prompts))]

    def rounding(self) -> list[str]:
        """A note on the KL that rounding alone makes where the reference is an adapter in less than fp32.

        It lies beside its base, while a run that started from it has both merged. Measured on `FEW` prompts.
        """
        if self.args.dtype == "float32" or not adapters.is_adapter(self.reference_path):
            return []
        merged = checkpoints.load_trained(self.reference_path, self.tokenizer, dtype=torch.float32)
        some, size = self.prompts[:FEW], self.args.per_device_eval_batch_size
        settings: dict[str, Any] = {"temperature": self.args.temperature, "batch_size": size}
        answers = dict(generate.complete(self.reference, self.tokenizer, some, max_new_tokens=self.args.max_new_tokens,
                                         seed=self.args.seed, **settings))  # fmt: skip
        said = [answers[i][0].ids for i in range(len(some))]
        found = generate.sequence_statistics(
            merged.to(self.reference.dtype), self.reference, some, said, pad_id=self.tokenizer.pad_token_id, **settings
        )
        return [
            f"Rounding alone: in {self.args.dtype} the reference, an adapter, is {found['kl'].mean():.2g} nats a "
            "sequence from itself merged, as runs that start from it have it; a KL of that size says nothing."
        ]

    def answer_ids(self, completion: generate.Completion) -> list[int]:
        """The tokens of the answer alone: all that was sampled, unless the model reasoned first."""
        if not completion.reasoning:
            return completion.ids
        return list(self.tokenizer(completion.text, add_special_tokens=False)["input_ids"])

    def score(self, rows: Rows, completions: list[generate.Completion]) -> dict[str, list[float]]:
        """Each grader's score of each completion."""
        return {name: grader.score(rows, completions) for name, grader in self.graders.items()}


def decides(scored: Any) -> str | None:
    """Which score has the last word, among those that a measured row (or anything else with these keys) has."""
    return next((key for key in DECIDE if key in scored), None)


def _graders(args: MeasureArguments, tokenizer: Any) -> dict[str, scorers.Scorer]:
    """`reward`, `gold` and `second`, those that were asked for."""

    def model_grader(path: str) -> scorers.Scorer:
        checkpoints.check(path, reward_model=True)
        return scorers.of_checkpoint(path, tokenizer, batch_size=args.per_device_eval_batch_size)

    found = {}
    if args.reward_model_path:
        found["reward"] = model_grader(args.reward_model_path)
    if args.gold_model_path:
        found["gold"] = model_grader(args.gold_model_path)
    if args.gold_func:
        found["gold"] = scorers.from_function(args.gold_func)
    if args.second_func:
        found["second"] = scorers.from_function(args.second_func)
    return found


def measure(bench: Bench, path: str, *, seed: int = 0) -> Rows:
    """Sample from one policy and measure every completion.

    Returns:
        N x K rows, a prompt's next to each other: `index` of the prompt, `prompt`, `completion`, `stopped`, `length`
        (tokens of the answer), `tokens` (of all that was sampled), `kl`, `entropy`, `logps`, `ref_logps` (nats a
        sequence), `repetition`, the scores, and under `greedy` and `rates` the most likely completion and what the
        yes/no graders say of it, where they were asked.
    """
    policy = bench.load(path)
    copies = bench.args.num_generations
    answers = bench.answer(policy, temperature=bench.args.temperature, copies=copies, seed=seed)
    flat = [completion for found in answers for completion in found]
    where = [index for index, found in enumerate(answers) for _ in found]
    measured = generate.sequence_statistics(
        policy, bench.reference, [bench.prompts[i] for i in where], [c.ids for c in flat],
        pad_id=bench.tokenizer.pad_token_id, temperature=bench.args.temperature,
        batch_size=bench.args.per_device_eval_batch_size,
    )  # fmt: skip
    scores = bench.score([bench.rows[i] for i in where], flat)
    rows = [
        {
            "index": index,
            "prompt": text.contents(bench.rows[index]["prompt"]),
            "completion": completion.text,
            "stopped": completion.stopped,
            "length": len(answer),
            "tokens": len(completion.ids),
            "repetition": repetition(answer),
            **{name: round(float(values[at]), 6) for name, values in measured.items()},
            **{name: values[at] for name, values in scores.items()},
        }
        for at, (index, completion, answer) in enumerate(zip(where, flat, map(bench.answer_ids, flat), strict=True))
    ]
    if bench.rates is not None:
        _grade(bench, policy, rows, copies)
    return rows


def _grade(bench: Bench, policy: Any, rows: Rows, copies: int) -> None:
    """Add the most likely completion and its yes/no grades to each prompt's first row."""
    assert bench.rates is not None
    greedy = [found[0] for found in bench.answer(policy, temperature=0.0, copies=1, seed=0)]
    grades = scorers.call(bench.rates, bench.rows, greedy)
    if len(grades) != len(greedy):
        raise RunError(f"{bench.args.rates_func} gave {len(grades)} grades for {len(greedy)} completions")
    for index, (completion, said) in enumerate(zip(greedy, grades, strict=True)):
        rows[index * copies] |= {"greedy": completion.text, "rates": said}


def by_prompt(rows: Rows, key: str) -> np.ndarray:
    """Mean of `key` over a prompt's completions: [N], NaN where it is missing."""
    sums: dict[int, list[float]] = {}
    for row in rows:
        value = row.get(key)
        sums.setdefault(row["index"], []).append(float("nan") if value is None else float(value))
    return np.array([np.mean(sums[index]) for index in sorted(sums)])


def summary(rows: Rows) -> Sampled:
    """Estimates over prompts of everything that `measure` wrote down."""
    tokens = by_prompt(rows, "tokens")  # reasoning included
    texts = [row["completion"] for row in rows]

    def varied(n: int) -> Estimate | None:
        share = distinct(texts, n)
        return None if share is None else Estimate(share, None, None, len(texts))

    def mean(key: str) -> Estimate | None:
        return stats.mean(by_prompt(rows, key)) if key in rows[0] else None

    # of a handful of prompts that all stop, a bootstrap would be certain
    stops = reward.by_prompt(torch.tensor([float(row["stopped"]) for row in rows]), [row["index"] for row in rows])
    return Sampled(
        reward=mean("reward"), gold=mean("gold"), second=mean("second"), kl=mean("kl"),
        kl_per_token=stats.ratio(by_prompt(rows, "kl"), tokens),
        entropy=stats.ratio(by_prompt(rows, "entropy"), tokens),
        length=mean("length"), stops=stops, distinct_1=varied(1), distinct_2=varied(2),
        repetition=mean("repetition"), n=len(tokens),
    )  # fmt: skip


def rates(rows: Rows) -> dict[str, Estimate]:
    """Each yes/no grade's share of yes among the completions that it applies to, with an interval over prompts."""
    graded = [row for row in rows if "rates" in row]
    names = dict.fromkeys(name for row in graded for name in row["rates"])
    found = {}
    for name in names:
        told = [(row["rates"][name], row["index"]) for row in graded if row["rates"].get(name) is not None]
        if told:
            values, prompts = zip(*told, strict=True)
            found[name] = reward.by_prompt(torch.tensor(values, dtype=torch.float), list(prompts))
    return found


def cached(bench: Bench, path: str, name: str, *, seed: int = 0) -> Rows:
    """`measure`, kept in `<output_dir>/completions/<name>.jsonl` and read from there while model and settings last; or
    from where another run measured the same (`--measured`)."""
    file = Path(str(bench.args.output_dir)) / "completions" / f"{name}.jsonl"
    asked = {key: value for key, value in asdict(bench.args).items() if key in MEASURE_KEYS}
    ingredients = [
        lineage.identity(path),
        lineage.identity(bench.reference_path),
        asked,
        seed,
        bench.prompts,
        bench.grader_ids,
    ]
    ingredients += [bench.fingerprint, "tokens"]  # rows of an earlier version have no such column
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    if rows := _kept(file, key):
        return rows
    others = [found for folder in bench.args.measured for found in sorted(Path(folder).glob("completions/*.jsonl"))]
    rows = next(filter(None, (_kept(one, key) for one in others)), None) or measure(bench, path, seed=seed)
    write_rows(file, [{"key": key, "path": path}, *rows])
    return rows


def _kept(file: Path, key: str) -> Rows | None:
    """The rows of a file that were measured under this key."""
    if not file.is_file():
        return None
    with file.open() as lines:
        if json.loads(next(lines, "{}")).get("key") != key:
            return None
        return [json.loads(line) for line in lines]


MEASURE_KEYS = ("num_generations", "max_new_tokens", "temperature", "dtype")


def _function_id(where: str) -> str:
    """A user's function by its name, and by the text of its file and of what that imports."""
    return f"{where} {lineage.parents({'reward_func': where})['reward_func']['hash']}"


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    part.replace(file)
