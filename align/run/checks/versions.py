"""Are the packages here ones that this project goes with? Read off their metadata, before any of them is imported.

A recipe imports `supported` first of all, which asks; what is allowed is written once, in `pyproject.toml`.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

NAME = "align-recipes"
ANYWAY = "ALIGN_ANY_VERSIONS"  # in the environment: go on whatever is installed (make newest)
IMPORTED = ("torch", "transformers", "trl")  # before a recipe can say anything: without them it says so here
BASELINE = Requirement("trl>=1.12,<1.13")  # the last release with PPO (huggingface/trl#7020)


def required() -> list[Requirement]:
    """The project's own dependencies: of the checkout that runs, else of what was installed."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    own = tomllib.loads(project.read_text()).get("project", {}) if project.is_file() else {}
    lines = own["dependencies"] if own.get("name") == NAME else importlib.metadata.requires(NAME) or []
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def problem(wanted: Requirement) -> str | None:
    """What is wrong with the package that is installed under this name, and the command that mends it."""
    command = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed: {command}" if wanted.name in IMPORTED else None
    if wanted.specifier.contains(version, prereleases=True):
        return None
    least = [Version(one.version) for one in wanted.specifier if one.operator == ">="]
    age = "older" if least and Version(version) < max(least) else "newer"
    return f"{wanted.name} {version} is {age} than what this goes with ({wanted.specifier}): {command}"


def without_baseline() -> list[str]:
    """Why TRL's own PPO cannot run here, if it cannot."""
    found = importlib.metadata.version("trl")
    if BASELINE.specifier.contains(found, prereleases=True):
        return []
    return [f"engine=trl: TRL {found} has no PPO any more, the last with one is 1.12; make parity makes an environment "
            "with it, .venv-parity; here: leave --engine out"]  # fmt: skip


def stop_unless_supported() -> None:
    """End the program with one sentence for each package that is too old, too new or not there."""
    problems = [found for one in required() if (found := problem(one))]
    if problems and not os.environ.get(ANYWAY):
        sys.exit("\n".join(f"error: {one}" for one in problems) if os.environ.get("RANK", "0") == "0" else 1)
