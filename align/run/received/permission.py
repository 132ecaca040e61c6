"""May a checkpoint's own code run? Only where the user's command says so: `--trust_remote_code`.

Said once, when the command line has been read, and passed on by name to everything that loads a model, a tokenizer or
its settings: left out, transformers asks at the keyboard, and takes a `y` from there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

from align.run.errors import FOREIGN, HERE, ConfigError

FLAG = "trust_remote_code"
_given = {FLAG: False}
_withheld: set[str] = set()


def give(allowed: bool) -> None:
    """What the user's command says. A record of a parent, or of an earlier run, is never asked."""
    new, _given[FLAG] = allowed and not _given[FLAG], allowed
    if new and os.environ.get("RANK", "0") == "0":
        print("--trust_remote_code: code that comes with a checkpoint runs with your rights", flush=True)


def withhold(source: str) -> None:
    """Nothing of this source may run, whatever the command says: a received file named it, and not the user."""
    _withheld.add(source)


def code(source: str) -> dict[str, bool]:
    """The argument for `from_pretrained` of this folder or hub id."""
    return {FLAG: _given[FLAG] and str(source) not in _withheld}


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """What a library raises inside the block, at files that are not what they are said to be, is one sentence.

    Raises:
        ConfigError: with `what`, and the first line of what was raised.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:  # `tokenizers` raises that very class
        kinds = (OSError, *FOREIGN, pickle.UnpicklingError, StrictDataclassError, SafetensorError)
        ours = Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(HERE)
        gpu = type(error).__name__ == "OutOfMemoryError"
        if ours or gpu or not (isinstance(error, kinds) or type(error) is Exception):
            raise
        raise ConfigError(f"{what} cannot be loaded: {reason(error)}") from error


def reason(error: BaseException, *, flag: bool = True) -> str:
    """The first line of a loader's error; of one that asks for a checkpoint's code, what to do about it.

    Args:
        flag: has the command that asked the flag?
    """
    said = str(error).strip()
    if FLAG in said:
        way = f"read that code, and if you trust it give --{FLAG} true" if flag else "name one without"
        return f"it comes with code of its own, which is not run; {way}"
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are a pickle that holds more than weights, and none of it was run; ask for safetensors"
    first = said.splitlines()[0] if said else "no message"
    return f"{type(error).__name__}: {first}" if isinstance(error, (LookupError, TypeError, AttributeError)) else first
