"""Standard suites by name (truthfulqa_mc1, bbq, gsm8k, mmlu …) through EleutherAI's lm-evaluation-harness.

Their rows come from the hub, so they need a network or a filled cache; a task of one's own is a YAML file beside its
rows: https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/new_task_guide.md.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from pathlib import Path
from typing import Any

from align import stats
from align.run.errors import ConfigError, DataError

BOOTSTRAP = 1000  # draws for metrics without a formula; the harness's own 100,000 take minutes and change nothing
# Metrics that are shares of the samples, so that their interval ends at 0 and 1. Others (perplexity, BLEU, BBQ's bias
# scores from -1 to 1) have bounds of their own or none, and their intervals are left as they are.
SHARES = re.compile(r"(acc|accuracy|exact_match|em|f1|prompt_level|inst_level)(_|$)")


def run(
    model: Any,
    tokenizer: Any,
    tasks: list[str],
    *,
    limit: int | None,
    batch_size: int,
    chat_template: bool,
    seed: int,
) -> dict[str, dict[str, stats.Estimate]]:
    """Measure a frozen model on standard suites.

    Args:
        model: a causal language model (adapters merged), in eval mode.
        tokenizer: the model's.
        tasks: names of tasks, groups (`mmlu`) or tags (`truthfulqa`) of the harness, or YAML files.
        limit: use at most so many rows of each task; None for all.
        chat_template: put each question into the tokenizer's template as a user's turn.
        seed: of few-shot examples, sampling and the harness's bootstrap; the global generators are seeded with it.

    Returns:
        `{task: {metric: estimate}}`, an entry for each task and, where a group has a mean of its own, for the group.
        A metric of a filter other than `none` is named `metric,filter`. The interval is value ± 1.96 standard errors
        (shares cut at 0 and 1); where the harness has no standard error, `low` and `high` are None.

    Raises:
        ConfigError: if lm-eval is missing, for an unknown task (with the nearest names), for tasks that overlap or that
            would run generated code, and for a chat template that is not there.
        DataError: if a task's rows cannot be had.
    """
    check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if chat_template and not tokenizer.chat_template:
        raise ConfigError("chat_template was asked for, but the tokenizer has none; see --chat_template_path")
    manager = _manager(tasks)
    loaded = _load(manager, tasks)
    found = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=_roots(loaded),
        limit=limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=False,
        apply_chat_template=chat_template,
        task_manager=manager,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    assert found is not None, "the harness gives results on the main process only"
    return {task: _estimates(task, values) for task, values in found["results"].items() if values.get("sample_len")}


def check_installed() -> None:
    """Is the harness here?

    Raises:
        ConfigError: where it is not.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"standard suites need lm-eval ({error}): pip install -e .[eval]") from error


@functools.cache
def _index(own: bool) -> Any:
    """The tasks that the harness knows; its `own` are thousands of files, which take many seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=own)


def _manager(tasks: list[str]) -> Any:
    """An index in which all of `tasks` are."""
    if not tasks:
        raise ConfigError("no standard suite was named: truthfulqa_mc1, bbq, gsm8k …")
    manager = _index(False)
    if not _unknown(manager, tasks):
        return manager
    manager = _index(True)
    problems = []
    for name in _unknown(manager, tasks):
        close = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
        problems.append(f"{name}" + (f" (did you mean {', '.join(close)}?)" if close else ""))
    if problems:
        raise ConfigError(f"lm-eval knows no task {'; '.join(problems)}")
    return manager


def _unknown(manager: Any, tasks: list[str]) -> list[str]:
    return [name for name in tasks if name not in manager.task_index and not Path(name).is_file()]


def _load(manager: Any, tasks: list[str]) -> Any:
    """Tasks with their rows, ready to run."""
    try:
        loaded = manager.load(list(tasks))
    except OSError as error:  # what datasets and the hub client raise where rows cannot be had
        raise DataError(f"the rows of {', '.join(tasks)} cannot be had: {str(error).splitlines()[0]}") from error
    except (ValueError, KeyError) as error:
        raise ConfigError(f"lm-eval cannot set up {', '.join(tasks)}: {str(error).splitlines()[0]}") from error
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise ConfigError(f"{', '.join(unsafe)} would run the code that the model writes; use lm-eval in a sandbox")
    return loaded


def _roots(loaded: Any) -> list[Any]:
    """Groups and tasks that belong to no other group: the harness takes each of them once."""
    inside = {child for children in loaded["group_map"].values() for child in children}
    return [item for kind in ("groups", "tasks") for name, item in loaded[kind].items() if name not in inside]


def _estimates(task: str, values: dict[str, Any]) -> dict[str, stats.Estimate]:
    """One task's `metric,filter` and `metric_stderr,filter` entries to estimates."""
    out: dict[str, stats.Estimate] = {}
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            print(f"note: {task}: {metric} has no value on these {values['sample_len']} samples ({value})", flush=True)
            continue
        error = values.get(f"{metric}_stderr,{kind}")
        low = high = None
        if isinstance(error, (int, float)) and math.isfinite(error):
            low, high = float(value - 1.96 * error), float(value + 1.96 * error)
            if SHARES.match(metric) and 0 <= value <= 1:
                low, high = max(0.0, low), min(1.0, high)
        name = metric if kind == "none" else key
        out[name] = stats.Estimate(float(value), low, high, int(values["sample_len"]))
    return out
