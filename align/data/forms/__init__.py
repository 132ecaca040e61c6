"""What a row is, and what its prompt is: the forms that public data sets have, each read in one way by every recipe.

`normal` brings the rows of a source into one schema; `schemas` makes one row of each schema, of what `asked` (its
prompt), `sides` (the two answers of a pair) and `turns` (messages) read. `reading` notes which columns were read.
"""
