"""What users meet when something is wrong: what was given, what is allowed, what to type instead."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent.parent
LIBRARIES = "site-packages"
# What a refused setting or a slip in a user's function comes as; all else is for us to see whole
FOREIGN = (
    ValueError, TypeError, ImportError, RuntimeError, AttributeError, LookupError, ArithmeticError, MemoryError,
    AssertionError,
)  # fmt: skip
MEMORY = (
    "; lower --per_device_train_batch_size (the global batch stays what it is) or --max_length, or give "
    "--activation_checkpointing true"
)


class ConfigError(ValueError):
    """The configuration cannot work. The message lists every problem and what to type instead."""


class DataError(ConfigError):
    """Rows that cannot be used. The message names the source, the row and the field."""


class RunError(RuntimeError):
    """A run cannot start or go on; the message says what to do."""


class OneProcess(RunError):
    """What stops one of several processes, and all of them by that: this one says so, whichever it is."""


class NotFinite(RunError):
    """Weights or losses that are not numbers: nothing that is made of them is of use."""


def fail(problems: list[str]) -> NoReturn:
    """Raise every problem in one message."""
    head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ConfigError(f"{head} with the configuration:\n" + "\n".join(f"  - {problem}" for problem in problems))


def recipe(name: str) -> str:
    """What to type to start a recipe: the library names the programs above it in messages only, and only by this."""
    return f"python recipes/{name}.py"


def out_of_memory(error: BaseException) -> bool:
    """Did an allocator refuse? CUDA has a type for it, torch on a CPU a sentence only."""
    words = str(error).lower()
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in words or "out of memory" in words


def in_words(error: BaseException) -> str:
    """One sentence about an error: ours as it is; any other with its type, its message, and where it was raised."""
    if isinstance(error, (ConfigError, RunError)):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    frames = traceback.extract_tb(error.__traceback__)
    place = Path(frames[-1].filename) if frames else None
    parts = () if place is None else place.parts
    short = "/".join(parts[parts.index(LIBRARIES) + 1 :]) if LIBRARIES in parts else str(place)
    where = f" ({short}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(lines)[:600]}{where}"


@contextlib.contextmanager
def one_sentence(
    doing: str, hint: str = "", *, kind: type[Exception] = ConfigError, when: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """What a library or a user's file raises inside the block ends in one sentence; what our own code raises does not.

    Args:
        doing: what was refused: begins the sentence.
        hint: what to do about it: ends it.
        kind: the error that it becomes; where memory ran out, a `RunError` with its own ways on.
        when: asked when something was raised; False leaves it as it is.
    """
    try:
        yield
    except FOREIGN as error:
        if isinstance(error, (ConfigError, RunError)):
            raise
        if out_of_memory(error):
            raise RunError(f"{in_words(error)}{MEMORY}") from error
        frames = traceback.extract_tb(error.__traceback__)
        if Path(frames[-1].filename).is_relative_to(HERE) or not when():
            raise
        raise kind(f"{doing}: {in_words(error)}{hint}") from error
