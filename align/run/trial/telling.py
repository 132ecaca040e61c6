"""What a dry run tells at its end, in words that all recipes share: memory, time, and where a run would be saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from align.run.record import peak_memory_bytes
from align.run.trial import throwaway


def clock(seconds: float) -> str:
    """12:34, or 1:02:34 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """A number of bytes in the largest decimal unit that it fills: 12.3 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 1000 * factor else f"{count / factor:,.0f} {unit}"
    return f"{count:.0f} bytes"


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def held() -> dict[str, float]:
    """The most memory of this process, what there is of it, and of a GPU what torch had set aside, in bytes."""
    import psutil
    import torch

    if not torch.cuda.is_available():
        return {"peak": peak_memory_bytes(), "all": psutil.virtual_memory().total}
    whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return {"peak": peak_memory_bytes(), "all": whole, "aside": torch.cuda.max_memory_reserved()}


def memory(found: list[dict[str, float]]) -> str:
    """The line on memory, from what every process `held`."""
    most = max(found, key=lambda one: one["peak"])
    where = "of the machine's" if "aside" not in most else "of the GPU's"
    line = f"memory    {size(most['peak'])} at most, {where} {size(most['all'])}"
    if "aside" in most:
        line += f"; torch set {size(max(one['aside'] for one in found))} aside"
    if len(found) > 1:
        line += f" (the largest of {len(found)} processes"
        line += ")" if "aside" in most else f"; {size(sum(one['peak'] for one in found))} together)"
    return line


def saved() -> str:
    """The line on where the run would be saved, which is as it was."""
    dry = throwaway.asked()
    assert dry is not None
    room = shutil.disk_usage(throwaway.home(dry.wanted)).free
    return f"saved in  {dry.wanted} ({size(room)} free there); nothing was written there"


def show(title: str, lines: list[str], page: list[str]) -> None:
    """Print the report: what was tried, the lines, the rows as `align.data.preview` shows them."""
    told: list[Any] = [title, *(f"  {line}" for line in lines), *page, ""]
    end = "Nothing is left of this but the cache of prepared rows; leave --dry_run out to go on."
    print("\n".join(["", *told, end]), flush=True)
