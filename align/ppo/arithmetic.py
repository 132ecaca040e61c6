"""The arithmetic of a PPO run before anything is loaded: rollouts, episodes, minibatches, pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from align.ppo.config import PPOArguments
from align.run.arguments import BatchArguments
from align.run.errors import fail
from align.run.trial import again


@dataclass
class Plan:
    """The arithmetic of a run. Episodes are sampled completions, steps are optimizer updates."""

    rollouts: int
    episodes: int  # per rollout, over all processes
    prompts: int  # per rollout, over all processes
    processes: int
    epochs: int
    minibatches: int
    micro_batches: int  # per minibatch and process
    micro_batch: int  # episodes

    @property
    def share(self) -> int:
        """Episodes of one process in a rollout."""
        return self.episodes // self.processes

    def __str__(self) -> str:
        steps = self.epochs * self.minibatches
        return (
            f"  rollouts  {self.rollouts} of {self.episodes} episodes ({self.prompts} prompts x "
            f"{self.episodes // self.prompts} completions), {self.rollouts * self.episodes:,} episodes in all\n"
            f"  updates   {self.rollouts * steps} optimizer steps: {steps} a rollout = {self.epochs} epochs x "
            f"{self.minibatches} minibatches of {self.episodes // self.minibatches} episodes\n"
            f"  memory    at most {self.micro_batch} episodes at once: {self.micro_batches} "
            f"piece{'s' * (self.micro_batches > 1)} a minibatch on each process"
        )


def plan(run: BatchArguments, args: PPOArguments, rows: int, processes: int) -> Plan:
    """Work out a run from `global_batch_size` episodes a rollout, and set the arguments that follow from it.

    Raises:
        ConfigError: where something does not divide, with numbers that do.
    """
    episodes, parts = run.global_batch_size, processes * args.num_mini_batches
    if episodes % parts or episodes % (processes * args.num_generations):
        unit = math.lcm(parts, processes * args.num_generations)
        fail([
            f"global_batch_size={episodes} episodes cannot be shared by {processes} processes, num_mini_batches="
            f"{args.num_mini_batches} and num_generations={args.num_generations}: use a multiple of {unit}"
        ])  # fmt: skip
    prompts = episodes // args.num_generations
    if rows < prompts:
        fail([f"{rows} prompts are fewer than the {prompts} of one rollout: lower global_batch_size"])
    minibatch = episodes // parts
    micro = max(
        size for size in range(1, min(args.per_device_train_batch_size, minibatch) + 1) if minibatch % size == 0
    )
    args.per_device_train_batch_size, args.gradient_accumulation_steps = micro, 1
    if run.find_batch_size:  # what is sampled at once is halved as often as what is learnt from
        halved = args.local_rollout_forward_batch_size >> len(again.did_not_fit())
        args.local_rollout_forward_batch_size = max(1, halved)
    wanted = args.total_episodes or int(args.num_train_epochs * rows * args.num_generations)
    rollouts = args.max_steps if args.max_steps > 0 else math.ceil(wanted / episodes)
    args.total_episodes = rollouts * episodes
    return Plan(
        rollouts, episodes, prompts, processes, args.num_ppo_epochs, args.num_mini_batches, minibatch // micro, micro
    )
