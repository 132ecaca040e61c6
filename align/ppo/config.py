"""What the PPO recipe takes beside transformers' `TrainingArguments`, and which of it cannot go together."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from align.run.arguments import CodeArguments, PromptArguments
from align.run.checks import limits, versions
from align.run.errors import fail, recipe
from align.run.trial import throwaway

_WORKED_OUT = "it is worked out from --global_batch_size, --num_mini_batches and --per_device_train_batch_size"
_ADAPTERS = "the policy's adapter is `default`, and the reference has none"

# Fields of TRL's `PPOConfig` that are no flags here, and why
REFUSED = {
    **dict.fromkeys(
        ("world_size", "batch_size", "mini_batch_size", "micro_batch_size", "local_batch_size", "local_mini_batch_size",
         "num_total_batches"), _WORKED_OUT,
    ),
    "model_adapter_name": _ADAPTERS,
    "ref_adapter_name": _ADAPTERS,
}  # fmt: skip


@dataclass
class PPOArguments(PromptArguments, CodeArguments, TrainingArguments):
    """PPO's settings. Names are TRL's: of its `PPOConfig`, or of the trainer that has the thing."""

    # ---- as in TRL's PPOConfig; rate, epochs, temperature and the two coefficients are those of Huang et al. 2024 (the
    # N+ implementation details of RLHF with PPO) ----
    learning_rate: float = field(default=3e-6, metadata={"help": "The initial learning rate for AdamW."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimizer steps of one pass over a rollout."})
    total_episodes: int | None = field(
        default=None, metadata={"help": "Episodes in all. None: num_train_epochs over the prompts."}
    )
    local_rollout_forward_batch_size: int = field(
        default=64, metadata={"help": "Episodes that one process samples, or scores, at once."}
    )
    num_sample_generations: int = field(default=10, metadata={"help": "Tables of samples shown during the training."})
    response_length: int = field(default=53, metadata={"help": "Most tokens of a completion."})
    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature."})
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the score of a completion that does not stop; positive."}
    )
    reward_model_path: str | None = field(
        default=None, metadata={"help": "Reward model: a folder, a finished run, an adapter, or a hub id."}
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over a rollout."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale each token's reward to variance 1."})
    kl_coef: float = field(default=0.05, metadata={"help": "Weight of the KL penalty."})
    kl_estimator: Literal["k1", "k3"] = field(
        default="k1",
        metadata={"help": "Estimator of the KL (http://joschu.net/blog/kl-approx.html): k3 has the lower variance."},
    )
    cliprange: float = field(default=0.2, metadata={"help": "Clip range of the ratio."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Clip range of the values."})
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of GAE."})
    ds3_gather_for_generation: bool = field(
        default=True, metadata={"help": "ZeRO-3 gathers the weights once for a rollout; nothing else is supported."}
    )

    # ---- ours ----
    engine: Literal["align", "trl"] = field(
        default="align", metadata={"help": "`trl`: TRL 1.12's own trainer, the baseline; one process only."}
    )
    value_model: Literal["head", "adapter", "full"] = field(
        default="head",
        metadata={
            "help": "The critic: a linear head on the policy's trunk (one forward pass for both), with LoRA an adapter "
            "and a head of its own on the same backbone, or a whole model that starts as the reward model."
        },
    )
    value_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Of the critic. None: learning_rate, and ten times it for a new linear head alone."},
    )
    value_warmup_rollouts: int = field(default=0, metadata={"help": "First rollouts in which only the critic learns."})
    num_generations: int = field(default=1, metadata={"help": "Completions of each prompt in a rollout (TRL's GRPO)."})
    reward_funcs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Python functions (prompts, completions, **columns) -> floats:  file.py:name or package.mod:name, "
            "with or instead of the reward model."
        },
    )
    reward_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "Weights of the reward model (if any) and of each function; 1 each by default."},
    )
    eval_reward_funcs: list[str] = field(
        default_factory=list,
        metadata={"help": "Score held-out completions by these instead of by the reward that is optimised."},
    )
    normalize_reward: bool = field(
        default=True,
        metadata={"help": "Shift and scale rewards by their mean and spread on the reference's samples."},
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "Largest absolute (normalised) reward of an episode."}
    )
    length_penalty: float = field(default=0.0, metadata={"help": "Taken off an episode's reward for each token."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Advantages to mean 0 and variance 1 in each rollout (Xu et al. 2024)."}
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Nats a sequence: adapt kl_coef until the KL is here (Ziegler et al. 2019). None: fixed."},
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "Episodes over which kl_coef adapts."})
    kl_budget: float | None = field(
        default=None, metadata={"help": "Nats a sequence: a rollout's KL beyond this ends the training."}
    )
    sync_ref_model: bool = field(
        default=False, metadata={"help": "Let the reference follow the policy (EMA, Xu et al. 2024); not with LoRA."}
    )
    ref_model_mixup_alpha: float = field(
        default=0.05, metadata={"help": "Share of the policy in the reference at each following."}
    )
    ref_model_sync_steps: int = field(default=1, metadata={"help": "Rollouts between two followings."})
    reference_device: str | None = field(
        default=None, metadata={"help": "Where a whole reference lives, for example cpu. None: with the policy."}
    )
    collapse_patience: int = field(
        default=3, metadata={"help": "Rollouts in a row that must look collapsed to end the run; 0: never."}
    )
    rollout_save_steps: int = field(
        default=1, metadata={"help": "Every how many rollouts the episodes are written to disk; 0: never."}
    )

    def __post_init__(self) -> None:
        if self.eval_reward_funcs and self.eval_strategy == "no":  # type: ignore[has-type]
            self.eval_strategy = "steps"  # whoever names them wants to see them
        super().__post_init__()
        problems = limits.numbers({**vars(self)}, vars(self).keys())
        for name in ("save_strategy", "eval_strategy", "logging_strategy"):
            if getattr(self, name) == "epoch":
                problems.append(f"{name}=epoch: PPO's steps are rollouts, and it has no epochs of rows; use steps")
        if not self.ds3_gather_for_generation:
            problems.append("ds3_gather_for_generation=False gathers every weight for every token, 10 to 100 times "
                            "slower; where the whole policy does not fit one GPU, use LoRA with ZeRO-2")  # fmt: skip
        if problems:
            raise ValueError("; ".join(problems))

    def parents(self) -> dict[str, str | None]:
        """Where the reward comes from, and what measures, by role, for the record's lineage."""
        functions = {"reward_func": self.reward_funcs, "eval_reward_func": self.eval_reward_funcs}
        named = {f"{role}_{n}": where for role, given in functions.items() for n, where in enumerate(given)}
        return {"reward_model": self.reward_model_path, **named}


def check(args: PPOArguments, model_args: Any, kind: str) -> None:
    """Combinations that cannot work, before a model is loaded. `kind` is the sharding, as `launch.asked` names it.

    Raises:
        ConfigError: with all of them.
    """
    problems = []
    lora = model_args.use_peft
    if not args.reward_model_path and not args.reward_funcs:
        problems.append(
            "a reward is needed: --reward_model_path runs/mine/reward, or --reward_funcs my_rewards.py:score"
        )
    rewards = bool(args.reward_model_path) + len(args.reward_funcs)
    if args.reward_weights and len(args.reward_weights) != rewards:
        problems.append(f"reward_weights has {len(args.reward_weights)} numbers for {rewards} rewards: give one each")
    if args.value_model == "adapter" and not lora:
        problems.append("value_model=adapter needs --use_peft; without it use head or full")
    if args.value_model == "full" and (model_args.load_in_4bit or model_args.load_in_8bit):
        problems.append("value_model=full trains a whole model, which cannot be quantised: use head or adapter")
    if args.sync_ref_model and (lora or kind in ("zero3", "fsdp2")):
        problems.append("sync_ref_model averages whole weights: it works without LoRA, and without ZeRO-3 or FSDP2")
    if args.reference_device and (lora or kind in ("zero3", "fsdp2")):
        problems.append(
            "reference_device: with LoRA there is no second reference, and ZeRO-3 and FSDP2 shard it already"
        )
    if args.engine == "trl" and throwaway.asked():
        problems.append("dry_run: engine=trl is a baseline, and does not take rows by length; leave one out")
    problems += _device(args.reference_device) if args.reference_device else []
    problems += versions.without_baseline() if args.engine == "trl" else []
    if args.engine == "trl" and (kind != "single" or args.reward_funcs or not args.reward_model_path):
        problems.append("engine=trl is a baseline: one process, and a reward model (no functions); use engine=align")
    if problems := problems + (_lora(model_args, kind) if lora else []):
        fail(problems)


def trained_whole(model_args: Any) -> Any:
    """The same settings for a model that is trained whole, beside a policy with LoRA: fp32 from the start."""
    settings = copy.copy(model_args)
    settings.use_peft = False
    return settings


def _device(name: str) -> list[str]:
    """Can something be put there?"""
    import torch

    try:
        if torch.empty(0, device=name).is_meta:
            raise ValueError("it holds no numbers")
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        return [f"reference_device={name} is no device of this machine ({why}); use cpu, or leave it out"]
    return []


def _lora(model_args: Any, kind: str) -> list[str]:
    """What PEFT can do and PPO cannot."""
    problems = []
    if model_args.lora_dropout:
        problems.append(
            f"lora_dropout={model_args.lora_dropout}: PPO compares two passes over the same tokens, so nothing random "
            "may lie between them; leave it out"
        )
    given = dict(
        use_dora=model_args.use_dora, lora_modules_to_save=model_args.lora_modules_to_save,
        lora_target_parameters=model_args.lora_target_parameters,
    )  # fmt: skip
    if kind in ("zero3", "fsdp2"):
        problems += [
            f"{name} reads or copies whole weights, which {kind} has in shards: leave it out, or use "
            "accelerate_configs/zero2.yaml or ddp.yaml" for name, value in given.items() if value
        ]  # fmt: skip
    if model_args.use_dora and model_args.lora_target_parameters:
        problems.append("use_dora and lora_target_parameters exclude each other in PEFT: leave one out")
    return problems


def check_rloo(args: Any, model_args: Any, resume: bool, columns: list[str]) -> None:
    """What TRL's `RLOOTrainer` would do in silence, or refuse once the weights are loaded.

    Args:
        columns: of the prompts' rows.

    Raises:
        ConfigError: with all of it.
    """
    problems = []
    problems += [
        f"rows with {name}: TRL's RLOO shows the policy prompts without them; use {recipe('ppo')}"
        for name in ("tools", "chat_template_kwargs") if name in columns
    ]  # fmt: skip
    if args.chat_template_kwargs:
        problems.append(
            "chat_template_kwargs as a flag changes what the policy reads and nothing else that reads prompts: give "
            f"rows a column of that name, and use {recipe('ppo')}"
        )
    if args.sync_ref_model and model_args.use_peft:
        problems.append("sync_ref_model averages whole weights: it works without --use_peft")
    if args.sync_ref_model and args.beta == 0:
        problems.append("sync_ref_model has no reference to move with beta=0: leave it out, or give a beta above 0")
    if args.sync_ref_model and resume:
        problems.append(
            "sync_ref_model cannot be resumed here: TRL's checkpoints do not hold the reference that has moved, so it "
            f"would start again from the parent; begin a new run, or use {recipe('ppo')}, which keeps it"
        )
    if args.model_init_kwargs:
        problems.append("model_init_kwargs is not read: give --dtype, --attn_implementation and --model_revision")
    if args.use_transformers_continuous_batching and args.bf16:
        problems.append("use_transformers_continuous_batching casts the weights that are trained to bf16: leave it out")
    if problems:
        fail(problems)
    if model_args.model_revision != "main" and not model_args.use_peft:
        args.model_init_kwargs = {"revision": model_args.model_revision}  # TRL loads the reference by name, at `main`
