"""PPO against DPO (and RLOO, and best-of-n) from one SFT model: which arms, what they measure, who is better.

In the order of a run: `config`, `arms` (plan and train), `comparable` (refuse what does not compare), `program`
(measure each alike, put together, write), with `settings` (a method at one strength, alone and head to head), `numbers`
(over all settings) and `verdict` (the answer in words). What is found travels as the dataclasses of `comparison`, to
`page/` among others.
"""
