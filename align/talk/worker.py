"""Who answers pages: one thread that owns the models, and takes one turn of one page at a time.

The columns of a turn grow together, one token each in turn (`Conversation.ask`). A forward pass holds one model's one
sequence: two models share no weights, so there is nothing that a larger batch would read once instead of twice.
"""

from __future__ import annotations

import threading
from collections import deque

from align.talk.talks import Talk


class Worker(threading.Thread):
    """Answers in the order in which pages asked. `start` it; it ends by `end`, or with the process."""

    def __init__(self) -> None:
        super().__init__(name="answers", daemon=True)
        self.change = threading.Condition()
        self.waiting: deque[Talk] = deque()
        self.now: Talk | None = None
        self.ends = self.broken = False

    def ask(self, talk: Talk) -> None:
        """Have the last round of `talk` answered, after all that wait already."""
        with self.change:
            self.waiting.append(talk)
            self.change.notify_all()

    def before(self, talk: Talk) -> int:
        """How many are answered before this one: 0 once it is its turn."""
        with self.change:
            return self.waiting.index(talk) + (self.now is not None) if talk in self.waiting else 0

    def stop(self, talk: Talk) -> None:
        """End the answers of `talk`; what was said of them is kept. One that waits waits no more."""
        talk.stop = True
        with self.change:
            if talk not in self.waiting:
                return
            self.waiting.remove(talk)
        talk.answered()

    def end(self, seconds: float = 10.0) -> None:
        """No more answers; returns when the one under way has stopped."""
        with self.change:
            self.ends = True
            if self.now is not None:
                self.now.stop = True
            self.change.notify_all()
        if self.is_alive():
            self.join(seconds)

    def run(self) -> None:
        """Answer until the end. A mistake of ours ends it as well: then `broken`, and pages say so."""
        try:
            while (talk := self._next()) is not None:
                talk.answer()
        finally:
            self.broken = not self.ends

    def _next(self) -> Talk | None:
        with self.change:
            self.now = None
            self.change.wait_for(lambda: self.waiting or self.ends)
            if not self.ends:
                self.now = self.waiting.popleft()
            return self.now
