"""What it takes that policy, critic, reference and reward model can share one backbone.

`switching` says whose turn it is, `folding` makes sampling cheaper, `probing` tries before a run that nothing moves
that must not.
"""
