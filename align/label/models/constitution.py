"""A constitution: principles, each with a request for a critique and one for a revision, read from YAML and checked."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from align.run.errors import ConfigError

NEEDED = ("name", "critique", "revise")


@dataclass(frozen=True)
class Principle:
    """One principle. `weight` is relative: how often it is drawn, against the others."""

    name: str
    critique: str
    revise: str
    weight: float = 1.0


def load(path: str | Path) -> tuple[Principle, ...]:
    """Read a constitution (the one here: recipes/constitution.yaml).

    Raises:
        ConfigError: in one sentence, the first thing that is wrong with the file.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"constitution {path} cannot be read ({error}); the one here is recipes/constitution.yaml"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, list) or not values:
        found = "is empty" if not values else f"holds a {type(values).__name__}"
        raise ConfigError(f"{path} {found}; it must be a list of principles, each with {', '.join(NEEDED)}")
    found_at: dict[str, int] = {}
    for number, entry in enumerate(values, 1):
        if problem := _problem(entry):
            raise ConfigError(f"{path}, principle {number}: {problem}")
        name = entry["name"].strip()
        if name.casefold() in found_at:
            raise ConfigError(
                f"{path}, principle {number}: {name!r} is the name of principle {found_at[name.casefold()]}"
            )
        found_at[name.casefold()] = number
    return tuple(
        Principle(**{key: entry[key].strip() for key in NEEDED}, weight=float(entry.get("weight", 1)))
        for entry in values
    )


def _problem(entry: Any) -> str | None:
    """Why this is no principle; None where it is one."""
    known = [field.name for field in fields(Principle)]
    if not isinstance(entry, dict):
        return f"expected {', '.join(NEEDED)}, got {str(entry)[:60]!r}"
    if unknown := [str(key) for key in entry if key not in known]:
        return f"unknown key {', '.join(unknown)}; allowed: {', '.join(known)}"
    if missing := [key for key in NEEDED if key not in entry]:
        return f"{', '.join(missing)} is needed"
    if wrong := [key for key in NEEDED if not isinstance(entry[key], str) or not entry[key].strip()]:
        return f"{wrong[0]} must be text, got {entry[wrong[0]]!r}"
    if len(entry["name"].strip()) > 60 or "\n" in entry["name"].strip():
        return f"name must be one line of at most 60 characters, got {entry['name'][:80]!r}"
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not (math.isfinite(weight) and weight > 0):
        return f"weight must be a number above 0, got {weight!r}; leave a principle out to never draw it"
    return None


def draw(principles: tuple[Principle, ...], count: int, rng: random.Random) -> list[Principle]:
    """`count` different principles in the order of drawing, each by its weight among those that are left."""
    left, drawn = list(principles), []
    for _ in range(count):
        drawn.append(rng.choices(left, [principle.weight for principle in left])[0])
        left.remove(drawn[-1])
    return drawn
