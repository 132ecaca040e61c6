"""The trainers that are transformers' and TRL's with little of ours. Begin with `loop`: what surrounds every
`trainer.train()`. `pretrain` packs documents, `reward` and `dpo` weigh pairs, `pair_batches` is what those two share.
PPO has a room of its own.
"""
