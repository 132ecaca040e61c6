"""HTTP to an OpenAI-compatible server: further tries after trouble, its key, and what its answers hold.

It is `httpx2`, which huggingface_hub brings: it has pools, time limits and typed errors. The hub's own session is built
on it but refuses to send anything under HF_HUB_OFFLINE=1, a judge on localhost included.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from align.judge.protocol import JudgeConfig
from align.run.errors import ConfigError, RunError

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT = 1.0  # seconds before the first retry; doubled for each further one up to 64 times, jittered down to a half
LONGEST_WAIT = 300.0  # seconds; a server that asks for more (a daily quota) ends the run, which can be gone on with
REFUSALS = (400, 413, 422)  # about one request: too long, filtered; or about all: a parameter that the server lacks
SHORTEST_SECRET = 8  # characters; a shorter key is a local server's dummy (`1`, `none`), and hiding it garbles replies


class Refusal(RunError):
    """The server will not answer this one request; the message says what it answered."""


class Connection:
    """A server's `/chat/completions`. Safe to use from several threads.

    Args:
        config: which server and model, and how hard to try.

    Raises:
        ConfigError: if the URL cannot be one, or the key.
    """

    def __init__(self, config: JudgeConfig):
        import httpx2

        assert config.judge_url is not None
        self.model = config.judge_model
        self.url = config.judge_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.stop = threading.Event()  # once set, nothing more is sent
        self._key_variable, self._retries = config.judge_key_variable, config.judge_retries
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

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, body: bytes, count: Callable[..., None]) -> tuple[str, dict[str, Any], bool]:
        """Send one request, again after trouble with the server.

        Args:
            body: the request.
            count: called with `asked` and `retried` each time that something is sent.

        Returns:
            The reply's text, the token counts, and whether it was cut at `judge_max_tokens`.

        Raises:
            Refusal: at once, for what may be wrong with this request alone.
            RunError: at once for what no second try can mend (401, 404), else after `judge_retries` more tries.
        """
        return self._read(self._send(body, count))

    def hide(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
        return text.replace(self._key, "<key>") if len(self._key) >= SHORTEST_SECRET else text

    def _send(self, body: bytes, count: Callable[..., None]) -> httpx2.Response:
        """POST until the server answers 200, waiting longer each time; raises as `ask` says."""
        import httpx2

        for attempt in range(self._retries + 1):
            if self.stop.is_set():
                raise RunError("stopped: another request failed")
            count(asked=1, retried=attempt > 0)
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
                        trouble += f" (is the key in the environment variable {self._key_variable}?)"
                    raise RunError(f"the judge {self.model} at {self.url} {trouble}")
                wait = max(wait, retry_after(response.headers.get("Retry-After")))
            if wait > LONGEST_WAIT:
                raise RunError(f"the judge at {self.url} {trouble} and asks to wait {wait:.0f} s")
            if attempt < self._retries:
                self.stop.wait(wait)
        raise RunError(f"the judge at {self.url} {trouble}, {self._retries + 1} times in a row")

    def _said(self, response: httpx2.Response) -> str:
        """The beginning of a server's answer, in one line, without the key should it repeat it."""
        return " ".join(self.hide(response.text).split())[:300] or "(nothing)"

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


def retry_after(header: str | None) -> float:
    """Seconds to wait, from a Retry-After header: a number, or a date; 0 where there is none that makes sense."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header or "").timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if not math.isnan(seconds) else 0.0
