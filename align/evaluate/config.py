"""What is measured and how: the arguments that evaluation and comparison share, and those of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from align.models import scorers
from align.run import gates
from align.run.arguments import CodeArguments, PromptArguments, RunArguments, TrialArguments
from align.run.errors import ConfigError
from align.run.lineage import parent_problem


@dataclass
class MeasureArguments(RunArguments, PromptArguments, CodeArguments):
    """How policies are sampled and scored: what evaluation and comparison share."""

    output_dir: str | None = field(default=None, metadata={"help": "Where results and completions are written."})
    reward_model_path: str | None = field(default=None, metadata={"help": "Reward model: the proxy."})
    gold_func: str | None = field(
        default=None,
        metadata={"help": "A grader that no method was trained on, as `file.py:name`: (prompts, completions, …)."},
    )
    gold_model_path: str | None = field(default=None, metadata={"help": "The same, as a second reward model."})
    second_func: str | None = field(
        default=None,
        metadata={
            "help": "A second grader, as `file.py:name`, which then has the last word: for a gold grader that made the "
            "preferences or the reward that something was trained on."
        },
    )
    rates_func: str | None = field(
        default=None,
        metadata={"help": "`file.py:name` to yes/no grades (helpful, harmless, …) of the most likely completion."},
    )
    num_generations: int = field(default=1, metadata={"help": "Completions sampled for each prompt."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion."})
    temperature: float = field(default=1.0, metadata={"help": "Of sampling."})
    dtype: str = field(
        default="float32",  # in bf16, two models that hardly differ are nats apart by rounding alone
        metadata={"help": "Of policies and reference alike: float32, or bfloat16 where the two do not fit otherwise."},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Sequences at once."})
    seed: int = field(default=0, metadata={"help": "Of sampling and bootstrap."})
    measured: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Output folders of evaluations and comparisons: completions that one of them measured of the same "
            "model, prompts, graders and settings are taken from there."
        },
    )
    leave_out_leaks: bool = field(
        default=False, metadata={"help": "Leave out the prompts, equal or nearly so, that a model was trained on."}
    )
    accept_leaks: bool = field(
        default=False, metadata={"help": "Measure prompts that a model was trained on as well; the report says so."}
    )

    def __post_init__(self) -> None:
        problems = []
        if self.temperature <= 0:
            problems.append(f"temperature={self.temperature}: KL and reward are measured on samples; give one above 0")
        if self.dtype not in ("float32", "bfloat16"):
            problems.append(f"dtype={self.dtype}: models are measured in float32 or bfloat16")
        for name in ("num_generations", "max_new_tokens", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)}: at least 1")
        if self.leave_out_leaks and self.accept_leaks:
            problems.append("leave_out_leaks and accept_leaks were both given: drop one")
        problems += [f"measured: {path} has no completions/ of an evaluation or a comparison" for path in self.measured
                     if not (Path(path) / "completions").is_dir()]  # fmt: skip
        if self.gold_func and self.gold_model_path:
            problems.append("gold_func and gold_model_path were both given: one gold score decides; drop one")
        for where in filter(None, (self.gold_func, self.second_func, self.rates_func)):
            try:
                scorers.load_function(where)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))

    def graders(self) -> dict[str, str | None]:
        """What scores, by role, for the record's lineage."""
        return {
            "reward_model": self.reward_model_path, "gold_model": self.gold_model_path, "gold_func": self.gold_func,
            "second_func": self.second_func, "rates_func": self.rates_func,
        }  # fmt: skip


@dataclass
class EvalConfig(MeasureArguments, TrialArguments):
    """What the eval recipe takes beside the prompts' data arguments and the judge's."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "The model to evaluate, adapters included."})
    models: list[str] = field(
        default_factory=list, metadata={"help": "Several: name=path each, in the order of the table's columns."}
    )
    reference_model_path: str | None = field(
        default=None, metadata={"help": "What KL and win rates are measured against; the SFT model, as a rule."}
    )
    pairs: str | None = field(default=None, metadata={"help": "Held-out preference pairs or rankings: accuracies."})
    texts: str | None = field(default=None, metadata={"help": "Held-out plain text: perplexity, the alignment tax."})
    max_texts: int = field(default=200, metadata={"help": "At most so many documents of it."})
    suites: list[str] = field(
        default_factory=list, metadata={"help": "name=file each: safe and unsafe prompts (XSTest's format), or skills."}
    )
    personas: str | None = field(default=None, metadata={"help": "A sheet of topics and personas (YAML)."})
    lm_eval_tasks: list[str] = field(default_factory=list, metadata={"help": "Standard suites by lm-eval's names."})
    lm_eval_limit: int | None = field(default=None, metadata={"help": "At most so many items of each."})
    kl_budget: float = field(default=gates.KL_BUDGET, metadata={"help": "Of the gate of PPO and DPO runs, in nats."})
    max_pairs: int = field(default=1000, metadata={"help": "At most so many pairs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models and self.model_name_or_path:
            self.models = [f"{Path(self.model_name_or_path).name}={self.model_name_or_path}"]
        named = dict(entry.partition("=")[::2] for entry in self.models)
        problems = [f"models: {entry!r} is not name=path" for entry in self.models if "=" not in entry]
        problems += [f"suites: {entry!r} is not name=file" for entry in self.suites if "=" not in entry]
        if not self.models:
            problems.append("models is needed: --models sft=runs/mine/sft ppo=runs/mine/ppo, or --model_name_or_path")
        if len(named) != len(self.models):
            problems.append("models: every model needs a name of its own")
        for path in filter(None, [*named.values(), self.reference_model_path, self.pairs, self.texts]):
            if problem := parent_problem(path, allow_hub=True):
                problems.append(problem)
        if problems:
            raise ValueError("; ".join(problems))

    def named(self) -> dict[str, str]:
        """Paths by name. The reference is one of them, or the first."""
        return dict(entry.partition("=")[::2] for entry in self.models)

    def reference(self) -> str:
        """The reference's path."""
        return self.reference_model_path or next(iter(self.named().values()))
