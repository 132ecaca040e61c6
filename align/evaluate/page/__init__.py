"""The page of an evaluation, in HTML and in Markdown. Begin with `page`.

`tables` has every table, for both formats; `sections` (HTML) and `passages` (Markdown) have the parts that the page of
a comparison shares; `heatmaps` are the persona ratings.
"""
