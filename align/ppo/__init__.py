"""The PPO engine: `trainer.py` is the loop, `maths.py` its formulas, `roles.py` who shares weights with whom."""
