"""Prompts that two sets share: inside one training set, and between what was learnt and what is measured.

`ngrams` compares words, `prompts` finds the same prompt on both sides, `overlaps` grades how much of a text is shared,
`leaks` walks a run's parents and looks for what it is evaluated on.
"""
