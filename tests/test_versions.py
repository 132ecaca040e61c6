"""Packages that are too old or too new: one sentence, before any of them is imported."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from align.run.checks import versions


@pytest.fixture
def installed(monkeypatch):
    """Say that other versions are installed."""
    said: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = said.get(name, real(name) if name not in said else None)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return said


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("trl", "1.11.0", "trl 1.11.0 is older than what this goes with (<2,>=1.12): pip install 'trl<2,>=1.12'"),
        ("trl", "2.0.0", "trl 2.0.0 is newer than what this goes with"),
        ("transformers", "4.57.1", "transformers 4.57.1 is older than"),
        ("transformers", "6.0.0.dev0", "transformers 6.0.0.dev0 is newer than"),
        ("torch", "2.7.1+cu126", "torch 2.7.1+cu126 is older than"),
        ("torch", "3.0", "torch 3.0 is newer than"),
        ("trl", None, "trl is not installed: pip install"),
    ],
)
def test_one_sentence_with_the_command(installed, name, version, sentence):
    installed[name] = version
    wanted = next(one for one in versions.required() if one.name == name)
    assert sentence in versions.problem(wanted)
    with pytest.raises(SystemExit, match=f"error: {name}"):
        versions.stop_unless_supported()


@pytest.mark.parametrize("version", ["1.12.0", "1.16.0", "1.99.dev0"])
def test_what_is_allowed_passes(installed, version):
    installed["trl"] = version
    versions.stop_unless_supported()
    assert versions.problem(Requirement("torch>=2.8,<3")) is None


def test_a_local_build_of_torch_is_its_release(installed):
    installed["torch"] = "2.11.0+cu130"
    versions.stop_unless_supported()


def test_whatever_is_installed_where_that_is_asked_for(installed, monkeypatch):
    installed["trl"] = "2.0.0"
    monkeypatch.setenv("ALIGN_ANY_VERSIONS", "1")
    versions.stop_unless_supported()


def test_the_baseline_needs_its_release(installed):
    installed["trl"] = "1.16.0"
    assert (
        "engine=trl: TRL 1.16.0 has no PPO any more, the last with one is 1.12; make parity"
        in versions.without_baseline()[0]
    )
    installed["trl"] = "1.12.0"
    assert versions.without_baseline() == []


def pins(name: str) -> dict[str, str]:
    lines = (line.partition("==") for line in (ROOT / name).read_text().splitlines() if line[0] != "#")
    return {canonicalize_name(package): version for package, _, version in lines}


def test_what_is_pinned_is_allowed():
    newest, oldest = pins("constraints.txt"), pins("benchmarks/parity.txt")
    for one in versions.required():
        assert one.specifier.contains(newest[canonicalize_name(one.name)]), one
        assert one.specifier.contains((newest | oldest)[canonicalize_name(one.name)]), one
    assert versions.BASELINE.specifier.contains(oldest["trl"])
    (least,) = (one for one in versions.required() if one.name == "transformers")
    assert f">={oldest['transformers'].rpartition('.')[0]}" in str(least.specifier), (
        "the oldest that is allowed is tried"
    )


@pytest.mark.parametrize("recipe", ["pretrain", "sft", "reward", "dpo", "ppo", "rloo"])
def test_a_recipe_says_so_before_it_imports_them(recipe, tmp_path):
    """With a TRL of the future beside packages that cannot be imported at all."""
    for name in ("torch", "transformers", "trl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('was imported')")
    info = tmp_path / "trl-2.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 2.1.0\n")
    done = subprocess.run(
        [sys.executable, f"recipes/{recipe}.py"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: trl 2.1.0 is newer than what this goes with"), (
        done.stderr
    )
    assert done.stderr.count("\n") == 1 and not done.stdout
