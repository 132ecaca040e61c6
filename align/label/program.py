"""`align label`: take rows in, and serve the page on which people rank them until Ctrl-C."""

from __future__ import annotations

import contextlib
from pathlib import Path

from align.label.config import LabelArguments
from align.label.server import Labelling
from align.label.store.database import FILE_NAME
from align.label.store.rows import places, take_in
from align.label.store.store import Store
from align.run import holds
from align.run.parse import parse
from align.run.received import files
from align.web.server import ServeArguments, check_installed
from align.web.serving import serve

GUIDELINES = Path(__file__).parent / "guidelines.md"


def main(argv: list[str]) -> None:
    """`align label`: open the store, take the rows in, serve the page until Ctrl-C."""
    args, web = parse(LabelArguments, ServeArguments, nano=None, required=("source",), argv=argv)
    check_installed()
    file, rows = places(args)
    with Store(file, create=rows is not None) as store:
        if rows is not None:
            try:
                print(take_in(store, rows, args))
            except BaseException:
                if store.counts()["items"] == 0:  # rows that cannot be ranked leave nothing behind
                    holds.forget(file)
                    file.unlink()
                    with contextlib.suppress(OSError):
                        file.parent.rmdir()
                raise
        store.want(shared_by=args.overlap, repeats=args.repeats)
        _serve(store, file, web)


def _serve(store: Store, file: Path, web: ServeArguments) -> None:
    folder = file.parent
    files.made(folder / "guidelines.md", GUIDELINES.read_bytes())  # nothing, where there are some
    what = folder if file.name == FILE_NAME else file
    export = f"align export {what} --output_dir {folder.parent / 'people'}"
    app = Labelling(store, folder, export).application(web)

    def say(url: str) -> None:
        print(f"kept in {file}, guidelines in {folder / 'guidelines.md'}")
        print(f"\n  to rank:              {url}")
        manager = url.partition("#")[0] + "manage"
        if token := app.state.entry.tokens.get("manager"):
            manager += f"#token={token}"
        print(f"  progress, agreement:  {manager}\n\nCtrl-C stops; then: {export}", flush=True)

    serve(app, web, say)
    print(f"\nstopped; {store.counts()['answers']:,} answers are in {file}. To train on them: {export}")
