"""Measurements on frozen models: what the eval recipe asks of each, and the page that it writes.

Begin with `evaluation`: every model in turn, sampled and scored by `policy`, asked the rest by `extras` (pairs, plain
text, suites, personas, benchmarks; the measures themselves are in `measures/`). What is found travels as the
dataclasses of `results`, to `page/` and `program`. `held_out` keeps prompts out that a model was trained on; `config`
has the flags.
"""
