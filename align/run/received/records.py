"""Is a record built as a record is? Whoever sent a run wrote it, and it need not be what it is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.run.received import files

KINDS: dict[str, type] = {
    **dict.fromkeys(("config", "parents", "metrics", "data", "versions", "process"), dict),
    **dict.fromkeys(("recipe", "status", "command", "hash", "error"), str),
    "resumptions": list,
}


def is_record(found: Any) -> bool:
    """Has what was read from a `run.json` the parts of one, each of its kind, where it has them?"""
    if not isinstance(found, dict):
        return False
    if not all(found.get(key) is None or isinstance(found[key], kind) for key, kind in KINDS.items()):
        return False
    parents = (found.get("parents") or {}).values()
    return all(isinstance(one, dict) and isinstance(one.get("path", ""), str) for one in parents)


def read_ledger(file: Path) -> dict[str, Any]:
    """What a chain or a comparison has written down of its stages, by name; nothing where there is none."""
    try:
        found = files.parsed(files.text(file))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}
