"""No flag without a reader, no YAML line that says what holds anyway: read off what the recipes hand to `parse`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import runpy
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_house import RECIPES, closure, tree_of
from trl import SFTConfig

from align.cli import COMMANDS
from align.run.flags import REFUSED, Flags

# Fields that nobody reads by name, and why that is right
READ_OTHERWISE = {
    name: "align.models.checkpoints hands `model_args` to TRL's get_quantization_config"
    for name in (
        "load_in_4bit",
        "load_in_8bit",
        "bnb_4bit_quant_type",
        "bnb_4bit_quant_storage",
        "use_bnb_nested_quant",
    )
}
BY_KEY = [ROOT / "align/run/parse.py", ROOT / "align/run/device.py"]  # where values are still a mapping


class Parsed(Exception):
    """What a recipe told `parse`."""

    def __init__(self, classes: tuple[type, ...], told: dict[str, Any]):
        self.classes, self.told = classes, told


@cache
def asked(program: str) -> Parsed:
    """Start a recipe, `-m module` or `align command` up to where it parses."""
    import align.run.parse

    def stop(*classes: type, **told: Any) -> None:
        raise Parsed(classes, told)

    owner: Any = align.run.parse
    start: Any = partial(runpy.run_path, str(ROOT / program), run_name="__main__")
    if program.startswith("-m "):
        owner = importlib.import_module(program[3:])  # it holds a `parse` of its own already
        start = owner.main
    elif program.startswith("align "):
        module, _, name = COMMANDS[program.removeprefix("align ")][0].partition(":")
        owner = importlib.import_module(module)
        start = partial(getattr(owner, name), [])
    before, argv, path = owner.parse, sys.argv, list(sys.path)
    owner.parse, sys.argv = stop, [program]
    try:
        start()
    except Parsed as parsed:
        return parsed
    finally:
        owner.parse, sys.argv, sys.path[:] = before, argv, path
    raise AssertionError(f"{program} did not parse anything")


# --------------------------------------------------------------------------------------------- (d) every field is read


def attributes(paths: set[Path]) -> set[str]:
    """Names that are read as attributes anywhere in these files, or as keys where the configuration is put together."""
    keys = {
        node.args[0].value
        for path in BY_KEY
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "get"
        and isinstance(node.args[0], ast.Constant)
    }
    return keys | {
        node.attr
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def own_fields(cls: type) -> set[str]:
    """A dataclass's fields that are not those of a class of TRL or transformers, which read them themselves; TRL's
    `ModelConfig` is read by us alone."""
    theirs = {
        field.name
        for base in cls.__mro__[1:]
        if dataclasses.is_dataclass(base) and base.__module__.split(".")[0] in ("trl", "transformers")
        for field in dataclasses.fields(base)
    }
    if cls.__module__.split(".")[0] in ("trl", "transformers") and cls.__name__ != "ModelConfig":
        return set()
    return {field.name for field in dataclasses.fields(cls) if field.init} - theirs


def unread(recipe: Path, classes: tuple[type, ...], refused: dict[str, str]) -> set[str]:
    """Fields of a recipe's dataclasses that nothing it imports reads, and that it does not refuse either."""
    fine = attributes({recipe, *closure(recipe)}) | set(REFUSED) | set(refused) | set(READ_OTHERWISE)
    return {f"{cls.__name__}.{name}" for cls in classes for name in own_fields(cls) if name not in fine}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_every_field_is_read_or_refused(recipe):
    parsed = asked(f"recipes/{recipe.name}")
    assert not unread(recipe, parsed.classes, parsed.told.get("refused") or {})


def test_a_field_that_nobody_reads_is_found():
    """A flag of ours, and one laid over TRL's configuration; TRL's own fields are TRL's to read."""
    ours = dataclasses.make_dataclass("Ours", [("learning_rates", float, 0.0), ("max_dropped", float, 0.0)])
    over = dataclasses.make_dataclass("Over", [("forgotten_flag", int, 0)], bases=(SFTConfig,))
    recipe = ROOT / "recipes/sft.py"
    assert unread(recipe, (ours, over), {}) == {"Ours.learning_rates", "Over.forgotten_flag"}
    assert unread(recipe, (ours, over), {"forgotten_flag": "not here"}) == {"Ours.learning_rates"}


@pytest.mark.parametrize(
    "program",
    ["recipes/tokenizer.py", "recipes/pretrain.py", "-m align.nano.rank", "-m align.nano.corpus.train_classifier"],
)
def test_what_a_program_does_not_honour_it_refuses(program):
    """Another recipe reads `max_dropped` in the same module, so the test above cannot see that these do not."""
    parsed = asked(program)
    _, problems = Flags(parsed.classes).typed({"max_dropped": 0.5}, parsed.told.get("refused") or {})
    assert len(problems) == 1 and problems[0].startswith("max_dropped cannot be set: ")


def test_flags_of_pairs_belong_to_recipes_that_learn_from_pairs():
    takers = {
        path.stem for path in RECIPES if "PairArguments" in {c.__name__ for c in asked(f"recipes/{path.name}").classes}
    }
    assert takers == {"reward", "dpo"}


def test_several_trackers_are_named_as_transformers_takes_them():
    """Its annotation has a list, which its own parser cannot read off it."""
    flags = Flags(asked("recipes/sft.py").classes)
    given, stray = flags.command_line(["--report_to", "tensorboard", "trackio", "--max_steps", "3"])
    assert not stray and flags.typed(given, {}) == ({"report_to": ["tensorboard", "trackio"], "max_steps": 3}, [])
    assert flags.typed({"report_to": "none"}, {})[0] == {"report_to": ["none"]}
    assert SFTConfig(report_to=["none"], use_cpu=True, bf16=False).report_to == []


# ------------------------------------------------------------------------------------------- (e) no default said twice


def programs() -> dict[Path, str]:
    """Which program each YAML file is for: the one that a chain runs with it, else the recipe of its name."""
    found = {}
    for path in sorted((ROOT / "recipes").glob("*/*.yaml")):
        for stage in (yaml.safe_load(path.read_text()) or {}).get("stages", []):
            found[ROOT / stage["config"]] = stage["run"]
    for path in sorted((ROOT / "recipes").glob("*/*.yaml")):
        name = re.sub(r"-.*", "", path.stem)
        if path not in found and (ROOT / "recipes" / f"{name}.py").is_file():
            found[path] = f"recipes/{name}.py"
        elif path not in found and (ROOT / "align/nano" / f"{name}.py").is_file():
            found[path] = f"-m align.nano.{name}"
    return found


def default_of(parsed: Parsed, key: str, use_peft: bool) -> Any:
    """What a key would be if the YAML did not name it; `None` counts as a default only where it is one."""
    told = parsed.told
    for values in ((told.get("lora_defaults") or {}) if use_peft else {}, told.get("defaults") or {}):
        if key in values:
            return values[key]
    for cls in parsed.classes:
        for field in dataclasses.fields(cls):
            if field.name == key:
                if field.default is not dataclasses.MISSING:
                    return field.default
                if field.default_factory is not dataclasses.MISSING:
                    return field.default_factory()
    return dataclasses.MISSING


@pytest.mark.parametrize("path", sorted(programs()), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_yaml_says_what_differs_and_nothing_unknown(path):
    parsed, told = asked(programs()[path]), yaml.safe_load(path.read_text())
    typed, problems = Flags(parsed.classes).typed(told, parsed.told.get("refused") or {})
    assert not problems
    use_peft = bool(typed.get("use_peft"))
    assert not [key for key, value in typed.items() if default_of(parsed, key, use_peft) == value]


def test_losing_more_rows_than_usual_has_a_reason_on_its_line():
    """A limit that was raised for one set of rows hides what is wrong with the next."""
    lines = [line for path in programs() for line in path.read_text().splitlines()]
    assert not [line for line in lines if line.startswith(("max_dropped:", "max_too_long:")) and "#" not in line]


def test_every_yaml_belongs_to_a_program():
    every = set((ROOT / "recipes").glob("*/*.yaml"))
    assert {path.name for path in every - set(programs())} == {
        "personas.yaml",
        "piqa.yaml",
    }, "a sheet and a task of lm-eval's are no configurations"


def test_a_comparison_restates_nothing_of_its_arms():
    """`ppo:` and `dpo:` of a comparison are laid over `ppo_config` and `dpo_config`: what they say differs from those."""
    for path in sorted((ROOT / "recipes").glob("*/compare.yaml")):
        told = yaml.safe_load(path.read_text())
        for method in ("ppo", "dpo", "rloo"):
            under = (
                yaml.safe_load((ROOT / told[f"{method}_config"]).read_text()) if told.get(f"{method}_config") else {}
            )
            parsed = asked(f"recipes/{method}.py")
            for key, value in (told.get(method) or {}).items():
                below = under[key] if key in under else default_of(parsed, key, bool(under.get("use_peft")))
                assert value != below, (path.name, method, key)


def test_chains_restate_nothing_of_a_stage():
    for path in sorted((ROOT / "recipes").glob("*/pipeline.yaml")):
        for stage in yaml.safe_load(path.read_text())["stages"]:
            assert stage.get("resumable") is not True and stage.get("seeded") is not True, (path, stage["name"])


def test_launchers_hold_no_hyperparameters():
    for path in (ROOT / "accelerate_configs").glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        assert not {"learning_rate", "gradient_accumulation_steps"} & set(settings)
        assert settings["mixed_precision"] == "no"
