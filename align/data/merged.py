"""Objects that come through Arrow: the keys that its merging invented are taken out again.

In a Parquet or Arrow file all objects of a column have the keys that any of them has, null where they had none. For
tools, calls of tools and a template's arguments such a key is a word like any other, and would be learnt.
"""

from __future__ import annotations

import functools
from typing import Any

from align.data import arrow

WRITTEN_OUT = {"tools", "tool_calls", "function_call", "chat_template_kwargs"}  # what templates write key by key


def without_fillers(rows: Any, columns: list[str]) -> Any:
    """A data set whose tools, calls of tools and template's arguments have no key that is null.

    Args:
        columns: the mapping `theirs=ours`: a column that becomes `tools` is one.
    """
    import datasets

    if rows is None or rows.features is None:
        return rows
    ours = dict(pair.split("=", 1) for pair in columns if "=" in pair)
    changes: dict[str, Any] = {}
    for name, feature in rows.features.items():
        inside = ours.get(name, name) in WRITTEN_OUT
        if _is_merged(feature, inside):
            changes[name] = functools.partial(_cleared, feature=feature, inside=inside)
    if changes and isinstance(rows, datasets.IterableDataset):
        kinds = datasets.Features({**rows.features, **dict.fromkeys(changes, arrow.Written())})
        return rows.map(lambda row: {name: change(row[name]) for name, change in changes.items()}, features=kinds)
    for name, change in changes.items():
        rows = arrow.rewritten(rows, name, change)
    return rows


def _is_merged(feature: Any, inside: bool) -> bool:
    """Does a feature hold merged objects of which keys are to be taken out? JSON in a text is as it was written."""
    if isinstance(feature, dict):
        return inside or any(_is_merged(inner, key in WRITTEN_OUT) for key, inner in feature.items())
    inner = getattr(feature, "feature", None)
    return inner is not None and _is_merged(inner, inside)


def _cleared(value: Any, feature: Any, inside: bool) -> Any:
    if isinstance(value, dict) and isinstance(feature, dict):
        within = {key: (inner, inside or key in WRITTEN_OUT) for key, inner in feature.items()}
        return {key: _cleared(one, *within[key]) for key, one in value.items() if not (inside and one is None)}
    if isinstance(value, list):
        return [_cleared(one, getattr(feature, "feature", None), inside) for one in value]
    return value
