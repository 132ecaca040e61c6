"""Models that rank the completions of an item: a reward model by its scores, a prompted model pair by pair.

K completions of an item, of which those with the same text are ranked once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from align.data import text
from align.data.chat import reasoning
from align.judge.cache import Cache
from align.judge.chat_models import LocalChat, longest_input
from align.judge.choices import Judged, JudgeReport, Shown, both_orders, settle
from align.judge.protocol import read_choice, read_prompt, render
from align.judge.uncertainty import Pair, copeland, firsts, pairs_of, ranks

NO_CHOICE = "a pair whose replies held no usable choice"

Rankable = Mapping[str, Any]  # `item` (its id), `prompt`, `completions`


@dataclass
class Judgement:
    """What a judge said of one item. Without a `ranking` it could not rank it, and `problem` says why."""

    item: str
    ranking: list[int] | None = None  # [K], 1 is best
    scores: list[float] | None = None  # [K], a reward model's
    shown: dict[Pair, Shown] = field(default_factory=dict)  # a prompted judge's choices in both orders
    problem: str = ""

    def distinct_scores(self, texts: Sequence[str]) -> list[float]:
        """The scores of the completions with different texts; none where there are no scores."""
        return [self.scores[index] for index in sorted(set(firsts(texts)))] if self.scores is not None else []

    def note(self) -> dict[str, Any]:
        """As JSON."""
        shown = [[*pair, *seen] for pair, seen in self.shown.items()]
        return {"item": self.item, "ranking": self.ranking, "scores": self.scores, "shown": shown,
                "problem": self.problem}  # fmt: skip

    @classmethod
    def read(cls, note: Mapping[str, Any]) -> Judgement:
        """Back from JSON."""
        shown = {(i, j): (first, second) for i, j, first, second in note["shown"]}
        return cls(note["item"], note["ranking"], note["scores"], shown, note["problem"])


class Judge(Protocol):
    """Whatever ranks items."""

    name: str
    identity: str  # tells two judges of one name apart: a hash of the weights, or the model and its prompt
    at_once: int  # items that are judged together

    def judge(self, items: Sequence[Rankable]) -> list[Judgement]:
        """One judgement an item, in their order."""


def texts_of(item: Rankable) -> list[str]:
    """The completions of an item, or of a row that has some, as texts without their reasoning: [K]."""
    return [text.contents(reasoning.answer_of(completion), "\n\n") for completion in item["completions"]]


class RewardJudge:
    """A reward model: its scores, sorted.

    Args:
        path: checkpoint with a score head, whole or an adapter.
        tie: largest difference of scores that is a tie, in the model's own unit.
        batch_size: sequences at once.

    Raises:
        ConfigError: if it is no reward model.
    """

    def __init__(self, path: str, *, tie: float, batch_size: int):
        from align.models import checkpoints
        from align.run.lineage import identity

        checkpoints.check(path, reward_model=True)
        self.name, self.identity = path, identity(path)
        self.tokenizer = checkpoints.load_tokenizer(path)
        self.model = checkpoints.load_trained(path, self.tokenizer, reward_model=True)
        self.tie, self.batch_size = tie, batch_size
        self.at_once = 4 * batch_size  # sequences of like length then share a batch
        self.longest = longest_input(self.model)

    def judge(self, items: Sequence[Rankable]) -> list[Judgement]:
        """See `Judge.judge`. Nothing is truncated: an item with a sequence that the model cannot read is not ranked."""
        from align.models import heads

        encoded = [self._encode(item) for item in items]
        flat = [ids for found in encoded if not isinstance(found, str) for ids in found]
        scored = iter(
            heads.scores(self.model, flat, pad_id=self.tokenizer.pad_token_id, batch_size=self.batch_size).tolist()
        )
        out = []
        for item, found in zip(items, encoded, strict=True):
            if isinstance(found, str):
                out.append(Judgement(item["item"], problem=found))
                continue
            scores = [next(scored) for _ in found]
            if any(score != score or abs(score) == float("inf") for score in scores):
                out.append(Judgement(item["item"], problem="a score is not a finite number"))
            else:
                out.append(Judgement(item["item"], ranks(scores, self.tie), [round(score, 6) for score in scores]))
        return out

    def _encode(self, item: Rankable) -> list[list[int]] | str:
        """Token ids of the prompt with each completion, or why there are none."""
        from align.data import chat

        try:
            rows = [
                sum(chat.encode_pair(self.tokenizer, item["prompt"], c, read=True, **chat.beside(item)), [])
                for c in item["completions"]
            ]
        except chat.TemplateError as error:
            return f"unusable ({error})"
        if self.longest is not None and max(map(len, rows)) > self.longest:
            return f"longer than the model's {self.longest} tokens"
        return rows


class Comparer(Protocol):
    """Whatever says which of two completions is better, in both orders: `Endpoint`, or `LocalJudge`."""

    def compare(self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str]) -> Judged:
        """Judge N pairs; `shown` of the result has both orders' choices."""


class PairwiseJudge:
    """A prompted judge: all K(K-1)/2 pairs of an item, each in both orders, and the wins counted (Copeland's rule).

    Args:
        comparer: asks for the choices, and keeps them on disk.
        at_once: items that are judged together.
    """

    def __init__(self, comparer: Comparer, name: str, identity: str, at_once: int):
        self.comparer, self.name, self.identity, self.at_once = comparer, name, identity, at_once

    def judge(self, items: Sequence[Rankable]) -> list[Judgement]:
        """See `Judge.judge`. One pair without a choice, and the item is not ranked."""
        texts = [texts_of(item) for item in items]
        asked = [(at, pair) for at, found in enumerate(texts) for pair in pairs_of(found)]
        said = self.comparer.compare(
            [items[at]["prompt"] for at, _ in asked],
            [texts[at][i] for at, (i, _) in asked],
            [texts[at][j] for at, (_, j) in asked],
        )
        seen: list[dict[Pair, Shown]] = [{} for _ in items]
        problems = [""] * len(items)
        for (at, pair), shown, problem in zip(asked, said.shown, said.problems, strict=True):
            if shown is None:
                problems[at] = problems[at] or problem or NO_CHOICE
            else:
                seen[at][pair] = shown
        out = []
        for item, found, problem in zip(items, seen, problems, strict=True):
            if problem:
                out.append(Judgement(item["item"], shown=found, problem=problem))
                continue
            wins = copeland(len(item["completions"]), {pair: settle(shown) for pair, shown in found.items()})
            ranking = ranks([wins[first] for first in firsts(texts_of(item))])
            out.append(Judgement(item["item"], ranking, shown=found))
        return out


class LocalJudge:
    """A chat model here, asked as a server would be: the same prompt, both orders, replies kept on disk.

    Args:
        path: checkpoint.
        cache: the file of replies; the next run with the same file asks only what is new.
        prompt: a file with the judge's prompt, or None for the built-in one.
        max_new_tokens: longest reply.
        batch_size: questions at once.
    """

    def __init__(self, path: str, cache: Path, *, prompt: str | None, max_new_tokens: int, batch_size: int):
        self.chat = LocalChat(path, max_new_tokens=max_new_tokens, temperature=0.0, batch_size=batch_size)
        self.template = read_prompt(prompt)
        self.cache = Cache(cache)

    def compare(self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str]) -> Judged:
        """See `Endpoint.compare`. A malformed reply is not asked for again: the most likely tokens stay the same."""
        questions: dict[str, str] = {}
        keys: list[Shown | None] = []
        for prompt, x, y in zip(prompts, a, b, strict=True):
            pair = [render(self.template, prompt, *order) for order in ((x, y), (y, x))]
            names = [self._key(question) for question in pair]
            questions.update(zip(names, pair, strict=True))
            keys.append((names[0], names[1]))
        known = self.cache.known(questions)
        missing = [key for key in questions if key not in known]
        problems: dict[str, str] = {}
        for start in range(0, len(missing), self.chat.at_once):
            some = missing[start : start + self.chat.at_once]
            replies = self.chat.say([[{"role": "user", "content": questions[key]}] for key in some], [0] * len(some))
            for key, reply in zip(some, replies, strict=True):
                found = read_choice(reply.text or "")
                if reply.problem:
                    problems[key] = reply.problem
                self.cache.keep(key, self.chat.name, found, reply.text or "", {})
        said = known | self.cache.known(missing)
        return both_orders(keys, said, problems, JudgeReport(malformed=len(questions) - len(said), cached=len(known)))

    def _key(self, question: str) -> str:
        ingredients = [self.chat.identity, self.chat.max_new_tokens, question]
        return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()
