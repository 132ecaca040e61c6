"""A judge behind an OpenAI-compatible server, asked for many things at once.

Every reply is written to disk as it comes: a run that was killed, or that the server left alone, goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from align.judge.cache import Cache
from align.judge.choices import Judged, JudgeReport, both_orders, in_a_sentence
from align.judge.connection import Connection, Refusal
from align.judge.protocol import JudgeConfig, read_choice, read_prompt, render
from align.run.errors import ConfigError, RunError

TOKENS = ("prompt_tokens", "completion_tokens")  # of a reply's `usage`
ALL_REFUSED = 100  # refusals in a row that are about all requests; one item of nine completions alone makes 72


class Endpoint:
    """A judge behind `/chat/completions`. One for a run; `with Endpoint(config, cache) as judge: judge.compare(…)`.

    Args:
        config: which server, model and prompt, and how hard to try.
        cache: the file of replies, made if it is not there; the next run with the same file asks only what is new.

    Raises:
        ConfigError: if no judge was named, or the key cannot be one.
        RunError: if the cache cannot be used.
    """

    def __init__(self, config: JudgeConfig, cache: str | Path):
        if config.judge_url is None or config.judge_model is None:
            raise ConfigError("no judge was named: give --judge_url http://localhost:8000/v1 --judge_model <its name>")
        self.config = config
        self.model: str = config.judge_model
        self.template = read_prompt(config.judge_prompt)
        self.server = Connection(config)
        self.cache = Cache(Path(cache))
        self._lock = threading.Lock()
        self._trouble: RunError | None = None  # the first that no retry could mend
        self._answered = self.cache.answered(self.model)  # if so, a refusal is about one request
        self._refused_in_a_row = 0
        self._most_refused = ALL_REFUSED  # in a row; then they are about all of them
        self._counts: Counter[str] = Counter()
        self.refused: dict[str, str] = {}  # why, by request: those that the server refused when last asked
        self.reports: dict[int, JudgeReport] = {}  # by the pairs

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections and of the cache."""
        self.server.close()
        self.cache.db.close()

    def compare(self, prompts: Sequence[str | list[dict[str, Any]]], a: Sequence[str], b: Sequence[str]) -> Judged:
        """Judge N pairs, each in both orders: both agree, or it is a tie.

        Args:
            prompts: [N], text or messages.
            a: [N] completions.
            b: [N] completions.

        Returns:
            Choices [N], and what they took.

        Raises:
            RunError: if the server refuses every request, or 100 in a row, or is down for good. What was answered is
                in the cache.
        """
        assert len(prompts) == len(a) == len(b), (len(prompts), len(a), len(b))
        bodies: dict[str, bytes] = {}
        keys: list[tuple[str, str] | None] = []
        for prompt, x, y in zip(prompts, a, b, strict=True):
            if x == y:
                keys.append(None)
                continue
            pair = [self._body(prompt, x, y), self._body(prompt, y, x)]
            names = [hashlib.sha256(body).hexdigest() for body in pair]
            bodies.update(zip(names, pair, strict=True))
            keys.append((names[0], names[1]))
        known = self.cache.known(bodies)
        if len(bodies) > len(known):
            asked = len(bodies) - len(known)
            print(f"judge {self.model}: {asked} choices to ask for, {len(known)} in the cache", flush=True)
        said = self.fetch(bodies, read_choice, "choices")
        refused = {key: self.refused[key] for key in bodies if key in self.refused}
        counts = self._counts
        taken = JudgeReport(
            malformed=len(bodies) - len(said) - len(refused), refused=len(refused), cached=len(known),
            asked=counts["asked"], retried=counts["retried"], asked_again=counts["asked_again"],
            truncated=counts["truncated"],
            prompt_tokens=counts.get("prompt_tokens"), completion_tokens=counts.get("completion_tokens"),
        )  # fmt: skip
        judged = both_orders(keys, said, refused, taken)
        self.reports[hash(tuple(keys))] = judged.report
        return judged

    def summary(self) -> str | None:
        """All comparisons so far in a sentence (pairs asked for twice count once); None where there were none."""
        return in_a_sentence(self.model, self.reports.values(), self.refused)

    def fetch(self, bodies: Mapping[str, bytes], read: Callable[[str], str | None], what: str) -> dict[str, str]:
        """Send the requests whose answers are not in the cache, `judge_workers` at once.

        Args:
            bodies: requests by the key of their answer in the cache.
            read: what is looked for in a reply; None where it is not there, and then it is asked for once more.
            what: the answers' name in an error.

        Returns:
            What was read, by key; keys whose replies were malformed are missing, and so are those in `refused`.

        Raises:
            RunError: if the server refuses every request, or 100 in a row, or is down for good. What was answered is
                in the cache.
        """
        self.server.stop.clear()
        self._trouble = None
        self._counts.clear()
        known = self.cache.known(bodies)
        missing = {key: body for key, body in bodies.items() if key not in known}
        for key in missing:
            self.refused.pop(key, None)
        self._most_refused = ALL_REFUSED if self._answered else min(ALL_REFUSED, len(missing))
        try:
            self._ask_all(missing, read)
        except RunError as error:
            safe = len(self.cache.known(bodies))
            raise RunError(
                f"{error}. {safe} of {len(bodies)} {what} are safe in {self.cache.path}; the same command goes on "
                "from there"
            ) from error
        return known | self.cache.known(missing)

    def _body(self, prompt: str | list[dict[str, Any]], first: str, second: str) -> bytes:
        """The request, byte for byte; its SHA-256 is the cache's key."""
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": render(self.template, prompt, first, second)}],
            "temperature": 0,
            "max_tokens": self.config.judge_max_tokens,
        }
        return json.dumps(request, sort_keys=True).encode()

    def _ask_all(self, bodies: dict[str, bytes], read: Callable[[str], str | None]) -> None:
        """Send the requests, `judge_workers` at once. The first that fails for good stops the rest."""
        with ThreadPoolExecutor(self.config.judge_workers) as pool:
            futures = [pool.submit(self._try, key, body, read) for key, body in bodies.items()]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # Ctrl-C: requests under way are finished and kept, no others are started
                self.server.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if self._trouble:
            raise self._trouble

    def _try(self, key: str, body: bytes, read: Callable[[str], str | None]) -> None:
        try:
            self._ask(key, body, read)
        except RunError as error:
            with self._lock:
                self._trouble = self._trouble or error
                self.server.stop.set()

    def _ask(self, key: str, body: bytes, read: Callable[[str], str | None]) -> None:
        """One answer into the cache. A reply without one is asked for once more: servers are not deterministic."""
        for again in (False, True):
            self._count(asked_again=again)
            try:
                reply, usage, truncated = self.server.ask(body, self._count)
            except Refusal as why:
                self._refuse(key, why)
                return
            with self._lock:
                self._answered, self._refused_in_a_row, self._most_refused = True, 0, ALL_REFUSED
            found = None if truncated else read(reply)
            self._count(truncated=truncated, **{n: usage[n] for n in TOKENS if isinstance(usage.get(n), int)})
            self.cache.keep(key, self.model, found and self.server.hide(found), self.server.hide(reply), usage)
            if found:
                return

    def _refuse(self, key: str, why: Refusal) -> None:
        """Write down why one request has no answer.

        Raises:
            RunError: if as many in a row have none, or all of the first ones: then something is wrong with all of them.
        """
        self.cache.keep(key, self.model, None, f"the server {why}", {})
        with self._lock:
            self.refused[key] = f"the server {why}"
            self._refused_in_a_row += 1
            count, most = self._refused_in_a_row, self._most_refused
        if count >= most:
            raise RunError(f"the judge {self.model} at {self.server.url} {why} (to each of {count} requests)") from why

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update({name: int(number) for name, number in more.items()})
