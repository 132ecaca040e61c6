"""`align chat`: in the terminal, or on a page until Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from align.label.store.database import FILE_NAME
from align.label.store.store import Store
from align.run.errors import ConfigError
from align.run.parse import parse
from align.talk import speakers, terminal
from align.talk.config import VOTES, ChatConfig
from align.talk.server import Talking
from align.talk.speakers import Speaker
from align.web.server import ServeArguments, check_installed
from align.web.serving import check_port, serve


def main(argv: list[str]) -> None:
    """`align chat`: talk until Ctrl-D, or serve the page until Ctrl-C."""
    args, web = parse(ChatConfig, ServeArguments, nano=None, required=("models",), argv=argv)
    if args.web:
        _serve(args, web)
        return
    usual = dataclasses.asdict(ServeArguments())
    if odd := [name for name, value in dataclasses.asdict(web).items() if value != usual[name]]:
        raise ConfigError(f"{', '.join(odd)}: of the page, which --web opens; add --web, or leave {_them(odd)} out")
    terminal.begin(args)


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _serve(args: ChatConfig, web: ServeArguments) -> None:
    check_installed()
    check_port(web)  # before models are loaded
    found = speakers.load(args)
    if args.blind:
        _check_same_prompt(found)
    folder = Path(args.output_dir or VOTES)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(folder / FILE_NAME)) if args.blind else None
        talking = Talking(found, args, store)
        app = talking.application(web)
        stack.callback(talking.worker.end)
        export = f"align export {folder} --output_dir {folder.with_name(folder.name + '-rows')}"

        def say(url: str) -> None:
            told = [f"{speaker.name} {speakers.how(speaker)}" for speaker in found] + speakers.notes(found)
            told += [f"votes are kept in {store.path}"] if store else []
            ends = f"Ctrl-C stops; then: {export}" if store else "Ctrl-C stops"
            print("\n".join([*told, f"\n  to talk:  {url}\n", ends]), flush=True)

        serve(app, web, say)
        if store:
            held = store.counts()["answers"]
            print(f"\nstopped; {held:,} {'vote is' if held == 1 else 'votes are'} in {store.path}. To train: {export}")


def _check_same_prompt(found: list[Speaker]) -> None:
    """Do all read a conversation the same way? A ranking has one prompt.

    Raises:
        ConfigError: where some go on with a text and others answer.
    """
    on = [speaker.name for speaker in found if speaker.goes_on]
    if 0 < len(on) < len(found):
        raise ConfigError(
            f"blind: {', '.join(on)} would go on with a text where the others answer, so their answers are not to one "
            "prompt; choose for all with --prompt_format chat, or text"
        )
