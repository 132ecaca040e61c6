"""The kit of which pages are made: by the card of a cleaned corpus, by evaluations and by comparisons.

`markup` is the HTML (tables, figures with their data, the document) and `markdown` the same for a model card;
`numerals` writes numbers, `svg` makes matplotlib's figures fit for a page, `style` is the sheet, `untrusted` is for
foreign text.
"""
