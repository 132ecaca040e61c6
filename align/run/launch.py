"""How the processes were started: what was asked for, what was got, and defaults that belong to every trainer.

`accelerate launch` may give less than it was asked for without a word: one process instead of two, DDP instead of
FSDP2, two trainings that each believe to be alone. So a recipe compares the two, and stops where they differ.
"""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from align.run.device import has_gpu, keep_memory, share_cores
from align.run.errors import ConfigError, OneProcess, RunError
from align.run.received import screen
from align.run.trial import throwaway

# A disk is full, a quota or the largest size of a file is reached, nothing can be written there, or it fails
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

# In the environment of a job: the file that appears when its time is nearly up. A training saves then, and leaves
LEAVE = "ALIGN_LEAVE"

# Shared by every training recipe. TRL's and transformers' own defaults hold for all the rest.
TRAINER_DEFAULTS: dict[str, Any] = dict(
    logging_steps=10,
    logging_nan_inf_filter=False,  # a NaN is to be seen, not averaged away
    include_num_input_tokens_seen="non_padding",
    save_strategy="steps",
    save_steps=500,
    save_total_limit=1,
    per_device_eval_batch_size=64,
    report_to="none",
    seed=0,
)


def asked(environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """What the launcher was asked for, read off the environment that it leaves: `(processes, kind)`.

    `kind` is `single`, `ddp`, `zero1` to `zero3` or `fsdp2`; 0 processes means "several, the number is lost". Read it
    before any `TrainingArguments` are made: accelerate writes some of these variables itself.
    """
    env = os.environ if environment is None else environment

    def on(name: str) -> bool:
        return env.get(name, "").lower() in ("1", "true", "yes", "on")

    world = next((int(env[name]) for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE") if name in env), None)
    if on("ACCELERATE_USE_DEEPSPEED"):
        kind = "zero" + env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    elif on("ACCELERATE_USE_FSDP"):
        kind = "fsdp" + env.get("FSDP_VERSION", "1")
    else:
        kind = "single" if world in (None, 1) else "ddp"
    if world is None:
        # accelerate's simple launcher sets MASTER_PORT where several processes were asked for, and starts one
        several = "ACCELERATE_MIXED_PRECISION" in env and "MASTER_PORT" in env
        return (0, "ddp") if several else (1, kind)
    return world, kind


# For recipes that measure: what to say to each kind of several processes.
ONE_PROCESS = dict.fromkeys(("ddp", "zero1", "zero2", "zero3", "fsdp2"), "it runs in one process: python recipes/…")
_ASKED = asked()  # at import: before accelerate has had a chance to write


def asked_kind() -> str:
    """The kind of sharding that the launcher was asked for: `single`, `ddp`, `zero1` to `zero3` or `fsdp2`."""
    return _ASKED[1]


def refuse(refused: Mapping[str, str]) -> None:
    """Stop where the launcher was asked for a kind of several processes that this recipe cannot do.

    Args:
        refused: such kinds, each with the reason and what to use instead.

    Raises:
        ConfigError: for one of them.
    """
    if reason := refused.get(_ASKED[1]):
        raise ConfigError(f"{_ASKED[1]} is not supported here: {reason}")


def check(refused: Mapping[str, str] | None = None, *, seed: int | None = None) -> None:
    """Compare what was asked for with what was got. Call it once the `TrainingArguments` exist.

    Args:
        refused: see `refuse`.
        seed: of all that is drawn from here on, weights and adapters included; the same on every process.

    Raises:
        ConfigError: where the two differ, with a command that works; and for a refused kind.
    """
    refuse(refused or {})
    import transformers
    from accelerate import PartialState
    from accelerate.utils import DistributedType, broadcast_object_list

    transformers.utils.logging.disable_progress_bar()  # one bar a run: the training's, not each file's
    share_cores()
    keep_memory()
    state = PartialState(cpu=not has_gpu())
    if _ASKED[1] == "fsdp2" and state.distributed_type == DistributedType.MULTI_CPU:
        # accelerate promotes only GPU-like types to FSDP (AcceleratorState.__init__ leaves MULTI_CPU out, and trains
        # DDP without a word). FSDP2 itself runs on gloo; naming the type is all it takes, the device stays the CPU.
        state.distributed_type = DistributedType.MULTI_GPU
    if state.num_processes != _ASKED[0]:
        _stop(state.num_processes, "single" if state.num_processes == 1 else _ASKED[1])
    throwaway.settle(broadcast_object_list)
    if seed is not None:
        transformers.set_seed(seed)


def check_kind(accelerator: Any) -> None:
    """Compare how the processes share the work with how they were asked to, once the trainer is built.

    Raises:
        ConfigError: for example where FSDP2 was asked for and DDP came.
    """
    names = {"single": "no sharding", "ddp": "DDP", "fsdp2": "FSDP2"}
    wanted = names.get(_ASKED[1], _ASKED[1].replace("zero", "ZeRO-"))
    if kind(accelerator) != wanted:
        _stop(accelerator.num_processes, kind(accelerator))


def kind(accelerator: Any) -> str:
    """How the processes share the work, in words: `no sharding`, `DDP`, `ZeRO-2`, `FSDP2`."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        return f"ZeRO-{plugin.zero_stage}"
    if accelerator.is_fsdp2:
        return "FSDP2"
    return "DDP" if accelerator.num_processes > 1 else "no sharding"


def _stop(world: int, found: str) -> NoReturn:
    wanted = f"{_ASKED[0]} processes" if _ASKED[0] else "several processes"
    raise ConfigError(
        f"the launcher was asked for {wanted} ({_ASKED[1]}) and this process sees {world} ({found}); stopping before "
        "every process trains alone. Use one of ours, without --cpu or MULTI_CPU: accelerate launch --config_file "
        "accelerate_configs/ddp.yaml --num_processes 2 recipes/… (it serves CPUs too)"
    )


def world_size() -> int:
    """How many processes train together."""
    from accelerate import PartialState

    return PartialState().num_processes


def is_main_process() -> bool:
    """Is this the process that prints and writes?"""
    from accelerate import PartialState

    return PartialState().is_main_process


def resumes(args: Any) -> bool:
    """Was `--resume_from_checkpoint` given?"""
    return str(args.resume_from_checkpoint).lower() not in ("none", "false")


def run(main: Callable[[], None], *, again: str = "") -> None:
    """Run a recipe's `main`; a user's error ends in its sentence and exit status 1, not in a traceback.

    Args:
        again: what an interrupted run needs beside its own command to go on; where it depends on what `main` does,
            nothing, and both ways are told.
    """
    from safetensors import SafetensorError

    screen.guard()
    try:
        main()
    except (ConfigError, RunError, OSError, SafetensorError, pickle.UnpicklingError) as error:
        if int(os.environ.get("RANK", "0")) == 0 or isinstance(error, OneProcess):
            print(f"\nerror: {_told(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        both = "a training recipe goes on with --resume_from_checkpoint last, others with the same command"
        how = f"go on with the same command and {again}" if again else both
        print(f"\ninterrupted; {how}", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if end.code:
            raise
    _leave_quietly()


def _told(error: Exception) -> str:
    """What a recipe ends with. Where a disk may be the cause, what to do about it; any other file's name and fault."""
    from safetensors import SafetensorError

    if isinstance(error, pickle.UnpicklingError):
        return (
            "a saved state of the run is a pickle that holds more than weights, and none of it was run; a new run can "
            "begin from the checkpoint's weights: --model_name_or_path"
        )
    if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in DISK):
        return f"{error} (a file could not be written or read: free space there, or name another --output_dir)"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}; give a file that is there and can be read"
    return str(error)


def _leave_quietly() -> None:
    """End a CPU process of several. At interpreter exit gloo's and DeepSpeed's threads abort now and then, after all
    work is done and saved (3 of some 30 ZeRO-3 runs); a barrier and a direct exit did so in none of 20."""
    if "torch" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
