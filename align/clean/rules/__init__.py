"""A rule rules on one document: keep, drop or review. Begin with `ruling`, what it says, and `apply`, the steps.

`filters` are datatrove's with our thresholds (`gopher` the same ones faster, `words` their tokenizer, `explain` their
reasons in words); `lists`, `classifier` and `decontaminate` are rules of their own. `personal` finds what is masked.
"""
