"""Connections to a page: how many there may be, and how long each may take.

Uvicorn ends kept connections that are idle. What it has no limit for is a request that never becomes whole and an
answer that nobody fetches (https://www.uvicorn.org/settings/#timeouts), and where too many are open it refuses
everyone. Here each step has its time, and where it gets crowded, whoever has shown no session goes first.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD, BODY, ANSWER = 10.0, 20.0, 60.0  # seconds for the head of a request, for its body, and for the answer
IDLE = 15  # seconds that a kept connection waits for the next request
FETCH = 15.0  # seconds beyond these for what is left of an answer to be fetched
ACCEPTED = 128  # connections that are taken at once, before any of them is looked at
# each is a file to the system, and so are the labels; some systems allow 256 in all
MOST = min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
MOST_OF_ONE = MOST // 2  # from one address; a tunnel or a proxy is one address, so these may be many people's


class Bounded(H11Protocol):
    """Uvicorn's protocol with a clock that runs in every state, and room for a newcomer."""

    def connection_made(self, transport: Any) -> None:
        self.trusted, self.state, self.since = False, "", time.monotonic()
        self.clock: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._make_room()
        self._enter("head", HEAD)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        # set by the guard, and only for a session that it knows
        self.trusted = self.cycle.scope.get("align_session") is not None
        self._enter("idle", IDLE + FETCH)
        super().on_response_complete()  # may begin with the next request, which had come already
        if self._busy():
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.clock is not None:
            self.clock.cancel()
        super().connection_lost(exc)

    def _busy(self) -> bool:
        """Is a request being served?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Which step it is now. Bytes alone do not wind the clock up: whoever sends one at a time runs out of it."""
        if not self._busy():
            self._enter("head", HEAD)
        elif self.cycle.more_body:
            self._enter("body", BODY)
        else:
            self._enter("answer", ANSWER)

    def _enter(self, state: str, seconds: float) -> None:
        if state == self.state:
            return
        self.state = state
        if self.clock is not None:
            self.clock.cancel()
        self.clock = self.loop.call_later(seconds, self.transport.abort)

    def _make_room(self) -> None:
        """Too many: one of the others goes, in this order: without a session, not being served, oldest."""
        others = [one for one in self.connections if one is not self and isinstance(one, Bounded)]
        here = self.client[0] if self.client else ""
        same = [one for one in others if one.client and one.client[0] == here]
        for crowd, most in ((same, MOST_OF_ONE), (others, MOST)):
            if len(crowd) < most:
                continue
            goes = min(crowd, key=lambda one: (one.trusted, one._busy(), one.since))
            goes = self if goes.trusted and goes._busy() else goes
            self.connections.discard(goes)  # at once: the system tells of its end a little later
            goes.transport.abort()
            return
