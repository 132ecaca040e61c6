"""Packages: versions against what is supported, and those that do not go together. Read off their metadata, so that one
that is broken cannot keep the others from being looked at."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import site
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from align.machine.findings import FAIL, OK, WARN, Finding
from align.run.checks import versions

SHOWN = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed")
# Built for one torch, and imported by transformers or peft wherever they are installed: one that does not fit breaks
# every import, also of those who do not use it
IMPORTED = ("torchvision", "torchaudio", "torchao")
BESIDE = (*IMPORTED, "xformers", "bitsandbytes", "flash-attn", "vllm", "liger-kernel", "unsloth")
# The oldest that transformers and peft take of what is optional; beside an older torchao peft adds no adapter at all
OLDEST = (Requirement("torchao>=0.16"), Requirement("bitsandbytes>=0.46.1"))


class Installed(NamedTuple):
    """A package as its metadata says it is."""

    version: str
    requires: list[str]
    folder: Path


def installed() -> dict[str, list[Installed]]:
    """Every package by its name, in the order in which imports find them."""
    found: dict[str, list[Installed]] = defaultdict(list)
    for one in importlib.metadata.distributions():
        if name := one.metadata["Name"]:
            found[canonicalize_name(name)].append(
                Installed(one.version, one.requires or [], Path(str(one.locate_file(""))))
            )
    return found


def findings() -> list[Finding]:
    """All that is said of Python and the packages."""
    there = installed()
    problems = [*unsupported(), *unmet(there, [one.name for one in versions.required()]), *beside(there), *twice(there)]
    shown = ", ".join(f"{name} {there[name][0].version}" for name in SHOWN if name in there)
    fine = [] if any(one.name == "packages" for one in problems) else [Finding(OK, "packages", shown)]
    return [Finding(OK, "python", f"{platform.python_version()} in {sys.prefix}"), *fine, *problems]


def unsupported() -> list[Finding]:
    """Packages that are too old, too new, or not there at all."""
    state = WARN if os.environ.get(versions.ANYWAY) else FAIL
    found = []
    for wanted in versions.required():
        if problem := versions.problem(wanted):
            told, _, mend = problem.rpartition(": ")
            found.append(Finding(state, "packages", told, mend))
    return found


def unmet(there: Mapping[str, list[Installed]], roots: Iterable[str]) -> list[Finding]:
    """What packages ask of each other and do not get: those that are needed, and what they need.

    Args:
        there: see `installed`.
        roots: the project's own dependencies.
    """
    found: dict[str, Finding] = {}
    todo, seen = [canonicalize_name(name) for name in roots], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in there:
            if name not in versions.IMPORTED:  # of those it is told already
                found.setdefault(name, Finding(FAIL, "packages", f"{name} is not installed", f"pip install {name}"))
            continue
        for wanted in _requirements(there[name][0]):
            other = canonicalize_name(wanted.name)
            todo.append(other)
            if other in there and not wanted.specifier.contains(there[other][0].version, prereleases=True):
                told = f"{name} {there[name][0].version} needs {wanted.name}{wanted.specifier}, and " \
                       f"{there[other][0].version} is here"  # fmt: skip
                found[other] = Finding(FAIL, "packages", told, f"pip install '{wanted.name}{wanted.specifier}'")
    return [found[name] for name in sorted(found)]


def _requirements(one: Installed) -> list[Requirement]:
    """What a package asks for here, without its extras."""
    found = []
    for line in one.requires:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:  # old metadata; pip reads it its own way
            continue
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            found.append(wanted)
    return found


def beside(there: Mapping[str, list[Installed]]) -> list[Finding]:
    """Packages that nobody here needs, and that break or hinder what is needed: built for another torch, or too old."""
    found = []
    for name in BESIDE:
        if name not in there:
            continue
        state = FAIL if name in IMPORTED else WARN
        version, away = there[name][0].version, f"pip uninstall -y {name}"
        for wanted in _requirements(there[name][0]):
            other = canonicalize_name(wanted.name)
            if (
                other in SHOWN
                and other in there
                and not wanted.specifier.contains(there[other][0].version, prereleases=True)
            ):
                told = (
                    f"{name} {version} goes with {wanted.name}{wanted.specifier}, and {there[other][0].version} is here"
                )
                found.append(Finding(state, name, told, f"{away}  # or its release for this {other}"))
        for wanted in OLDEST:
            if wanted.name == name and not wanted.specifier.contains(version, prereleases=True):
                told = f"{name} {version} is refused, {wanted.specifier} is taken"
                found.append(Finding(state, name, told, f"pip install '{wanted}'  # or {away}"))
    return found


def twice(there: Mapping[str, list[Installed]]) -> list[Finding]:
    """Packages that are in one folder twice, as a broken upgrade leaves them, or that come from the user's own."""
    found, own = [], Path(site.getusersitepackages())
    for name in SHOWN:
        every = there.get(name, [])
        same = [one.version for one in every if one.folder == every[0].folder]
        if len(same) > 1:
            again = f"pip uninstall -y {name}; pip uninstall -y {name}; pip install -c constraints.txt {name}"
            found.append(Finding(FAIL, name, f"{name} is installed twice in one place ({', '.join(same)})", again))
        if every and every[0].folder == own and not own.is_relative_to(sys.prefix):
            told = f"{name} comes from {own}, not from this environment"
            found.append(Finding(WARN, name, told, "export PYTHONNOUSERSITE=1"))
    return found
