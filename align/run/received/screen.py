"""What is printed may hold text of others: control characters would move the cursor, hide lines or change the title.

`guard` makes both streams of a program escape them, whoever prints: ours, a library's logging, a progress bar. `plain`
does it for text that goes elsewhere.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from typing import Any

# C0 but for tab and end of line, DEL, C1, and what turns the direction of writing or the line (Unicode 16, table 2-4)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
COLOUR = re.compile(r"\x1b\[[0-79;]*m")  # but for 8, which hides what follows
BAR = re.compile(r"(\n|\x1b\[A)*")  # how a progress bar moves between its lines


def plain(text: str) -> str:
    """Text in which every control character is written out as JSON does: `\\u001b`, `\\u202e`."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(line: str) -> None:
    """Print a line, from one process of several."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


@functools.cache
def say_once(line: str) -> None:
    """The same, but no line twice."""
    say(line)


def guard() -> None:
    """Let standard output and error show no control characters. Colours stay on a terminal, and progress bars."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not hasattr(stream, "align_shown"):
            _cover(stream)


def _cover(stream: Any) -> None:
    write = stream.write
    colours = stream.isatty()

    def shown(text: str) -> int:
        if not CONTROLS.search(text) or (colours and BAR.fullmatch(text)):
            return write(text)
        begin = "\r" if text.startswith("\r") else ""  # of a progress bar, which writes its line anew
        text = text.removeprefix("\r")
        parts = [*COLOUR.finditer(text)] if colours else []
        done, at = begin, 0
        for part in parts:
            done += plain(text[at : part.start()]) + part[0]
            at = part.end()
        return write(done + plain(text[at:]))

    stream.write, stream.align_shown = shown, True  # on the stream itself: logging has kept it since its import
