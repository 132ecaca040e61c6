"""What users meet when something is wrong: what was given, what is allowed, what to type instead."""

from __future__ import annotations

from typing import NoReturn


class ConfigError(ValueError):
    """The configuration cannot work. The message lists every problem and what to type instead."""


class DataError(ConfigError):
    """Rows that cannot be used. The message names the source, the row and the field."""


class RunError(RuntimeError):
    """A run cannot start or go on; the message says what to do."""


def fail(problems: list[str]) -> NoReturn:
    """Raise every problem in one message."""
    head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{head} with the configuration:\n" + "\n".join(f"  - {problem}" for problem in problems))


def recipe(name: str) -> str:
    """What to type to start a recipe: the library names the programs above it in messages only, and only by this."""
    return f"python recipes/{name}.py"
