"""Complete many short conversations: with a chat model here, or with one behind an OpenAI-compatible server.

Both take conversations and give one reply each, so that whoever asks need not know which it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from align.data.chat import reasoning
from align.run.errors import RunError

if TYPE_CHECKING:
    from align.judge.endpoint import Endpoint

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Reply:
    """What came back, without reasoning. `text` is None where there is no usable reply, and `problem` then says why."""

    text: str | None
    problem: str = ""


class Chat(Protocol):
    """Whatever completes conversations. `name` is for people, `identity` tells two models of one name apart."""

    name: str
    identity: str
    at_once: int  # how many conversations are worth giving at a time

    def say(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[Reply]:
        """One reply for each conversation, in their order; the same list and seeds give the same replies."""


class LocalChat:
    """A causal language model with a chat template, whole or an adapter, loaded here.

    Args:
        path: checkpoint.
        max_new_tokens: longest reply; one that does not stop by then is not usable.
        temperature: 0 for the most likely token.
        batch_size: conversations at once.

    Raises:
        ConfigError: if the folder holds no model or no tokenizer.
    """

    def __init__(self, path: str, *, max_new_tokens: int, temperature: float, batch_size: int):
        from align.models import checkpoints
        from align.run.lineage import identity

        checkpoints.check(path)
        self.name, self.identity = path, identity(path)
        self.tokenizer = checkpoints.load_tokenizer(path)
        self.model = checkpoints.load_trained(path, self.tokenizer)
        self.max_new_tokens, self.temperature, self.at_once = max_new_tokens, temperature, batch_size
        self.longest = longest_input(self.model, max_new_tokens)
        if self.longest is not None and self.longest < 1:
            raise RunError(
                f"{path} reads {self.longest + max_new_tokens} tokens in all, which leaves no room for a question and "
                f"a reply of {max_new_tokens}; lower --judge_max_tokens (align judge), --max_new_tokens (align revise)"
            )

    def say(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[Reply]:
        """See `Chat.say`. A conversation that the model's context cannot hold gets no reply."""
        from align.data import chat
        from align.models import generate

        replies = [Reply(None)] * len(conversations)
        fits: list[tuple[int, list[int]]] = []
        for index, conversation in enumerate(conversations):
            try:
                ids = chat.encode_prompt(self.tokenizer, conversation)
            except chat.TemplateError as error:
                replies[index] = Reply(None, str(error))
                continue
            if self.longest is None or len(ids) <= self.longest:
                fits.append((index, ids))
            else:
                problem = (
                    f"the question is longer than the {self.longest} tokens that {self.name} can read beside a reply"
                )
                replies[index] = Reply(None, problem)
        done = generate.complete(
            self.model, self.tokenizer, [ids for _, ids in fits], max_new_tokens=self.max_new_tokens,
            temperature=self.temperature, batch_size=self.at_once, seed=seed_of(*seeds),
        )  # fmt: skip
        for position, (completion,) in done:
            index = fits[position][0]
            if not completion.stopped:
                replies[index] = Reply(None, f"the reply was cut at {self.max_new_tokens} tokens")
            elif not completion.text:
                replies[index] = Reply(None, "the reply was empty")
            else:
                replies[index] = Reply(completion.text)
        return replies


class ServerChat:
    """A model behind an OpenAI-compatible server, by way of the judge's connection, retries and cache.

    Args:
        endpoint: of the server; whoever made it closes it.
        max_new_tokens: longest reply; a cut one is not usable.
        temperature: of the server's sampling.
    """

    def __init__(self, endpoint: Endpoint, *, max_new_tokens: int, temperature: float):
        self.endpoint, self.max_new_tokens, self.temperature = endpoint, max_new_tokens, temperature
        self.name = self.identity = endpoint.model
        self.at_once = 4 * endpoint.config.judge_workers  # the workers then seldom wait for the last of a round

    def say(self, conversations: Sequence[Messages], seeds: Sequence[int]) -> list[Reply]:
        """See `Chat.say`: the same replies as far as the server honours `seed`, and always those in the cache.

        Raises:
            RunError: if the server refuses, or is down for good. What was answered is in the cache.
        """
        bodies = [self._body(*asked) for asked in zip(conversations, seeds, strict=True)]
        keys = [hashlib.sha256(body).hexdigest() for body in bodies]
        requests = dict(zip(keys, bodies, strict=True))
        said = self.endpoint.fetch(requests, lambda reply: reasoning.split(reply)[1].strip() or None, "replies")
        nothing = f"the reply was empty or cut at {self.max_new_tokens} tokens, twice"
        refused = self.endpoint.refused
        return [Reply(said[key]) if key in said else Reply(None, refused.get(key, nothing)) for key in keys]

    def _body(self, conversation: Messages, seed: int) -> bytes:
        request = {
            "model": self.endpoint.model,
            "messages": conversation,
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        return json.dumps(request, sort_keys=True).encode()


def seed_of(*parts: Any) -> int:
    """A seed from anything that JSON can hold, in 31 bits: servers take no more."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4]) >> 1


def longest_input(model: Any, reserved: int = 0) -> int | None:
    """How many tokens a model can be given if `reserved` more are to follow; None where its config does not say."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - reserved
