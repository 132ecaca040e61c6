"""PPO (Ouyang et al. 2022) from an SFT model, a reward and prompts.

    accelerate launch recipes/ppo.py                                          # the nano family's stage
    accelerate launch recipes/ppo.py --model_name_or_path runs/mine/sft --reward_model_path runs/mine/reward \
        --dataset_name my_prompts.jsonl --use_peft --output_dir runs/mine/ppo
    … --reward_funcs my_rewards.py:short_and_polite                           # a Python function instead, or as well
    … --engine trl                                                            # TRL 1.12's trainer, where that is there

With LoRA, policy, reference, critic and (if it is an adapter of the same weights) reward model share one backbone.
Departures from the paper: no pretraining mix (PPO-ptx); advantages are whitened; rewards are normalised on samples of
the reference. Where the engine differs from TRL's trainer, and why, is in docs/ppo.md.
"""

import align.run.checks.supported  # noqa: F401, I001  before what it asks about: packages of versions that fit
from trl import ModelConfig

from align.data import prepare
from align.models import adapters, checkpoints
from align.ppo.watch import report
from align.ppo.assemble import make_trainer
from align.ppo.arithmetic import plan
from align.ppo.config import REFUSED, PPOArguments, check
from align.run import launch, lineage, record
from align.run.arguments import BatchArguments, DataArguments
from align.run.parse import parse, resolved
from align.train import loop, preflight

DEFAULTS = dict(
    response_length=128,
    missing_eos_penalty=1.0,  # Huang et al. 2024, the EOS trick
    global_batch_size=512,  # episodes per rollout
    per_device_train_batch_size=8,
    num_sample_generations=4,  # tables of samples on the screen
    lora_dropout=0.0,
    eval_steps=10,  # rollouts
    ddp_find_unused_parameters=False,  # every trained weight is in every pass
    **launch.TRAINER_DEFAULTS | dict(logging_steps=1, save_steps=10, include_num_input_tokens_seen="no"),
)
LORA_DEFAULTS = dict(learning_rate=3e-5)


def main():
    run_args, data_args, model_args, args = parse(
        BatchArguments, DataArguments, ModelConfig, PPOArguments,
        nano="recipes/nano/ppo.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "output_dir"), refused=REFUSED, size=adapters.of_settings,
    )  # fmt: skip
    parent = model_args.model_name_or_path
    launch.check(seed=args.seed)
    check(args, model_args, launch.asked_kind())
    checkpoints.check(parent, revision=model_args.model_revision)
    if args.reward_model_path:
        checkpoints.check(args.reward_model_path, reward_model=True)
    tokenizer = checkpoints.load_tokenizer(parent, revision=model_args.model_revision, date=data_args.template_date)
    rows = prepare.rows(data_args, "prompt", tokenizer, max_length=args.max_prompt_length, seed=args.seed)
    preflight.check(args, model_args, parent, rows, answer=args.response_length)
    steps = plan(run_args, args, len(rows.train), launch.world_size())

    config, resume = resolved(run_args, data_args, model_args, args), launch.resumes(args)
    with record.start("ppo", args.output_dir, config, overwrite=run_args.overwrite, resume=resume) as run:
        roles = dict(model=parent, reference=parent, **args.parents(), **data_args.parents())
        run.note(parents=lineage.parents(roles, model_args.model_revision), data=rows.as_dict())
        base = checkpoints.resolve_parent(parent, args.output_dir, model_args, tokenizer)
        callbacks = loop.callbacks(run, later=args.value_warmup_rollouts)
        trainer = make_trainer(base, args, steps, model_args, tokenizer, rows, callbacks=callbacks)
        loop.describe(trainer, run, rows, args, "ppo", parent, plan=steps)
        metrics = loop.train_and_save(trainer, tokenizer)
        loop.finish(run, metrics | trainer.last_metrics)
    report.show(trainer, metrics)


if __name__ == "__main__":
    launch.run(main)
