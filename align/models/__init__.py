"""Models as they lie on disk and as they are asked. Begin with `checkpoints`: loading, adapters, reward heads.

`generate` samples and scores in batches, `packing` runs sequences without padding, `sample` is the sample recipe's
loop, `scorers` are reward models and users' functions as one thing, `tokenizer` trains one.
"""
