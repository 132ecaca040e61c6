"""Judges: whoever says which completion is better. Used by `evaluate`, `compare` and `label` alike.

Begin with protocol.py (what a prompted judge is asked) and choices.py (what it says of a pair in both orders, and
scores as choices); refusing.py asks whether one answer refuses. endpoint.py asks a server, over connection.py and with
cache.py; chat_models.py completes conversations here or there; rankers.py makes rankings of K completions, and
uncertainty.py says how unsure they are.
"""
