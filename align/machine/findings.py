"""What the doctor says of one thing: how it is, in words, and the command that mends it."""

from __future__ import annotations

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"


class Finding(NamedTuple):
    """One line. `FAIL`: a recipe stops, or does something else than was meant; `warn`: it is slower, or needs care."""

    state: str
    name: str
    told: str
    mend: str = ""  # a command, or what to add to one

    def __str__(self) -> str:
        mended = f"; mend: {self.mend}" if self.mend else ""
        return f"{self.state:<4}  {self.name}: {self.told}{mended}"
