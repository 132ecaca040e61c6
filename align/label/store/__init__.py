"""The labels file (SQLite): every line of SQL on it is here.

Begin with store.py, which is what the others use. Below it, answers.py (what an answer changes), assignment.py (who is
asked about what), database.py (the schema, transactions, errors in a sentence); above it, source.py (reading rankings
from wherever they are), rows.py (taking rows in) and merging.py (`align merge`). notes.py is what judges said, as JSON
lines beside the file.
"""
