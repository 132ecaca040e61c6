"""From a recipe and its flags to a job: settings are read by the recipe's own call of `parse`, with its defaults."""

from __future__ import annotations

import contextlib
import functools
import io
import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align.plan import lengths
from align.plan import shape as shapes
from align.plan.lengths import Lengths
from align.plan.machines import Machine
from align.plan.memory.job import Job, Reader, Sampling
from align.run import device
from align.run.arguments import DataArguments, PairArguments, derive_batch
from align.run.errors import ConfigError, recipe
from align.run.parse import parse

STAGES = ("sft", "reward", "dpo", "ppo", "sample", "eval")
LIST_4BIT = 0.5625  # bytes of a weight in 4 bits with a scale for each 64 (Dettmers et al. 2023, section 3)
ANY = 2**40  # prompts, where they are not counted: enough for every rollout


class Told(Exception):
    """What a recipe asks `parse` for."""

    def __init__(self, classes: tuple[type, ...], settings: dict[str, Any]):
        self.classes, self.settings = classes, settings


@dataclass(frozen=True)
class Launch:
    """How processes share the work."""

    processes: int = 1
    sharding: str = "single"
    offload: bool = False


@dataclass
class Configured:
    """A recipe's settings, and what follows from them."""

    stage: str
    args: Any  # the recipe's main arguments
    job: Job
    lengths: Lengths
    rollouts: Any = None  # PPO's arithmetic


@functools.cache
def asked(file: str) -> Told:
    """Start a recipe up to where it parses: its dataclasses and defaults.

    Raises:
        ConfigError: for a file that is not there, or no recipe that can be planned.
    """
    place = Path(file)
    if place.stem not in STAGES or not place.is_file():
        what = "is not there" if not place.is_file() else "cannot be planned"
        raise ConfigError(
            f"{file} {what}: give one of {', '.join(STAGES)}, as in align plan {recipe('ppo').split()[1]}"
        )

    def stop(*classes: type, **settings: Any) -> None:
        raise Told(classes, settings)

    path = list(sys.path)
    main = runpy.run_path(file, run_name="planned")["main"]
    sys.path[:] = path
    main.__globals__["parse"] = stop
    try:
        main()
    except Told as told:
        return told
    raise AssertionError(f"{file} parses nothing")


def read(file: str, words: list[str], machine: Machine, launch: Launch) -> tuple[Configured, list[str]]:
    """A run's job, and the notes that parsing printed.

    Args:
        words: the recipe's command line.

    Raises:
        ConfigError: with all that is wrong with them.
    """
    told, said = asked(file), io.StringIO()
    settings = told.settings | dict(gated=False, argv=words, planned=machine.gpu)
    settings["required"] = tuple(key for key in told.settings.get("required", ()) if key != "output_dir")
    with contextlib.redirect_stdout(said):
        groups = parse(*told.classes, **settings)
    make = {"sample": _sample, "eval": _eval, "ppo": _ppo}.get(Path(file).stem, _training)
    found = make(Path(file).stem, groups, machine, launch)
    return found, [line for line in said.getvalue().splitlines() if line.startswith(("precision:", "note:"))]


def _one(groups: tuple, kind: type | str) -> Any:
    """The group of a class, or of a class by its name; None where there is none."""
    named = kind if isinstance(kind, str) else kind.__name__
    return next((group for group in groups if named in {cls.__name__ for cls in type(group).__mro__}), None)


# One checkpoint is asked about again and again while changes are tried
_shape = functools.cache(shapes.of_checkpoint)


def _learner(stage: str, model: Any, args: Any, machine: Machine, launch: Launch) -> Job:
    """The model that learns, and how."""
    scores = stage == "reward"
    shape = _shape(model.model_name_or_path, model.model_revision, reward_model=scores)
    trained, ranks, held = shape.parameters, 0.0, 4.0
    if model.use_peft:
        trained, ranks = _lora(model.model_name_or_path, model, scores)
        held = 2.0 if str(model.dtype) in ("bfloat16", "float16") else 4.0
        if model.load_in_4bit or model.load_in_8bit:
            inside = shape.in_layers / shape.parameters
            held = inside * (LIST_4BIT if model.load_in_4bit else 1.0) + (1 - inside) * 2
    return Job(
        stage, shape, trained, ranks, held, autocast=bool(args.bf16) and held == 4.0,
        again=bool(args.activation_checkpointing), gpu=machine.gpu, processes=launch.processes,
        sharding=launch.sharding, offload=launch.offload, file=_file(model.model_name_or_path),
    )  # fmt: skip


_known: dict[tuple, tuple[int, float]] = {}


def _lora(path: str, model: Any, scores: bool) -> tuple[int, float]:
    key = (path, repr(model), scores)
    if key not in _known:
        _known[key] = shapes.lora(path, model, reward_model=scores)
    return _known[key]


def _file(path: str) -> float:
    """Bytes of a weight in a checkpoint's files, by its config.json."""
    from transformers import AutoConfig

    from align.models import adapters
    from align.run.received import permission

    whole, revision = adapters.whole_below(path)
    with permission.loading(whole):
        config = AutoConfig.from_pretrained(whole, revision=revision, **permission.code(whole))
    return 2.0 if "16" in str(config.dtype) else 4.0


def _training(stage: str, groups: tuple, machine: Machine, launch: Launch) -> Configured:
    """SFT, reward model, DPO."""
    run, data, pairing, model = (
        _one(groups, k) for k in ("BatchArguments", DataArguments, PairArguments, "ModelConfig")
    )
    args = groups[-1]
    derive_batch(run, args, launch.processes)
    job = _learner(stage, model, args, machine, launch)
    limit = args.max_length or 1024
    rows = lengths.read(stage, args, data, pairing, model.model_name_or_path, limit)
    micro = args.per_device_train_batch_size
    packed = stage == "sft" and args.packing
    tokens = micro * limit if packed else rows.fullest(micro, padded=machine.gpu)
    job = replace(
        job, rows=micro * (1 if stage == "sft" else 2), tokens=tokens, longest=rows.longest,
        learnt=int(tokens * rows.learnt), pieces=args.gradient_accumulation_steps,
    )  # fmt: skip
    if rows.held_out:
        sides = 1 if stage == "sft" else 2
        width = max(job.shape.hidden, job.shape.inner) if stage == "reward" else job.shape.vocabulary
        most = _at_once(rows.held_out_longest, sides * width, args.per_device_eval_batch_size)
        job = replace(job, eval_rows=min(most, rows.held_out), eval_longest=rows.held_out_longest)
    if stage == "sft" and launch.sharding in ("single", "ddp"):
        job = replace(job, asked=_stops(job, rows, args))
    if stage == "dpo" and not model.use_peft and not args.precompute_ref_log_probs:
        job = replace(job, beside=(Reader("reference", job.shape, 4.0),))
    return Configured(stage, args, job, rows)


def _at_once(tokens: int, width: int, most: int) -> int:
    from align.train.measuring import rows_at_once

    return rows_at_once(tokens, width, most)


def _stops(job: Job, rows: Lengths, args: Any) -> Sampling | None:
    """What SFT's gate samples: greedy answers, up to twice as long as the longest (`align.train.measuring`)."""
    from align.train.measuring import FEWEST, LEAST, MOST, SHARE

    allowed = 2 * rows.answer
    steps = args.max_steps if args.max_steps > 0 else 0
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * job.processes
    seen = steps * batch * rows.mean if steps else args.num_train_epochs * rows.count * rows.mean
    budget = max(LEAST, int(SHARE * seen))
    if FEWEST * allowed > budget:
        return None
    size = _at_once(
        allowed + rows.prompt, max(1, job.shape.keys * job.shape.layers // 2), args.per_device_eval_batch_size
    )
    some = min(MOST, rows.held_out or MOST, max(1, budget // max(1, allowed)), size)
    return Sampling(some, 1, rows.prompt, allowed)


def _ppo(stage: str, groups: tuple, machine: Machine, launch: Launch) -> Configured:
    from align.ppo import arithmetic, config

    run, data, model, args = (_one(groups, k) for k in ("BatchArguments", DataArguments, "ModelConfig", "PPOArguments"))
    config.check(args, model, launch.sharding)
    job = _learner(stage, model, args, machine, launch)
    rows = lengths.read(stage, args, data, None, model.model_name_or_path, args.max_prompt_length)
    steps = arithmetic.plan(run, args, rows.count or ANY, launch.processes)
    answer, micro = args.response_length, steps.micro_batch
    critic = 0 if args.value_model != "head" else job.shape.hidden + 1
    if args.value_model == "adapter":
        critic = job.trained + job.shape.hidden + 1
    beside = [] if model.use_peft or (args.reference_device and machine.gpu) else [Reader("reference", job.shape, 4.0)]
    if args.value_model == "full":
        critic = _shape(model.model_name_or_path, model.model_revision, reward_model=True).parameters
    if args.reward_model_path:
        beside.append(_reward(args.reward_model_path, model, job))
    size = max(1, min(args.local_rollout_forward_batch_size, steps.share))
    prompts = max(1, size // args.num_generations)
    job = replace(
        job, trained=job.trained + critic, beside=tuple(beside), critic=args.value_model, rows=micro,
        tokens=rows.fullest(micro, padded=False) + micro * answer, longest=rows.longest + answer, learnt=micro * answer,
        pieces=steps.micro_batches, scored=size, asked=Sampling(prompts, args.num_generations, rows.longest, answer),
        temperature=args.temperature,
    )  # fmt: skip
    return Configured(stage, args, job, rows, steps)


def _reward(path: str, model: Any, job: Job) -> Reader:
    """PPO's reward model: an adapter on the policy's backbone, or a whole model in the policy's precision."""
    from align.models import adapters, heads
    from align.ppo.assemble import shares_backbone

    if model.use_peft and shares_backbone(path, model.model_name_or_path):
        folder = adapters.located(path)
        assert folder is not None
        held = heads.shapes(folder / "adapter_model.safetensors").values()
        count = sum(functools.reduce(lambda a, b: a * b, one, 1) for one in held)
        return Reader("reward model", replace(job.shape, parameters=count), 4.0, shared=True)
    return Reader("reward model", _shape(path, reward_model=True), job.held if job.held in (2.0, 4.0) else 2.0)


def _read_only(path: str, machine: Machine, *, reward_model: bool = False) -> float:
    """Bytes of a weight where a checkpoint is only read, as `checkpoints.load_trained` chooses."""
    from align.models import adapters

    if adapters.is_adapter(path):
        return 4.0
    return 2.0 if machine.gpu or device.bf16_pays(_shape(path, reward_model=reward_model).parameters) else 4.0


def _sample(stage: str, groups: tuple, machine: Machine, launch: Launch) -> Configured:
    args, data = groups[-1], _one(groups, DataArguments)
    path = args.model_name_or_path
    rows = lengths.read(stage, args, data, None, path, args.max_prompt_length)
    prompts = min(args.per_device_eval_batch_size, rows.count or ANY)
    job = Job(
        stage, _shape(path), held=_read_only(path, machine), gpu=machine.gpu, file=_file(path),
        processes=launch.processes, asked=Sampling(prompts, args.num_generations, rows.longest, args.max_new_tokens),
        temperature=args.temperature,
    )  # fmt: skip
    return Configured(stage, args, job, rows)


def _eval(stage: str, groups: tuple, machine: Machine, launch: Launch) -> Configured:
    """The largest of the models beside the reference, with what scores."""
    args, data = _one(groups, "EvalConfig"), _one(groups, DataArguments)
    largest = max((_shape(path) for path in args.named().values()), key=lambda shape: shape.parameters)
    held = 2.0 if args.dtype == "bfloat16" else 4.0
    beside = [Reader("reference", _shape(args.reference()), held)]
    for path in filter(None, (args.reward_model_path, args.gold_model_path)):
        size = _read_only(path, machine, reward_model=True)
        beside.append(Reader("reward model", _shape(path, reward_model=True), size))
    rows = lengths.read(stage, args, data, None, args.reference(), args.max_prompt_length)
    size, copies = args.per_device_eval_batch_size, args.num_generations
    prompts = min(max(1, size // copies), rows.count or ANY)
    job = Job(
        stage, largest, held=held, gpu=machine.gpu, file=_file(args.reference()), beside=tuple(beside),
        scored=min(size, (rows.count or ANY) * copies), temperature=args.temperature,
        asked=Sampling(prompts, copies, rows.longest, args.max_new_tokens),
    )  # fmt: skip
    return Configured(stage, args, job, rows)
