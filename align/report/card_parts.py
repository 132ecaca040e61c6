"""What a model card says of a run: its rows, settings, gate and figures, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from align.report import markdown, numerals
from align.report.markup import Table
from align.run.lineage import NO_MODELS
from align.run.received.ancestry import Ancestor
from align.stats import Estimate, rate

# Settings that stand elsewhere on the card, or say nothing about the model
ELSEWHERE = {
    "output_dir", "overwrite", "accept_failed", "preview", "dataset_name", "datasets", "model_name_or_path",
    "reward_model_path", "tokenizer_name_or_path", "resume_from_checkpoint", "disable_tqdm", "report_to", "push_to_hub",
    "hub_model_id", "hub_private_repo", "hub_strategy", "run_name", "dataset_num_proc",
}  # fmt: skip
# What is shown of the metrics: name, in words, what they are counts of (a share of so many has an interval)
SHOWN: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "pretrain": (("loss", "loss on held-out text, nats a token", None), ("perplexity", "perplexity", None),
                 ("bits_per_byte", "bits a byte", None)),
    "sft": (("loss_before", "loss on held-out demonstrations before", None), ("eval_loss", "and after", None),
            ("eval_mean_token_accuracy", "tokens of them that are the likeliest", None),
            ("stops", "greedy answers that end by themselves", "stops_prompts")),
    "reward": (("accuracy", "held-out pairs in the right order", None),
               ("length_only_accuracy", "the same by length alone", None), ("reward_mean", "mean score", None),
               ("reward_std", "spread of scores", None)),
    "dpo": (("eval_loss", "loss on held-out pairs", None),
            ("eval_rewards/accuracies", "held-out pairs in the right order", None),
            ("eval_rewards/margins", "margin on them", None)),
    "ppo": (("objective/scores", "score of the last rollout's completions", None),
            ("objective/kl", "their KL to the reference, nats a sequence", None),
            ("rollout/eos_rate", "of them end by themselves", None), ("rollout/length", "their length, tokens", None)),
    "rloo": (("train_loss", "training loss", None),),
}  # fmt: skip


class Rows(NamedTuple):
    """A split as the record has it, and the licence that its source names."""

    split: str
    source: str
    used: int
    read: int
    dropped: dict[str, Any]
    fingerprint: str
    licence: str | None


def place(path: str) -> str:
    """A path or a name as it may be sent: of one from the root on, its last two parts."""
    parts = Path(path).parts
    return path if not Path(path).is_absolute() else "/".join(("…", *parts[-2:]))


def rows(split: str, found: dict[str, Any], others: dict[str, Ancestor]) -> Rows:
    """A split, and the licence of the parent that its rows come from."""
    source = str(found["source"])
    named = [one.licence for role, one in others.items() if role.startswith(NO_MODELS[0]) and one.licence
             and source.startswith(one.path)]  # fmt: skip
    used, read = int(found.get("rows_out") or 0), int(found.get("rows_in") or 0)
    dropped = found.get("dropped") or {}
    return Rows(split, source, used, read, dropped, str(found.get("fingerprint") or ""), next(iter(named), None))


def data(found: list[Rows]) -> str:
    """The rows, as a table."""
    if not found:
        return ""
    table = [
        (one.split, place(one.source), numerals.number(one.used), numerals.number(max(one.read - one.used, 0)),
         one.fingerprint[:12], one.licence or "not stated") for one in found
    ]  # fmt: skip
    reasons = {reason for one in found for reason in one.dropped}
    why = f"\n\nRows were dropped for: {markdown.text(', '.join(map(str, sorted(reasons))))}." if reasons else ""
    head = ("split", "source", "rows used", "rows dropped", "fingerprint", "licence")
    return f"## Data\n\n{markdown.table(Table('Rows', head, table))}{why}"


def settings(record: dict[str, Any]) -> str:
    """The settings that were given."""
    given = record.get("given")
    if given is None:
        return ""
    shown = [(name, _value(record["config"].get(name))) for name in given if name not in ELSEWHERE]
    note = "All others are the recipe's defaults; the run's own record (run.json) has every one."
    if not shown:
        return f"## Settings\n\nNone was given. {note}"
    return (
        f"## Settings\n\n{markdown.table(Table('Given by the command or its YAML', ('setting', 'value'), shown, note))}"
    )


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return place(text) if len(text) <= 200 else text[:200] + "…"


def gate(held: dict[str, Any] | None) -> str:
    """What the run was held to."""
    if held is None:
        return "## Gate\n\nNo gate was measured for this run."
    rows = [(one["name"], numerals.number(one["value"]), one["bound"], "passed" if one["passed"] else "FAILED")
            for one in held["checks"]]  # fmt: skip
    missing = [f"- Not measured: {markdown.text(what)} ({markdown.text(why)})"
               for what, why in (held.get("not_measured") or {}).items()]  # fmt: skip
    caption = "Passed" if held["passed"] else "Failed"
    table = markdown.table(Table(caption, ("check", "value", "must be", ""), rows)) if rows else ""
    return "\n\n".join(filter(None, ["## Gate", table, "\n".join(missing)]))


def evaluation(record: dict[str, Any], measured: str | None = None) -> str:
    """The run's own figures, and what an evaluation of it found (`measured`, as Markdown). Behind a figure stands its
    interval, where the record has one or enough to work it out."""
    metrics, rows = record.get("metrics") or {}, []
    for name, words, of in SHOWN.get(record["recipe"], ()):
        value = metrics.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        low, high, n = metrics.get(f"{name}_low"), metrics.get(f"{name}_high"), metrics.get(of or "n")
        if of and n:
            text = numerals.estimate(rate(round(value * n), n), share=True)
        elif low is not None and high is not None:
            text = numerals.estimate(Estimate(value, low, high, int(n or 1)), share=True)
        else:
            text = numerals.number(float(value))
        rows.append((words, text, numerals.number(int(n)) if n and (of or low is not None) else numerals.ABSENT))
    where = measured or "These are the figures of the training itself; no evaluation was made of it."
    if not rows:
        return f"## Evaluation\n\n{where}"
    note = "In brackets the 95 % interval, where there is one."
    return f"## Evaluation\n\n{markdown.table(Table('Held out', ('measure', 'value', 'of'), rows, note))}\n\n{where}"


def limits(record: dict[str, Any], found: list[Rows], held: dict[str, Any] | None, licence: str | None,
           scores: bool) -> str:  # fmt: skip
    """What this model was not shown to do; what is said follows from the record. `scores`: it is a reward model."""
    said = []
    if scores:
        said.append(
            "It was trained to order answers to one prompt: scores of answers to different prompts are not comparable, "
            "and a policy that is trained on it for long finds what it is wrong about."
        )
    else:
        said.append("Nothing here says that its answers are true or harmless: that takes an evaluation for your use.")
    if held is None:
        said.append("No gate was measured.")
    elif not held["passed"]:
        said.append("**Its gate failed.** Nothing should be built on it without knowing why.")
    elif held.get("not_measured"):
        said.append("Its gate could not measure everything.")
    if found and not any(one.split == "test" for one in found):
        said.append("No rows were held out, so nothing says how it does on rows that it was not trained on.")
    lost = sum(one.read - one.used for one in found if one.split == "train" and one.read > one.used)
    if lost:
        said.append(f"{numerals.number(lost)} rows were not trained on: it does not know what they would have taught.")
    if any(one.licence is None for one in found):
        said.append("The licence of its data is not stated by all that was read.")
    if licence is None:
        said.append("The licence of its base is not known.")
    if record.get("seed") is not None and int(record.get("world_size") or 1) == 1:
        said.append("Another machine with the same seed gives other figures.")
    return "## Limits\n\n" + "\n".join(f"- {one}" for one in said)
