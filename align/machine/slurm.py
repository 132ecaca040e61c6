"""`align slurm`: a recipe as a job for SLURM, in a script that `sbatch` takes.

The script starts `accelerate launch` once a node. Before the time limit the run saves and leaves, the job is put back
into the queue, and it goes on from there when it is started again. Flags that `sbatch` has are called as it calls them.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from align.run.errors import ConfigError, fail
from align.run.launch import LEAVE
from align.run.parse import parse
from align.run.received import files

MARK = "# Written by `align slurm`"  # in a script that may be written over
LAST = 30  # seconds before the limit in which a run that has not left by itself is ended, and the job put back
TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+|\d+-\d+:\d\d|\d+-\d+:\d\d:\d\d")
WORD = re.compile(r"[^\s'\"#]+")


@dataclass
class SlurmConfig:
    """Where and how long the job runs. The recipe's own arguments follow after `--`."""

    recipe: str | None = field(default=None, metadata={"help": "The recipe's file, as one would start it with python."})
    nodes: int = field(default=1, metadata={"help": "Machines."})
    gpus: int | None = field(
        default=None,
        metadata={"help": "GPUs of the whole job, the same on each node; without any: one CPU process a node."},
    )
    gpus_per_node: int | None = field(default=None, metadata={"help": "The same, said for each node."})
    cpus_per_task: int | None = field(default=None, metadata={"help": "Cores of a node; all its processes share them."})
    mem: str | None = field(default=None, metadata={"help": "Memory of a node: 64G; 0 is all that it has."})
    time: str | None = field(default=None, metadata={"help": "The time limit: 04:00:00 or 2-00:00:00 (two days)."})
    partition: str | None = field(default=None, metadata={"help": "Which machines."})
    account: str | None = field(default=None, metadata={"help": "Whose hours."})
    qos: str | None = field(default=None, metadata={"help": "Which quality of service."})
    job_name: str | None = field(default=None, metadata={"help": "Default: the recipe's name."})
    requeue: bool = field(
        default=True,
        metadata={"help": "Put the job back into the queue at its time limit, and after a node's failure."},
    )
    signal: int = field(
        default=180, metadata={"help": "So many seconds before the time limit the run is told to save and leave."}
    )
    sbatch_args: list[str] = field(
        default_factory=list, metadata={"help": "More of sbatch's options: mail-user=me@example.org exclusive"}
    )
    env_command: str | None = field(
        default=None, metadata={"help": "A line of shell before all else: 'module load cuda'."}
    )
    config_file: str | None = field(
        default=None,
        metadata={"help": "accelerate's: how the processes share the work. Default: ddp, of several ones."},
    )
    script: str | None = field(default=None, metadata={"help": "What to write. Default: the job's name, and .sbatch."})

    @property
    def name(self) -> str:
        """The job's."""
        return self.job_name or Path(str(self.recipe)).stem

    @property
    def each(self) -> int:
        """GPUs of a node."""
        return (self.gpus or 0) // self.nodes if self.gpus_per_node is None else self.gpus_per_node

    @property
    def processes(self) -> int:
        """Of the whole job: one a GPU, or one a node."""
        return self.nodes * max(1, self.each)

    @property
    def launcher(self) -> str:
        """The file that `accelerate launch` reads."""
        alone = "gpu" if self.each else "cpu"
        return self.config_file or f"accelerate_configs/{'ddp' if self.processes > 1 else alone}.yaml"


def main(argv: list[str]) -> None:
    """`align slurm`: write the script."""
    at = argv.index("--") if "--" in argv else len(argv)
    (args,) = parse(SlurmConfig, nano=None, required=("recipe",), argv=argv[:at])
    if found := problems(args):
        fail(found)
    path = Path(args.script or f"{args.name}.sbatch")
    if path.exists() and MARK not in files.text(path):
        raise ConfigError(f"{path} is there and was not written by this command; name another file with --script")
    files.replace(path, script(args, argv[at + 1 :], Path.cwd()))
    gpus = f"{args.each} GPUs each" if args.each else "CPUs"
    print(f"{args.nodes} nodes with {gpus}: {args.processes} processes, {args.launcher}")
    if args.cpus_per_task is None:
        print("note: without --cpus_per_task many clusters give a node's processes one core in all")
    print(f"written: {path}; send it: sbatch {shlex.quote(str(path))}")


def problems(args: SlurmConfig) -> list[str]:
    """What is wrong with a job, as far as it can be known before it runs."""
    found = []
    program = Path(str(args.recipe))
    if program.suffix != ".py" or not program.is_file():
        found.append(f"recipe: {program} is not there, or is no Python file; name a recipe's file")
    if args.gpus is not None and args.gpus_per_node is not None:
        found.append("gpus and gpus_per_node were both given: gpus is of the whole job; give one of them")
    least = {"nodes": (args.nodes, 1), "gpus": (args.gpus, 0), "gpus_per_node": (args.gpus_per_node, 0),
             "cpus_per_task": (args.cpus_per_task, 1)}  # fmt: skip
    found += [
        f"{name}={value}: at least {bound}"
        for name, (value, bound) in least.items()
        if value is not None and value < bound
    ]
    if args.gpus and args.nodes > 0 and args.gpus % args.nodes:
        found.append(f"gpus={args.gpus} cannot be shared by {args.nodes} nodes: use a multiple, or --gpus_per_node")
    if args.time is not None and not TIME.fullmatch(args.time):
        found.append(f"time={args.time!r}: expected minutes, hours:minutes:seconds or days-hours: 90, 04:00:00, 2-00")
    if args.signal < 2 * LAST:
        found.append(f"signal={args.signal}: at least {2 * LAST} seconds, or there is no time to save")
    words = {"partition": args.partition, "account": args.account, "qos": args.qos, "mem": args.mem}
    found += [
        f"{name}={value!r}: one word"
        for name, value in words.items()
        if value is not None and not WORD.fullmatch(value)
    ]
    if not re.fullmatch(r"[\w.+-]+", args.name):
        found.append(f"job_name={args.name!r}: letters, digits, dots, dashes; it names files")
    found += [f"sbatch_args: {option!r}: expected name=value or name, as sbatch knows it, without its dashes"
              for option in args.sbatch_args if not re.fullmatch(r"[a-z][a-z-]*(=\S+)?", option)]  # fmt: skip
    if not found and not Path(args.launcher).is_file():
        found.append(f"config_file: {args.launcher} is not there; give one of accelerate_configs/, from the repository")
    if not found and args.processes > 1 and "ONE_PROCESS" in program.read_text():
        found.append(f"{program} runs in one process: leave --nodes out, and give --gpus 1 at most")
    return found


def script(args: SlurmConfig, words: list[str], folder: Path) -> str:
    """The script.

    Args:
        words: the recipe's own arguments.
        folder: where the recipe is started, and where the log goes.
    """
    return "\n".join([
        "#!/bin/bash", *(f"#SBATCH --{line}" for line in options(args)), "",
        f"{MARK}: a recipe's processes on every node of a job, which saves before its time limit.",
        *([args.env_command] if args.env_command else []), f"cd {shlex.quote(str(folder))} || exit 1",
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH", "", *_meeting(args), "",
        *_recipe(args, words), "",
        *_start(args), "", *_end(args), "",
    ])  # fmt: skip


def options(args: SlurmConfig) -> list[str]:
    """What `sbatch` is told, `name=value`."""
    told = {"job-name": args.name, "nodes": args.nodes, "ntasks-per-node": 1, "gpus-per-node": args.each or None,
            "cpus-per-task": args.cpus_per_task, "mem": args.mem, "time": args.time, "partition": args.partition,
            "account": args.account, "qos": args.qos, "output": f"{args.name}-%j.log", "open-mode": "append",
            "signal": f"B:USR1@{args.signal}"}  # fmt: skip
    lines = [f"{name}={value}" for name, value in told.items() if value is not None]
    return [*lines, "requeue" if args.requeue else "no-requeue", *args.sbatch_args]


def _meeting(args: SlurmConfig) -> list[str]:
    """Where the processes meet, and the file that tells them to leave."""
    return [
        "# The processes meet on the first node, at a port of this job's own",
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "port=$((20000 + (SLURM_JOB_ID + ${SLURM_RESTART_COUNT:-0}) % 10000))",
        "# Before the time limit SLURM signals this script; the run is told by a file, saves, and ends",
        f'export {LEAVE}="$PWD/{args.name}-$SLURM_JOB_ID.leave"',
        f'rm -f "${LEAVE}"',
        "told=",
        f"trap 'told=$SECONDS; touch \"${LEAVE}\"' USR1",
    ]


def _recipe(args: SlurmConfig, words: list[str]) -> list[str]:
    """The recipe and its arguments; one that has checkpoints goes on with the last of them, if there is one."""
    lines = [f"recipe=({shlex.join([str(args.recipe), *words])})"]
    if "resumes(" not in Path(str(args.recipe)).read_text() or any(
        word.split("=")[0] == "--resume_from_checkpoint" for word in words
    ):
        return lines
    go_on = "recipe+=(--resume_from_checkpoint last)  # where there is nothing yet, it begins"
    if "--overwrite" not in words:
        return [*lines, go_on]
    return [*lines, f'[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || {go_on}']


def _start(args: SlurmConfig) -> list[str]:
    """One launcher a node, and the wait for them."""
    zero = "distributed_type: DEEPSPEED" in Path(args.launcher).read_text()
    launch = [
        "launch=(",
        f"    --config_file {shlex.quote(args.launcher)}",
        f"    --num_machines {args.nodes} --num_processes {args.processes}",
        '    --main_process_ip "$head" --main_process_port "$port"',
        # its default, pdsh, would log in to each node anew and start all launchers there a second time
        *(["    --deepspeed_multinode_launcher standard"] if zero and args.nodes > 1 else []),
        ")",
    ]
    cores = f" --cpus-per-task={args.cpus_per_task}" if args.cpus_per_task else ""
    return [
        *launch,
        f"srun --ntasks-per-node=1 --kill-on-bad-exit=1{cores} \\",
        "    bash -c 'exec accelerate launch --machine_rank \"$SLURM_PROCID\" \"$@\"' launch \\",
        '    "${launch[@]}" "${recipe[@]}" &',
        "step=$!",
        'while kill -0 "$step" 2> /dev/null; do',
        "    sleep 1 &",
        '    wait "$!"  # which a signal ends',
        f'    if [ -n "$told" ] && [ $((SECONDS - told)) -ge {args.signal - LAST} ]; then',
        '        kill -TERM "$step"  # it has not left by itself: what was saved last has to do',
        "        told=",
        "    fi",
        "done",
        'wait "$step"',
        "status=$?",
    ]  # fmt: skip


def _end(args: SlurmConfig) -> list[str]:
    """Back into the queue, where the run has left before its end."""
    back = ['    [ "$status" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"'] if args.requeue else []
    return [f'if [ -e "${LEAVE}" ]; then', f'    rm -f "${LEAVE}"', *back, "fi", 'exit "$status"']
