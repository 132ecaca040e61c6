"""Which of two completions is better, prompt by prompt: by scores, or by a judge behind an OpenAI-compatible server.

A verdict is 1.0 where `a` is better, 0.5 for a tie, 0.0 where `b` is better, and None where there is none. A judge sees
every pair in both orders (Zheng et al. 2023, arXiv:2306.05685, section 3.4), so that liking whatever comes first
cancels out and is measured. Every reply is written to disk as it comes: a run that was killed, or that the server left
alone, goes on where it was.

HTTP is `httpx2`, which huggingface_hub brings: it has pools, time limits and typed errors. The hub's own session is
built on it but refuses to send anything under HF_HUB_OFFLINE=1, a judge on localhost included.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.judge.protocol import Cache, JudgeConfig, Judged, both_orders, read_prompt, read_verdict, render, retry_after
from align.run.errors import ConfigError, RunError

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT = 1.0  # seconds before the first retry; doubled for each further one up to 64 times, jittered down to a half
LONGEST_WAIT = 300.0  # seconds; a server that asks for more (a daily quota) ends the run, which can be gone on with
TOKENS = ("prompt_tokens", "completion_tokens")  # of a reply's `usage`
REFUSALS = (400, 413, 422)  # about one request: too long, filtered; or about all: a parameter that the server lacks
ALL_REFUSED = 100  # refusals in a row that are about all requests; one item of nine completions alone makes 72
SHORTEST_SECRET = 8  # characters; a shorter key is a local server's dummy (`1`, `none`), and hiding it garbles replies


def by_score(
    scores_a: Sequence[float | None], scores_b: Sequence[float | None], *, tie: float = 0.0
) -> list[float | None]:
    """Verdicts from two lists of scores of the same prompts, higher is better.

    Args:
        scores_a: [N], of `a`'s completions; the unit is the scorer's.
        scores_b: [N], of `b`'s.
        tie: largest difference, in that unit, that still counts as a tie.

    Returns:
        [N]: 1.0, 0.5 or 0.0; None where a score is missing or not finite.

    Raises:
        ConfigError: if `tie` is negative or not finite.
    """
    if not (math.isfinite(tie) and tie >= 0):
        raise ConfigError(f"tie={tie}: give the largest difference of scores that is a tie, 0 or more")
    verdicts: list[float | None] = []
    for a, b in zip(scores_a, scores_b, strict=True):
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            verdicts.append(None)
        else:
            verdicts.append(0.5 if abs(a - b) <= tie else float(a > b))
    return verdicts


class Refusal(RunError):
    """The server will not answer this one request; the message says what it answered."""


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
        import httpx2

        if config.judge_url is None or config.judge_model is None:
            raise ConfigError("no judge was named: give --judge_url http://localhost:8000/v1 --judge_model <its name>")
        self.config = config
        self.model: str = config.judge_model
        self.url = config.judge_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.template = read_prompt(config.judge_prompt)
        self._key = os.environ.get(config.judge_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the environment variable {config.judge_key_variable} holds characters that no key has")
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            host = httpx2.URL(self.url).host
        except httpx2.InvalidURL as error:
            raise ConfigError(f"judge_url {config.judge_url} is not a URL: {error}") from error
        self._client = httpx2.Client(
            headers=headers,
            timeout=config.judge_timeout,
            limits=httpx2.Limits(max_connections=config.judge_workers),
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),  # no proxy stands before this machine
        )
        self.cache = Cache(Path(cache))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._trouble: RunError | None = None  # the first that no retry could mend
        self._answered = self.cache.answered(self.model)  # if so, a refusal is about one request
        self._refused_in_a_row = 0
        self._most_refused = ALL_REFUSED  # in a row; then they are about all of them
        self._counts: Counter[str] = Counter()
        self.refused: dict[str, str] = {}  # why, by request: those that the server refused when last asked
        self.reports: dict[int, dict[str, Any]] = {}  # by the pairs

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections and of the cache."""
        self._client.close()
        self.cache.db.close()

    def compare(self, prompts: Sequence[str | list[dict[str, Any]]], a: Sequence[str], b: Sequence[str]) -> Judged:
        """Judge N pairs, each in both orders: both agree, or it is a tie.

        Args:
            prompts: [N], text or messages.
            a: [N] completions.
            b: [N] completions.

        Returns:
            Verdicts [N] and a report: `pairs` = `judged` (a verdict in both orders) + `same_text` (ties, never sent) +
            `failed` (no verdict); `malformed`, replies without a verdict, twice in a row; `refused`, requests that the
            server would not answer (why is in `problems`); `cached`, verdicts that were on disk; `asked`, requests sent
            by this call, of which `retried` after trouble with the server and `asked_again` after a reply without a
            verdict; `truncated`, replies cut at judge_max_tokens; `prompt_tokens` and `completion_tokens` of this call,
            None if the server does not say; and `order_effect`.

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
        known = self.cache.verdicts(bodies)
        if len(bodies) > len(known):
            asked = len(bodies) - len(known)
            print(f"judge {self.model}: {asked} verdicts to ask for, {len(known)} in the cache", flush=True)
        said = self.fetch(bodies, read_verdict, "verdicts")
        report: dict[str, Any] = {name: self._counts[name] for name in ("asked", "retried", "asked_again", "truncated")}
        report |= {name: self._counts.get(name) for name in TOKENS}
        refused = {key: self.refused[key] for key in bodies if key in self.refused}
        report |= {"malformed": len(bodies) - len(said) - len(refused), "refused": len(refused), "cached": len(known)}
        judged = both_orders(keys, said, refused, **report)
        self.reports[hash(tuple(keys))] = judged.report
        return judged

    def summary(self) -> str | None:
        """All comparisons so far in a sentence (pairs asked for twice count once); None where there were none."""
        total: Counter[str] = Counter()
        flips = firsts = decided = 0.0
        for report in self.reports.values():
            total.update({name: report[name] for name in ("pairs", "judged", "failed", "same_text")})
            flips += (report["flip_rate"] or 0.0) * report["judged"]
            if report["first_position_rate"] is not None:
                firsts += report["first_position_rate"] * report["judged"]
                decided += report["judged"]
        if not total["pairs"]:
            return None
        why = ""
        if self.refused:
            why = f" ({len(self.refused):,} requests had no reply, for example because {min(self.refused.values())})"
        order = ""
        if judged := total["judged"]:
            order = f"; the same position won in both orders for {flips / judged:.1%} of the pairs (counted as ties)"
        if decided:
            order += f", and what stood first won {firsts / decided:.1%} of the single verdicts (50 % is unbiased)"
        return (
            f"The judge {self.model} saw {total['pairs']:,} pairs in both orders: {total['failed']:,} without a usable "
            f"verdict{why}, {total['same_text']:,} of the same text{order}."
        )

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
        self._stop.clear()
        self._trouble = None
        self._counts.clear()
        known = self.cache.verdicts(bodies)
        missing = {key: body for key, body in bodies.items() if key not in known}
        for key in missing:
            self.refused.pop(key, None)
        self._most_refused = ALL_REFUSED if self._answered else min(ALL_REFUSED, len(missing))
        try:
            self._ask_all(missing, read)
        except RunError as error:
            safe = len(self.cache.verdicts(bodies))
            raise RunError(
                f"{error}. {safe} of {len(bodies)} {what} are safe in {self.cache.path}; the same command goes on "
                "from there"
            ) from error
        return known | self.cache.verdicts(missing)

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
                self._stop.set()
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
                self._stop.set()

    def _ask(self, key: str, body: bytes, read: Callable[[str], str | None]) -> None:
        """One verdict into the cache. A reply without one is asked for once more: servers are not deterministic."""
        for again in (False, True):
            self._count(asked_again=again)
            try:
                response = self._send(body)
            except Refusal as why:
                self._refuse(key, why)
                return
            reply, usage, truncated = self._read(response)
            with self._lock:
                self._answered, self._refused_in_a_row, self._most_refused = True, 0, ALL_REFUSED
            verdict = None if truncated else read(reply)
            self._count(truncated=truncated, **{n: usage[n] for n in TOKENS if isinstance(usage.get(n), int)})
            self.cache.keep(key, self.model, verdict and self._hide(verdict), self._hide(reply), usage)
            if verdict:
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
            raise RunError(f"the judge {self.model} at {self.url} {why} (to each of {count} requests)") from why

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update({name: int(number) for name, number in more.items()})

    def _send(self, body: bytes) -> httpx2.Response:
        """POST until the server answers 200, waiting longer each time.

        Raises:
            Refusal: at once, for what may be wrong with this request alone.
            RunError: at once for what no second try can mend (401, 404), else after `judge_retries` more tries.
        """
        import httpx2

        for attempt in range(self.config.judge_retries + 1):
            if self._stop.is_set():
                raise RunError("stopped: another request failed")
            self._count(asked=1, retried=attempt > 0)
            wait = FIRST_WAIT * 2 ** min(attempt, 6) * random.uniform(0.5, 1)
            try:
                response = self._client.post(self.url, content=body)
            except httpx2.RequestError as error:
                trouble = f"could not be reached ({type(error).__name__}: {error})"
            else:
                if response.status_code == 200:
                    return response
                trouble = f"answered {response.status_code}: {self._said(response)}"
                if response.status_code in REFUSALS:
                    raise Refusal(trouble)
                if response.status_code not in (408, 429) and response.status_code < 500:
                    if response.status_code in (401, 403):
                        trouble += f" (is the key in the environment variable {self.config.judge_key_variable}?)"
                    raise RunError(f"the judge {self.model} at {self.url} {trouble}")
                wait = max(wait, retry_after(response.headers.get("Retry-After")))
            if wait > LONGEST_WAIT:
                raise RunError(f"the judge at {self.url} {trouble} and asks to wait {wait:.0f} s")
            if attempt < self.config.judge_retries:
                self._stop.wait(wait)
        raise RunError(f"the judge at {self.url} {trouble}, {self.config.judge_retries + 1} times in a row")

    def _said(self, response: httpx2.Response) -> str:
        """The beginning of a server's answer, in one line, without the key should it repeat it."""
        return " ".join(self._hide(response.text).split())[:300] or "(nothing)"

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "<key>") if len(self._key) >= SHORTEST_SECRET else text

    def _read(self, response: httpx2.Response) -> tuple[str, dict[str, Any], bool]:
        """The reply's text, the token counts, and whether it was cut at `judge_max_tokens`."""
        try:
            answer = json.loads(response.text)
            choice = answer["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RunError(
                f"{self.url} did not answer with a chat completion but with: {self._said(response)}; judge_url must be "
                "the base URL of an OpenAI-compatible server, like http://localhost:8000/v1"
            ) from error
        usage = answer.get("usage")
        text = content if isinstance(content, str) else ""  # null: a refusal, or a thought that never ended
        return text, usage if isinstance(usage, dict) else {}, choice.get("finish_reason") == "length"
