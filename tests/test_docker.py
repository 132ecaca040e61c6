"""The Dockerfile, as far as it can be known without Docker: what it copies, what it runs, and what that would need."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

KNOWN = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines, those that go on joined: `(instruction, what follows)`."""
    kept = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    lines = [line.partition(" ") for line in "\n".join(kept).replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in lines]


def told(name: str) -> list[str]:
    return [rest for one, rest in instructions() if one == name]


@pytest.fixture
def context() -> list[str]:
    """Tracked files that `.dockerignore` lets through."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    def kept(path: str) -> bool:
        above = [one for one in (path, *map(str, Path(path).parents)) if one != "."]
        names = {rule.removeprefix("**/") for rule in ignored if rule.startswith("**/")}  # at any depth
        return not any(
            fnmatch.fnmatch(one, rule) or any(fnmatch.fnmatch(Path(one).name, name) for name in names)
            for one in above
            for rule in ignored
        )

    return [path for path in files.stdout.splitlines() if kept(path)]


def copied(context: list[str], target: Path) -> None:
    """Do what the Dockerfile's COPY lines before `make setup` do."""
    for name, rest in instructions():
        if (name, rest) == ("RUN", "make setup"):
            return
        if name == "COPY":
            *sources, into = rest.split()
            for source in sources:
                assert source in context, f"{source} is not there, or .dockerignore keeps it out"
                place = target / into / Path(source).name if into.endswith("/") else target / into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    raise AssertionError("the build runs `make setup`")


def test_it_is_read_as_docker_reads_it():
    lines = instructions()
    assert {name for name, _ in lines} == KNOWN
    assert [name for name, _ in lines][:2] == ["ARG", "FROM"], "an argument of FROM stands before it"
    assert [rest.split("=")[0] for rest in told("ARG")] == ["BASE", "TORCH_INDEX"]
    assert told("FROM") == ["${BASE}"] and told("ARG")[0] == "BASE=python:3.11-slim"
    assert ("RUN", "make setup") in lines and lines.index(("RUN", "make setup")) < lines.index(("COPY", ". ."))
    for command in told("RUN"):
        assert subprocess.run(["sh", "-n", "-c", command]).returncode == 0, command
    assert eval(told("CMD")[0]) == ["align", "doctor"]


def test_what_is_installed_is_what_the_doctor_asks_for():
    """A compiler, Python's headers (the first base has them), make and git: without them ZeRO cannot compile."""
    (apt,) = (command for command in told("RUN") if "apt-get" in command)
    words = re.split(r"[\s;]+", apt)
    assert {"g++", "git", "make", "python3-dev", "python3-venv"} <= set(words) and "update" in words


def test_everything_that_is_needed_is_copied_and_nothing_that_is_made(context):
    assert {
        "align/cli.py",
        "recipes/sft.py",
        "accelerate_configs/ddp.yaml",
        "tests/conftest.py",
        "docs/gpus.md",
    } <= set(context)
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert {".git", ".venv*", "runs", "data"} <= set(ignored)
    for line in (ROOT / ".gitignore").read_text().split():  # what git does not keep does not travel either
        name = line.strip("/")
        assert name in ignored or f"**/{name}" in ignored, name


@pytest.mark.parametrize("index", ["", "https://torch.example/cu130"])
def test_make_setup_runs_on_what_is_copied_before_it(context, tmp_path, index):
    copied(context, tmp_path)
    done = subprocess.run(["make", "-n", "setup", f"TORCH_INDEX={index}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert "--constraint constraints.txt torch" in steps[1] and "--editable '.[dev,clean,eval,label,real]'" in steps[2]
    assert steps[1].endswith(f"torch --extra-index-url {index}" if index else "torch ")


def test_nothing_is_installed_again_for_the_code_that_is_copied_last(context, tmp_path):
    """Every file is newer then than what `make setup` left, `constraints.txt` too; the Dockerfile says that it is done."""
    copied(context, tmp_path)
    (tmp_path / ".venv").mkdir()
    lines = instructions()
    (touch,) = (rest for name, rest in lines[lines.index(("COPY", ". .")) :] if name == "RUN")
    subprocess.run(["sh", "-c", touch], cwd=tmp_path, check=True)
    done = subprocess.run(["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True)
    assert "pip install" not in done.stdout and "Nothing to be done" in done.stdout


@pytest.mark.slow
def test_the_package_builds_from_what_is_copied(context, tmp_path):
    """The step of `make setup` that reads those files, and what is copied later is found by it."""
    pytest.importorskip("pip", reason="an environment made by uv has none")
    copied(context, tmp_path / "align-home")
    home, site = tmp_path / "align-home", tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--target", site, "--editable", home], check=True)  # fmt: skip
    (home / "align/later.py").write_text("WORD = 'found'\n")
    code = f"import site; site.addsitedir({str(site)!r}); from align.later import WORD; print(WORD)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/bin"}
    )
    assert done.stdout == "found\n", done.stderr
