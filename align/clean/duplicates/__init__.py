"""Duplicates, exact and near: `minhash` finds and removes them, `copies` chooses who stays, by what people said too."""
