"""A model that one can talk to: what it reads of a conversation, and its answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.data import chat
from align.data.chat.set_up import PLAIN_TEMPLATE
from align.models import adapters, checkpoints, generate, heads
from align.models.generate import Completion
from align.run import lineage
from align.run.errors import ConfigError
from align.run.received import files
from align.talk.config import ChatConfig

Turns = list[dict[str, str]]  # role and content


class Speaker:
    """A frozen model under a name."""

    def __init__(self, name: str, model: Any, tokenizer: Any, goes_on: bool):
        """`goes_on`: it is no assistant, but goes on with a text."""
        self.name, self.model, self.tokenizer, self.goes_on = name, model, tokenizer, goes_on
        self.stops = chat.stop_ids(tokenizer, model.generation_config)
        # tokens that it reads at most; None where its configuration names no end
        self.room = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def answer(
        self, turns: Turns, *, temperature: float, max_new_tokens: int, seed: int, number: int
    ) -> Iterator[Completion]:
        """The answer to a conversation, again and again with one token more; at most as many as the model has room for.

        Args:
            turns: up to the user's last one; of a model that goes on with a text, only that is read.
            number: of this answer among those of `seed`: the same number draws the same.

        Raises:
            TemplateError: where the model's template refuses the conversation.
            ConfigError: where the conversation leaves no room in the model.
        """
        prompt = chat.encode_prompt(self.tokenizer, turns[-1]["content"] if self.goes_on else turns)
        longest = min(max_new_tokens, self._left(len(prompt), max_new_tokens))
        noise = generate.uniform(seed, [number], max_new_tokens)[:, :longest]
        ids: list[int] = []
        for drawn in generate.stream(
            self.model, [prompt], self.stops, self.tokenizer.pad_token_id, longest, temperature, noise
        ):
            ids = [*ids, *(token for _, token in drawn)]
            yield generate.as_completion(prompt, ids, self.stops, self.tokenizer)

    def _left(self, prompt: int, wanted: int) -> int:
        """Tokens that may follow so many."""
        if self.room is None:
            return wanted
        if prompt >= self.room:
            raise ConfigError(
                f"{self.name} reads {self.room:,} tokens at most, and the conversation has {prompt:,}: begin anew "
                "(/reset)"
            )
        return self.room - prompt


def load(args: ChatConfig) -> list[Speaker]:
    """The models that `args` names.

    Raises:
        ConfigError: for a reward model, or what holds no model.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    for path in args.models:
        checkpoints.check(path)
        _check_speaks(path)
    names = _names(args.models)
    found = []
    for path, name in zip(args.models, names, strict=True):
        tokenizer = checkpoints.load_tokenizer(path)
        goes_on = args.prompt_format == "text" or (args.prompt_format == "auto" and _goes_on(path, tokenizer))
        found.append(Speaker(name, checkpoints.load_trained(path, tokenizer), tokenizer, goes_on))
    return found


def how(speaker: Speaker) -> str:
    """What it does with what one says: ends a sentence that its name begins."""
    return "goes on with what you type, as a base model does" if speaker.goes_on else "answers"


def notes(found: list[Speaker]) -> list[str]:
    """What is to be known of several models next to each other."""
    if len({speaker.tokenizer.backend_tokenizer.to_str() for speaker in found}) > 1:
        return ["they have different tokenizers: each reads the conversation through its own"]
    return []


def _names(paths: list[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [Path(path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return paths


def _check_speaks(path: str) -> None:
    """Is it a language model?

    Raises:
        ConfigError: where it gives scores.
    """
    adapter = adapters.located(path)
    if adapter is not None:
        kinds = [str(adapters.settings(adapter).get("task_type"))]
    else:
        file = heads.file_of(path, "config.json", "main")
        kinds = (files.parsed(file.read_bytes()).get("architectures") or []) if file else []
    if any(kind == "SEQ_CLS" or "SequenceClassification" in kind for kind in kinds):
        raise ConfigError(
            f"{path} is a reward model: it gives one score, and says nothing; talk to the model that it judges"
        )


def _goes_on(path: str, tokenizer: Any) -> bool:
    """Was a model trained on plain text alone, by its record? Without one: does its tokenizer come without template?"""
    record = lineage.read_record(path)
    if record and record.get("recipe") == "pretrain":
        return True
    forms = ((record or {}).get("data") or {}).get("train", {}).get("prompts")
    if isinstance(forms, dict) and forms:
        return set(forms) == {"text"}
    return tokenizer.chat_template == PLAIN_TEMPLATE
