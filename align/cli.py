"""`align`: talking to models, rankings by people and models, and the review of a cleaned corpus, as commands.

Training, sampling and evaluation are recipes; what is here opens a page, talks, or moves rows.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from importlib import import_module

from align.run.errors import ConfigError

# command: (module:function, the key that its bare arguments belong to, what it does)
COMMANDS = {
    "fetch": ("align.fetch.program:main", "checkpoint", "an open checkpoint as an ordinary folder; GGUF files as well"),
    "chat": ("align.talk.program:main", "models", "talk to a model, or to several; on a page, with blind votes"),
    "doctor": (
        "align.machine.doctor:main",
        "json",
        "is this machine fit? What is wrong, with the command that mends it",
    ),
    "slurm": ("align.machine.slurm:main", "recipe", "a recipe as a job for SLURM, in a script that sbatch takes"),
    "runs": ("align.follow.tree:main", "folder", "all runs below a folder: lineage, status, gate, key figures"),
    "watch": ("align.follow.server:main", "runs", "a live page of runs: curves over each other, time left, samples"),
    "plan": ("align.plan.program:main", "recipe", "what a run will need, and whether it fits, before it begins"),
    "label": ("align.label.program:main", "source", "open the page on which people rank completions"),
    "judge": (
        "align.label.models.feedback:main",
        "source",
        "let a model rank them, and ask people first where it is unsure",
    ),
    "revise": ("align.label.models.revise:main", "source", "critique and revise completions by a constitution"),
    "agreement": ("align.label.agreement:main", "source", "how far annotators agree, and what biases them"),
    "export": ("align.label.exchange.export:main", "source", "write rankings for the reward and the dpo recipe"),
    "import": ("align.label.exchange.imports:main", "source", "bring preference data of other tools into our rows"),
    "merge": ("align.label.store.merging:main", "inputs", "make one labels file of several, or copy one"),
    "merge-adapter": ("align.fetch.whole:main", "adapter", "an adapter and its base as one ordinary checkpoint"),
    "gguf": ("align.fetch.gguf_file:main", "model_name_or_path", "a model as one file for llama.cpp and Ollama"),
    "review": ("align.clean.review.server:main", "source", "open the page on which people decide what cleaning keeps"),
}
EXAMPLE = "align label runs/mine/sample"


def overview() -> str:
    """The commands, one line each."""
    lines = [f"  align {name:<14} {what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join([
        "usage: align <command> [<what it works on>] [--key value …]", "", *lines, "",
        f"for example: {EXAMPLE}", "A command's own arguments: align <command> --help",
    ])  # fmt: skip


def arguments(key: str, rest: list[str]) -> list[str]:
    """Bare words before the first `--key` belong to `key`: `runs/x --port 1` is `--source runs/x --port 1`."""
    bare = next((at for at, word in enumerate(rest) if word.startswith("-")), len(rest))
    return [f"--{key}", *rest] if bare else rest


def find(name: str) -> tuple[Callable[[list[str]], None], str]:
    """A command's function and the key of its bare arguments.

    Raises:
        ConfigError: no such command, with the nearest one.
    """
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        hint = f"; did you mean align {close[0]}?" if close else ""
        raise ConfigError(f"align {name}: there is no such command{hint}\n\n{overview()}")
    where, key, _ = COMMANDS[name]
    module, _, function = where.partition(":")
    return getattr(import_module(module), function), key


def main() -> None:
    """The console script. A user's error ends in its sentence and exit status 1."""
    words = sys.argv[1:]
    sys.argv[0] = "align"  # also in messages and records where it was started as a module
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return
    from align.run import launch

    def work() -> None:
        function, key = find(words[0])
        function(arguments(key, words[1:]))

    launch.run(work)


if __name__ == "__main__":
    main()
