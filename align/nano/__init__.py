"""The made world of the demo, small enough that every answer is known and graded exactly. Begin with `facts`.

`world` turns facts into text, `corpus/` into a raw crawl; `build` writes both. `grade` decides what is helpful, honest
and harmless, `rank` is a simulated labeler. `seeds` is the chain for several seeds, `values` two groups of labelers who
disagree, `ablation` what cleaning does to a base model.
"""
