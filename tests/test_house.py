"""House rules that are read off the syntax tree: who may import whom, how large a thing may grow, what a name may mean."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

# (a) A room imports from itself and from rooms further down
ROOMS = ["nano", "reviews", "cli", "plan", "compare", "evaluate", "talk", "follow", "machine", "clean", "label", "ppo",
         "train", "judge", "fetch", "report", "web", "models", "data", "run", "stats"]  # fmt: skip
APART = {
    ("nano", "reviews"),
    ("clean", "label"),
    ("evaluate", "clean"),
    ("evaluate", "label"),
    ("compare", "clean"),
    ("compare", "label"),
}

# (b) Longer than 300 lines, or fuller than 12 files, and why
LONG: dict[str, str] = {}
FULL = {"recipes": "the road itself: one file a step"}
MOST_LINES, MOST_FILES = 300, 12

# (c) Where SQL may be written
SQL_ROOMS = ("align/label/store/", "align/judge/cache.py")

# One word, one meaning (CONTRIBUTING.md): where an identifier may hold it
WORDS = {
    "judge": ("judge/", "reviews/", "compare/", "evaluate/", "label/models/", "label/store/", "run/gates.py"),
    "verdict": ("compare/", "label/", "data/pairs.py"),  # the last two for the stored column of rankings
    "ruling": ("clean/",),
    "overlap": (
        "data/",
        "evaluate/held_out.py",
        "label/config.py",
        "label/program.py",
        "label/store/rows.py",
        "compare/page/marks.py",
    ),  # label's flag, and a method of matplotlib's boxes
    "classifier": ("clean/", "nano/"),
    "queue": ("clean/", "machine/slurm.py"),  # the last one for sbatch's flag
    "planted": (),
}

# (f) Stems that every room may have
SHARED_STEMS = {"__init__", "config", "page", "tables", "figures", "server", "program"}

RECIPES = sorted((ROOT / "recipes").glob("*.py"))
MODULES = sorted((ROOT / "align").rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    """`align.data.load` of align/data/load.py, `align.data` of align/data/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imports(path: Path) -> set[str]:
    """Modules of align that a file imports anywhere in it: at the top, in functions, under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in NAMES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "align":
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in NAMES else node.module)
    return found


def closure(path: Path) -> set[Path]:
    """The files of align that a program can come to import."""
    seen, todo = set(), [path]
    while todo:
        for name in imports(todo.pop()):
            if (file := NAMES[name]) not in seen:
                seen.add(file)
                todo.append(file)
    return seen


def room(name: str) -> str | None:
    return name.split(".")[1] if "." in name else None


def strings(path: Path) -> list[str]:
    """Every string of a file, docstrings and the text of f-strings included."""
    return [n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------------------------------------------- (a) directions


def test_every_import_goes_down():
    assert {room(name) for name in NAMES} <= {None, *ROOMS}, "a room that the list does not name"
    wrong = []
    for name, path in NAMES.items():
        for other in imports(path):
            here, there = room(name), room(other)
            if here is None or there is None or here == there:
                assert there is not None or other == name, f"{name} imports the package itself"
            elif ROOMS.index(here) > ROOMS.index(there) or (here, there) in APART:
                wrong.append(f"{name} -> {other}")
    assert not wrong, wrong


def test_nothing_outside_names_the_recipes_as_modules():
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)]
            assert "recipes" not in {
                str(n).split(".")[0] for n in names if isinstance(node, (ast.Import, ast.ImportFrom))
            }


def test_no_circle_between_files():
    """Peel off what imports nothing that is left; what cannot be peeled off goes round."""
    left = {name: imports(path) - {name} for name, path in NAMES.items()}
    while done := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in done}
    assert not left, sorted(left)


def test_importing_align_is_cheap():
    code = "import sys, align; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ------------------------------------------------------------------------------------------------------- (b) (g) sizes


def test_no_room_is_crowded():
    folders = Counter(short(path.parent) for path in [*MODULES, *RECIPES])
    assert {folder for folder, count in folders.items() if count > MOST_FILES} == set(FULL)


def test_no_file_is_long():
    long = {short(path) for path in [*MODULES, *RECIPES] if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == set(LONG)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_reads_as_the_method(path):
    text = path.read_text()
    assert text.count("\n") < 80
    assert (
        not [n for n in ast.walk(tree_of(path)) if isinstance(n, (ast.For, ast.While))] and "import torch" not in text
    )
    assert path.stem not in {"datasets", "evaluate", "trl", "peft", "transformers"}


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_functions_are_short_and_public_ones_are_explained(path):
    assert path.stem not in {"utils", "util", "misc", "common", "helpers"}
    assert ast.get_docstring(tree_of(path)), "a module says what it is"
    for node in functions(path):
        assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines"
    for node in tree_of(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and node.name != "main":
            assert ast.get_docstring(node), f"{node.name} has no docstring"


TENSOR = re.compile(r"\b(Tensor|np\.ndarray)\b")
# [B, T], [N/2], [..., R], [rows] or [prompts, R]; or "a scalar"
AXIS = r"(\d*[A-Z][A-Z0-9_]*([+*/x-]\d+)?|\d+|\.\.\.|heads|rows|passes|positions|pairs|prompts)"
SHAPE = re.compile(rf"\[{AXIS}( [+*x] \d+)?(, {AXIS})*\]|\bscalar\b")


def tensor_functions(path: Path) -> list[ast.FunctionDef]:
    """Public functions, and methods of public classes, that take or give tensors."""
    owners = [tree_of(path), *(n for n in tree_of(path).body if isinstance(n, ast.ClassDef) and n.name[0] != "_")]
    found = []
    for node in (node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)):
        told = [a.annotation for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)] + [node.returns]
        if not node.name.startswith("_") and any(TENSOR.search(ast.unparse(a)) for a in told if a is not None):
            found.append(node)
    return found


def test_tensor_functions_state_shapes():
    """Of the public functions on tensors at least 85 % say in their docstring what has which shape."""
    every = [(short(path), node) for path in MODULES for node in tensor_functions(path)]
    silent = [f"{where}:{node.name}" for where, node in every if not SHAPE.search(ast.get_docstring(node) or "")]
    assert len(every) > 40 and len(silent) <= 0.15 * len(every), (len(silent), len(every), silent)


# --------------------------------------------------------------------------------------------------- (c) hidden arrows

RUNS = re.compile(r"recipes/\w+\.py|runs/nano")
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE|PRAGMA\s)",
    re.DOTALL,
)


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_the_library_names_no_program_and_no_run(path):
    """What a user is to type comes from `align.run.errors.recipe`; where the made world lies is its YAML's."""
    assert not [text for text in strings(path) if RUNS.search(text)]


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_sql_stays_with_its_tables(path):
    if not short(path).startswith(SQL_ROOMS):
        assert not [text for text in strings(path) if SQL.search(text)]


# ------------------------------------------------------------------------------------------------------------ (f) names


def test_a_name_occurs_once():
    stems, classes = defaultdict(list), defaultdict(list)
    for path in MODULES:
        if path.stem not in SHARED_STEMS:
            stems[path.stem].append(short(path))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(short(path))
    assert not {name: where for name, where in stems.items() if len(where) > 1}
    assert not {name: where for name, where in classes.items() if len(where) > 1}


def identifiers(path: Path) -> set[str]:
    """Names of functions, classes, arguments, variables and attributes."""
    kinds = {
        ast.FunctionDef: "name",
        ast.AsyncFunctionDef: "name",
        ast.alias: "asname",
        ast.ClassDef: "name",
        ast.arg: "arg",
        ast.Name: "id",
        ast.Attribute: "attr",
    }
    return {getattr(n, kinds[type(n)]) or "" for n in ast.walk(tree_of(path)) if type(n) in kinds}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_has_one_meaning(word):
    """A name that holds it, as `judge_url` and `Judgement` do `judge`, is in the rooms that the word belongs to."""
    used = {
        short(path).removeprefix("align/")
        for path in MODULES
        if any(word in name.lower() for name in identifiers(path))
    }
    assert not [where for where in sorted(used) if not where.startswith(WORDS[word])]
    assert used or not WORDS[word]


def test_nothing_private_is_named():
    """No machine's paths, no registry's address."""
    kept = ["README.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt", "Makefile", "pyproject.toml"]
    for path in [*MODULES, *RECIPES, *(ROOT / "docs").glob("*.md"), *(ROOT / name for name in kept)]:
        assert not re.search(r"/work/|/root/|/tmp/bash|pypi\.|10\.\d+\.\d+\.\d+", path.read_text()), path


def test_only_the_baseline_is_trls_ppo():
    users = [path for path in [*MODULES, *RECIPES] if "trl.experimental" in path.read_text()]
    assert [path.name for path in users] == ["baseline.py"]


def test_ci_runs_all_tests_and_ends_with_them():
    """Fast and slow ones, and the fast ones with TRL 1.12; the last thing that it prints is pytest's summary."""
    steps = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    typed = subprocess.run(
        ["make", "--no-print-directory", "-n", *[s.split()[1] for s in steps]], cwd=ROOT, capture_output=True, text=True
    )
    commands = typed.stdout.splitlines()
    assert {"make check", "make parity"} < set(steps) and steps[-1] == "make slow"
    fast, slow = '-m "not slow and not matrix and not anchor"', '-m "slow and not matrix"'
    assert any(fast in line for line in commands) and "-m pytest" in commands[-1] and slow in commands[-1]
    for tool in ("ruff format --check", "ruff check", "mypy"):
        assert any(tool in line for line in commands), tool
