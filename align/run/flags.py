"""The flags of a recipe: TRL's parser over its dataclasses, asked about every value by itself."""

from __future__ import annotations

import argparse
import difflib
from collections import Counter
from dataclasses import fields
from typing import Any

# Fields of TRL's and transformers' own classes that our recipes decide, and what to do instead of setting them.
REFUSED = {
    "gradient_accumulation_steps": "it is derived: state --global_batch_size and --per_device_train_batch_size",
    "assistant_only_loss": "the loss is always on the assistant's tokens and the stop token only",
    "completion_only_loss": "the loss is always on the completion and the stop token only",
    "dataset_text_field": "map the column instead: --columns body=text",
    "dataset_kwargs": "rows are tokenised by align.data.prepare; there is nothing to pass on",
    "truncation_mode": "rows are never truncated; see --max_length and --max_too_long",
    "pad_token": "the pad token is chosen so that it differs from every stop token; see align.data.chat",
    "eos_token": "the stop token is read off the chat template; see --chat_template_path",
    "model_init_kwargs": "use --dtype, --attn_implementation and --model_revision",
    "lora_task_type": "each recipe sets it (SEQ_CLS for reward models, CAUSAL_LM elsewhere)",
    "auto_find_batch_size": "it would change the global batch unseen; give --find_batch_size, which keeps it",
    "stop_token": "the stop token is read off the chat template",
    "stop_token_id": "the stop token is read off the chat template",
    "hub_token": "it would be kept in run.json, which is pushed as well; give it as HF_TOKEN, or once: hf auth login",
    "sft_model_path": "use --model_name_or_path",
    "ignore_data_skip": "a resumed run must see the rows that it has not seen yet",
    "deepspeed": "launch with accelerate_configs/zero2.yaml (or zero1, zero3)",
    "fsdp": "launch with accelerate_configs/fsdp2.yaml",
    "load_best_model_at_end": "not supported yet: the last model is the one that is saved",
    "metric_for_best_model": "the last model is the one that is saved, so none is chosen",
    "greater_is_better": "the last model is the one that is saved, so none is chosen",
    "save_only_model": "a checkpoint without its optimizer could not be resumed, and that is what checkpoints are for",
    "label_smoothing_factor": "the losses are those of the methods, and held-out losses are likelihoods",
    "label_names": "the losses read the labels that align.data.prepare makes",
    "remove_unused_columns": "the trainers choose the columns that they read",
    "padding_free": "rows of a batch are padded; SFT's way without padding is --packing",
    "eval_packing": "held-out rows are never packed, so that their loss is the same with and without --packing",
    "shuffle_dataset": "rows are drawn in random order, by --seed",
    "bf16_full_eval": "a model is evaluated as it is trained, or losses before and after could not be compared",
    "fp16_full_eval": "a model is evaluated as it is trained, or losses before and after could not be compared",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a recipe trains, then evaluates where there are rows to"),
}

# Flags of ours that only some recipes take, and why another one does not
ELSEWHERE = {
    **dict.fromkeys(
        ("dataset_streaming", "shuffle_buffer_size"), "only sft and pretraining stream; others read every row first"
    ),
    **dict.fromkeys(
        ("ties", "pair_weights", "annotators", "aggregate", "pairs_together"),
        "only recipes that learn from pairs take it (reward, dpo)",
    ),
}

# The same of flags that every kind of program might be asked for
TRIALS = {
    "dry_run": "what trains has it, what samples and evaluates, and the pipeline, which then lists its stages",
    "find_batch_size": "only recipes that train take it; others have --per_device_eval_batch_size, or no batches",
}


class Flags:
    """TRL's parser, asked about every value by itself so that all problems come out at once."""

    def __init__(self, classes: tuple[type, ...]):
        from trl import TrlParser

        # `dataset_num_proc` is in TRL's configs as well as in our DataArguments: it is one flag, and fills both
        names = Counter(field.name for one in classes for field in fields(one))
        assert {name for name, count in names.items() if count > 1} <= {"dataset_num_proc"}, names
        self.parser = TrlParser(
            classes, allow_abbrev=False, formatter_class=argparse.HelpFormatter, conflict_handler="resolve"
        )
        # a flag that is on by default has a second action, `--no_flag`, which knows no type
        self.actions = {a.dest: a for a in self.parser._actions if f"--{a.dest}" in a.option_strings}
        self.actions.pop("help")
        if "report_to" in self.actions:  # transformers takes a list, which its annotation does not tell a parser
            self.actions["report_to"].nargs = "+"
        self.known = sorted(self.actions)

    def typed(self, given: dict[str, Any], refused: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
        """Raw values as their fields' types, and why others cannot be given.

        Args:
            given: values of a YAML file or of the command line.
            refused: keys that this recipe decides itself, beside those that all recipes do.
        """
        values: dict[str, Any] = {}
        problems = []
        reasons = REFUSED | refused
        for key, value in given.items():
            if key in reasons and (key not in self.actions or value not in (None, "auto")):
                problems.append(f"{key} cannot be set: {reasons[key]}")
            elif key not in self.actions:
                problems.append(self._unknown(key))
            elif isinstance(value, list) and self.actions[key].nargs != "+":
                problems.append(f"{key} takes one value, not a list: {value!r}")
            else:
                try:
                    values[key] = self._value(key, value)
                except argparse.ArgumentError as error:
                    problems.append(f"{key}: {str(error).split(': ', 1)[-1]}")
        return values, problems

    def _value(self, key: str, value: Any) -> Any:
        """A value with its field's type. What only YAML can say (nothing, mappings) stays as it is."""
        action = self.actions[key]
        if value is None or isinstance(value, dict):
            return value
        if isinstance(value, list):
            return [item if isinstance(item, dict) else self._item(action, item) for item in value]
        return [self._item(action, value)] if action.nargs == "+" else self._item(action, value)

    def _item(self, action: argparse.Action, value: Any) -> Any:
        found = self.parser._get_value(action, str(value).lower() if isinstance(value, bool) else str(value))
        self.parser._check_value(action, found)
        return found

    def _unknown(self, key: str) -> str:
        if key in ELSEWHERE and "dataset_test_split" in self.actions:  # not of `align label` and its like
            return f"{key} is not a flag of this recipe: {ELSEWHERE[key]}"
        if key in TRIALS:
            return f"{key} is not a flag here: {TRIALS[key]}"
        close = difflib.get_close_matches(key, self.known, n=1, cutoff=0.5)
        return f"unknown key {key}" + (f"; did you mean {close[0]}?" if close else "")

    def command_line(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """`--key value`, `--key=value`, `--flag` and `--no_flag` into keys and raw values, and what is not one."""
        given: dict[str, Any] = {}
        stray: list[str] = []
        index = 0
        while index < len(argv):
            token = argv[index]
            index += 1
            if not token.startswith("--"):
                stray.append(f"stray argument {token!r}: arguments are --key value")
                continue
            key, equals, inline = token[2:].partition("=")
            values = [inline] if equals else []
            while not equals and index < len(argv) and not argv[index].startswith("--"):
                values.append(argv[index])
                index += 1
            action = self.parser._option_string_actions.get(f"--{key}")
            name = action.dest if action else key
            if not values:
                takes_none = action is None or action.nargs in ("?", 0)
                given[name] = name == key or not key.startswith("no_")  # `no_token` is a flag of that name
                if not takes_none:
                    stray.append(f"{name} needs a value")
            elif action is not None and action.nargs == "+":
                given[name] = values
            else:
                given[name] = values[0]
                stray += [f"stray argument {value!r} after --{key} {values[0]}" for value in values[1:]]
        return given, stray
