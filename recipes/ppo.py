"""PPO (Ouyang et al. 2022) from an SFT model, a reward model and prompts.

    accelerate launch recipes/ppo.py                                          # the nano family's stage
    accelerate launch recipes/ppo.py --model_name_or_path runs/mine/sft --reward_model_path runs/mine/reward \
        --dataset_name my_prompts.jsonl --use_peft --output_dir runs/mine/ppo

The reference is the recorded parent, also where that parent is an adapter; the value model starts from the reward
model. Departures from the paper: no pretraining mix (PPO-ptx); the score is placed one token after the last one, as in
TRL. A PPO run cannot be resumed yet: it starts over, and says so.
"""

from transformers import set_seed
from trl import ModelConfig
from trl.experimental.ppo import PPOConfig

from align import data, fit, launch, model, record
from align.config import BatchArguments, DataArguments, parse, resolved
from align.ppo.trainer import PolicyTrainer, check_prompts, derive_rollout

DEFAULTS = dict(
    learning_rate=3e-6,  # Huang et al. 2024 (the N+ implementation details of RLHF with PPO)
    num_ppo_epochs=4,  # Huang et al. 2024
    num_mini_batches=1,
    kl_coef=0.05,  # Huang et al. 2024
    vf_coef=0.1,  # Huang et al. 2024
    temperature=0.7,  # Huang et al. 2024
    response_length=128,
    missing_eos_penalty=1.0,  # Huang et al. 2024, the EOS trick
    global_batch_size=512,  # episodes per rollout
    per_device_train_batch_size=8,
    reward_model_path=None,
    num_sample_generations=0,  # TRL's table of samples; the completions are in the evaluation's record
    lora_dropout=0.0,
    **launch.TRAINER_DEFAULTS | dict(save_strategy="no", logging_steps=1, include_num_input_tokens_seen="no"),
)
LORA_DEFAULTS = dict(learning_rate=3e-5)
NOT_WITH = {"fsdp2": "TRL's PPO calls inner modules past FSDP's hooks; use accelerate_configs/zero2.yaml or zero3.yaml"}
MAX_PROMPT_LENGTH = 512  # longer prompts are dropped and counted


def main():
    run_args, data_args, model_args, args = parse(
        BatchArguments, DataArguments, ModelConfig, PPOConfig,
        nano="recipes/nano/ppo.yaml", defaults=DEFAULTS, lora_defaults=LORA_DEFAULTS,
        required=("model_name_or_path", "reward_model_path", "output_dir"),
    )  # fmt: skip
    parent = model_args.model_name_or_path
    launch.check(refused=NOT_WITH)
    derive_rollout(run_args, args, launch.world_size())
    set_seed(args.seed)
    model.check_checkpoint(parent)
    model.check_checkpoint(args.reward_model_path, reward_model=True)
    tokenizer = model.load_tokenizer(parent, revision=model_args.model_revision)
    model.same_vocabulary(tokenizer, model.load_tokenizer(args.reward_model_path), (parent, args.reward_model_path))
    launch.starts_over(args)
    rows = data.prepare(data_args, "prompt", tokenizer, max_length=MAX_PROMPT_LENGTH, seed=args.seed)
    check_prompts(len(rows.train), run_args.global_batch_size)

    config = resolved(run_args, data_args, model_args, args)
    with record.start("ppo", args.output_dir, config, overwrite=run_args.overwrite) as run:
        roles = {
            "model": parent,
            "reference": parent,
            "reward_model": args.reward_model_path,
            "data": data_args.dataset_name,
        }
        run.note(parents=record.lineage(roles))
        trainer = PolicyTrainer.from_checkpoints(
            model.resolve_parent(parent, args.output_dir), args.reward_model_path, model_args, args, tokenizer,
            rows.train, callbacks=fit.callbacks(run),
        )  # fmt: skip
        fit.describe(trainer, run, rows, args, "ppo", parent)
        metrics = fit.train_and_save(trainer, run, tokenizer, can_resume=False)
        run.finish("complete", metrics=metrics | trainer.last_metrics, tokens=metrics["tokens"])
    fit.show("last rollout", trainer.last_metrics, ("objective/scores", "objective/kl", "objective/entropy"))


if __name__ == "__main__":
    launch.run(main)
