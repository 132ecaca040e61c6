"""What a row is, and what its prompt is: the forms that public data sets have, each read in one way by every recipe.

`normal` brings the rows of a source into one schema; `schemas` makes one row of each schema.
"""
