"""The documents say nothing that is not there: commands parse, paths and links exist, every recipe has its place."""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
import xml.etree.ElementTree as xml
from functools import cache

import pytest
from conftest import ROOT
from test_flags import asked
from test_flags import programs as programs_of_yaml

from align.run.flags import Flags

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
FOLDERS = "recipes|align|tests|docs|benchmarks|accelerate_configs"
READING_SPEED = 230  # words a minute
WRITTEN = ("report.md", "guidelines.md")  # by a run, or by the reader


def commands(text: str) -> list[str]:
    """The lines of a page's ```bash blocks, comments cut off, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", text.replace("\\\n", " "), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def prose(text: str) -> str:
    """A page without its code blocks and pictures."""
    return re.sub(r"<picture>.*?</picture>", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.DOTALL)


def inline(text: str) -> list[str]:
    """What stands in backticks within the prose."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))


COMMANDS = {command: page.name for page in PAGES for command in commands(page.read_text())}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{COMMANDS[command]}: {command[:60]}")
def test_a_command_parses(command, monkeypatch):
    words = shlex.split(command)
    if words[0] == "make":
        assert all(is_target(word) for word in words[1:])
        return
    if "--config_file" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("align.run.parse._parent_problems", lambda *_: [])  # the example's files are the reader's
    stop = RuntimeError("parsed")

    def parsed(*_, **__):
        raise stop

    monkeypatch.setattr("align.run.parse._build", parsed)
    with pytest.raises(RuntimeError, match="parsed"):
        start(words, monkeypatch, parsed)


def start(words, monkeypatch, parsed):
    """What a command line starts: one of `align`'s commands, a module of ours, a benchmark, or a recipe."""
    if words[0] == "align":
        from align import cli

        function, key = cli.find(words[1])
        function(cli.arguments(key, words[2:]))
        return
    if "-m" in words:
        monkeypatch.setattr(sys, "argv", words[words.index("-m") + 1 :])
        runpy.run_module(words[words.index("-m") + 1], run_name="__main__")
        return
    at = next(i for i, word in enumerate(words) if word.startswith(("recipes/", "benchmarks/")))
    assert (ROOT / words[at]).is_file()
    monkeypatch.setattr(sys, "argv", words[at:])
    if words[at].startswith("benchmarks/"):
        real = argparse.ArgumentParser.parse_args
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *given: real(*given) and parsed())
    runpy.run_path(words[at], run_name="__main__")


def is_target(name: str) -> bool:
    """Does the Makefile have it?"""
    return re.search(rf"^{re.escape(name)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert target.startswith("https://") or (page.parent / target).exists(), f"link to {target}"
    from align.cli import COMMANDS as ALIGN

    for code in inline(text):
        words = code.split()
        is_file = re.fullmatch(r"[\w-]+\.(?:md|txt|toml)", code) and code not in WRITTEN
        if is_file or re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", code):
            assert (ROOT / code).exists(), code
        elif words[0] == "align" and len(words) > 1:
            assert words[1] in ALIGN, code
        elif words[0] == "make" and len(words) > 1:
            assert is_target(words[1]), code
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), code
        for path in re.findall(rf"(?:^|[\s=])((?:{FOLDERS})/[\w./-]+\.(?:py|yaml))", code):
            assert (ROOT / path).exists(), path


@cache
def flags() -> set[str]:
    """Every flag of a recipe, of a module of the made world, of `align`, and of the benchmarks."""
    from align.cli import COMMANDS as ALIGN

    programs = set(programs_of_yaml().values()) | {f"recipes/{path.name}" for path in RECIPES}
    programs |= {f"align {name}" for name in ALIGN}
    found = {"config_file", "num_processes", "config", "help"}  # accelerate's two, and the parser's
    for program in programs:
        found |= set(Flags(asked(program).classes).known)
    for path in (ROOT / "benchmarks").glob("*.py"):
        found |= set(re.findall(r'"--(\w+)"', path.read_text()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_a_page_names_are_known(page):
    for code in inline(page.read_text()):
        for flag in re.findall(r"(?:^|\s)--(\w+)", code):
            assert flag in flags() or f"no_{flag}" in flags() or flag.removeprefix("no_") in flags(), f"--{flag}"


def test_the_readme_fits_in_one_sitting():
    text = README.read_text()
    words = [word for word in prose(text).split() if re.search(r"\w", word)]
    assert text.count("\n") <= 160
    assert len(words) / READING_SPEED <= 5.5, f"{len(words)} words"


def tree() -> dict[str, list[str]]:
    """The README's tree: what stands at its margin, and what is set in below each."""
    found: dict[str, list[str]] = {}
    block = README.read_text().split("```\nrecipes/")[1].split("```")[0]
    for line in ("recipes/" + block).splitlines():
        name = line.split()[0]
        if line[0] != " ":
            found[name] = []
        else:
            found[list(found)[-1]].append(name)
    return found


def test_the_tree_is_the_one_on_disk():
    found = tree()
    for folder, inner in found.items():
        assert (ROOT / folder).is_dir(), folder
        for name in inner:
            assert (ROOT / folder / name).exists(), f"{folder}{name}"
    rooms = {f"{path.parent.name}/" for path in (ROOT / "align").glob("*/__init__.py")}
    files = {path.name for path in (ROOT / "align").glob("*.py")} - {"__init__.py"}
    assert rooms | files == set(found["align/"])
    assert {f"{path.parent.name}/" for path in (ROOT / "recipes").glob("*/*.yaml")} == set(found["recipes/"])


@pytest.mark.parametrize("name", ["road.svg", "road-dark.svg"])
def test_every_recipe_has_its_place(name):
    table = {path.rsplit("/", 1)[-1] for path in re.findall(r"`recipes/(\w+\.py)`", README.read_text())}
    assert table == {path.name for path in RECIPES}
    picture = xml.parse(ROOT / "docs" / name).getroot()
    words = {
        word
        for element in picture.iter()
        if element.tag.endswith(("}text", "}tspan"))
        for word in (element.text or "").split()
    }
    assert {path.stem for path in RECIPES} | {"rank", "label", "judge"} <= words


def test_both_pictures_are_the_same_drawing():
    light, dark = ((ROOT / "docs" / name).read_text() for name in ("road.svg", "road-dark.svg"))
    assert re.sub(r"#[0-9a-f]{6}", "", light) == re.sub(r"#[0-9a-f]{6}", "", dark) and light != dark
    assert "<script" not in light and "<image" not in light


def test_every_page_is_linked_and_every_picture_used():
    readme, pages = README.read_text(), "".join(page.read_text() for page in PAGES)
    for path in (ROOT / "docs").iterdir():
        if path.suffix == ".md":
            assert f"docs/{path.name}" in readme, path.name
        else:
            assert path.name in pages, f"docs/{path.name} is shown nowhere"


def test_dpo_with_an_sft_term_is_called_so():
    """The nano family's DPO has one, so a column or row of a nano table is not headed plain DPO."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            if line.startswith("|") and page.name in ("README.md", "nano.md", "compare.md"):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                assert not any(re.fullmatch(r"(after )?DPO(, beta .*)?", cell) for cell in cells), line
