"""Where the reward comes from: a reward model, Python functions, or a weighted mix, normalised on the reference."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data import chat
from align.run.errors import ConfigError, RunError, one_sentence

Function = Callable[..., list[float]]


@dataclass
class Scorer:
    """One reward: its name in the logs, its weight, and a function of episodes' rows and completions."""

    name: str
    weight: float
    score: Callable[[list[dict], list[Any]], list[float]]
    long_name: str = ""  # where several have one name


def load_function(where: str) -> Function:
    """`file.py:name` or `package.module:name` to the function.

    Raises:
        ConfigError: if there is no such file, module or function.
    """
    place, colon, name = where.rpartition(":")
    if not colon:
        raise ConfigError(f"reward function {where!r}: write file.py:name or package.module:name")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise ConfigError(f"reward function {where!r}: {place} is not there")
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None, place
            module = importlib.util.module_from_spec(spec)
            with one_sentence(f"reward function {where!r}: its file cannot be read"):
                spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (ImportError, SyntaxError, NameError) as error:
        raise ConfigError(f"reward function {where!r}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise ConfigError(f"reward function {where!r}: {place} has no function {name}; it has {', '.join(known)}")
    return function


OURS = ("prompts", "completions", "stopped")  # what a function gets from us, and not from a row's columns of that name


def call(function: Callable[..., list], rows: list[dict], completions: list[Any]) -> list:
    """Call a user's function as TRL's GRPO does: lists, one entry an episode, the rows' other columns by name.

    A completion is the answer without its reasoning. A column that some rows lack is None there. A function that names
    its arguments, without `**kwargs`, gets those.

    Raises:
        RunError: if it asks for a column that the rows do not have, or raises an error of its own.
    """
    names = dict.fromkeys(key for row in rows for key in row if key not in ("prompt", "input_ids", *OURS))
    columns = {key: [row.get(key) for row in rows] for key in names}
    said = [
        c.text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": c.text}]
        for row, c in zip(rows, completions, strict=True)
    ]
    prompts, stopped = [row["prompt"] for row in rows], [c.stopped for c in completions]
    given = {"prompts": prompts, "completions": said, "stopped": stopped, **columns}
    takes = inspect.signature(function).parameters.values()
    if missing := [
        p.name for p in takes
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given
    ]:  # fmt: skip
        raise RunError(
            f"the function {getattr(function, '__name__', function)} asks for {', '.join(missing)}, which the rows do "
            f"not have; it can have {', '.join(given)}"
        )
    if not any(p.kind is p.VAR_KEYWORD for p in takes):
        given = {name: given[name] for name in (p.name for p in takes) if name in given}
    with one_sentence(f"the function {getattr(function, '__name__', function)} failed", kind=RunError):
        return function(**given)


def from_function(where: str, weight: float = 1.0) -> Scorer:
    """A user's function as a scorer. It gets what TRL's GRPO gives one: lists, one entry an episode.

    `prompts` are as in the rows (text, or messages), `completions` are text or, for messages, one assistant message;
    every other column of the rows comes by its name, and so does `stopped` (did the answer end by itself?).
    """
    function = load_function(where)

    def score(rows: list[dict], completions: list[Any]) -> list[float]:
        found = call(function, rows, completions)
        if not hasattr(found, "__len__") or isinstance(found, (str, dict)):
            raise RunError(f"{where} gave {type(found).__name__}; it must give a list of one number a completion")
        try:
            values = [float(value) for value in found]
        except (TypeError, ValueError) as error:
            odd = next((v for v in found if not isinstance(v, (int, float))), found)
            raise RunError(f"{where} gave {odd!r} as a reward; it must give a number for every completion") from error
        if len(values) != len(rows):
            raise RunError(f"{where} gave {len(values)} rewards for {len(rows)} completions; it must give one each")
        return values

    place, _, name = where.rpartition(":")
    return Scorer(name, weight, score, f"{Path(place).stem}.{name}")


def from_model(
    scores: Callable[[list[list[int]]], list[float]], tokenizer: Any, own_tokenizer: Any, weight: float = 1.0
) -> Scorer:
    """A reward model as a scorer.

    Args:
        scores: token ids of whole sequences, in the reward model's vocabulary, to one score each.
        tokenizer: the policy's.
        own_tokenizer: the reward model's. Where vocabulary and template are the policy's, it reads the very tokens that
            were sampled; elsewhere, and where the policy reasoned before it answered, it reads the answer's text again,
            in its own template and with its own stop token.
    """
    direct = (
        tokenizer.get_vocab() == own_tokenizer.get_vocab()
        and tokenizer.chat_template == own_tokenizer.chat_template
        and tokenizer.eos_token_id == own_tokenizer.eos_token_id
    )

    def encode(row: dict, completion: Any) -> list[int]:
        if direct and not completion.reasoning:
            return [*row["input_ids"], *completion.ids]
        prompt = row["prompt"]
        said = completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        return sum(chat.encode_pair(own_tokenizer, prompt, said, read=True, **chat.beside(row)), [])

    def score(rows: list[dict], completions: list[Any]) -> list[float]:
        return scores([encode(row, completion) for row, completion in zip(rows, completions, strict=True)])

    return Scorer("reward_model", weight, score)


def of_checkpoint(path: str, tokenizer: Any, *, batch_size: int) -> Scorer:
    """A reward model, loaded here and frozen, that scores answers of the model that `tokenizer` belongs to."""
    from align.models import checkpoints, heads

    own = checkpoints.load_tokenizer(path, beside=tokenizer)
    model = checkpoints.load_trained(path, own, reward_model=True)

    def scores(rows: list[list[int]]) -> list[float]:
        return heads.scores(model, rows, pad_id=own.pad_token_id, batch_size=batch_size).tolist()

    return from_model(scores, tokenizer, own)


def for_trl(scorer: Scorer, tokenizer: Any, generation_config: Any) -> Function:
    """A scorer as a reward function of TRL's trainers, which reads what it reads everywhere else.

    Given the model, they would render the whole conversation for it: with the reasoning, a stop token after an answer
    that was cut, and what a template writes after it (Qwen's newline), so that another token than the last is scored.
    """
    from align.models import generate

    stops = chat.stop_ids(tokenizer, generation_config)

    def reward_model(
        prompts: list, completion_ids: list[list[int]], tools: list | None = None, **_: Any
    ) -> list[float]:
        offered = tools or [None] * len(prompts)
        asked = [chat.encode_prompt(tokenizer, p, tools=t) for p, t in zip(prompts, offered, strict=True)]
        rows = [{"prompt": p, "input_ids": i, "tools": t} for p, i, t in zip(prompts, asked, offered, strict=True)]
        said = [generate.as_completion(i, ids, stops, tokenizer) for i, ids in zip(asked, completion_ids, strict=True)]
        return scorer.score(rows, said)

    return reward_model


def _names(scorers: list[Scorer]) -> list[str]:
    """A name for each: its own; where several share it, with the file's before it; where those do too, numbered."""
    alone = Counter(scorer.name for scorer in scorers)
    names = [scorer.name if alone[scorer.name] == 1 else scorer.long_name or scorer.name for scorer in scorers]
    shared = Counter(names)
    return [name if shared[name] == 1 else f"{name}-{names[:at].count(name) + 1}" for at, name in enumerate(names)]


@dataclass
class Reward:
    """All scorers together, and the scale measured on the reference's samples."""

    scorers: list[Scorer]
    mean: float = 0.0
    std: float = 1.0
    clip: float | None = None

    def raw(self, rows: list[dict], completions: list[Any]) -> tuple[list[float], dict[str, list[float]]]:
        """The weighted sum for each episode, and each scorer's own scores.

        Raises:
            RunError: for a reward that is not a number, naming the scorer and the completion.
        """
        names = _names(self.scorers)
        each = {name: one.score(rows, completions) for name, one in zip(names, self.scorers, strict=True)}
        for name, values in each.items():
            for value, completion in zip(values, completions, strict=True):
                if not math.isfinite(value):
                    raise RunError(f"the reward {name} is {value} for the completion {completion.text[:80]!r}")
        weights = [scorer.weight for scorer in self.scorers]
        totals = [sum(w * v for w, v in zip(weights, one, strict=True)) for one in zip(*each.values(), strict=True)]
        return totals, each

    def fit(self, scores: list[float]) -> None:
        """Take mean and spread of the reference's samples as the scale.

        Raises:
            RunError: where all scores are the same.
        """
        import torch

        found = torch.tensor(scores)
        self.mean, self.std = found.mean().item(), found.std().item()
        if not self.std > 1e-6:
            raise RunError(
                f"the reward gives every one of the {len(scores)} samples of the reference the same score "
                f"({self.mean:.4g}), so there is nothing to learn from; "
                "check the reward, raise temperature, or give --normalize_reward false"
            )

    def normalised(self, raw: float) -> float:
        """(raw - mean) / std, clipped."""
        value = (raw - self.mean) / self.std
        return value if self.clip is None else min(max(value, -self.clip), self.clip)
