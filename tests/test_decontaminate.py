"""Evaluation sets of many shapes: which of their columns are read, what of them is looked for, and what is said of it."""

from __future__ import annotations

import pytest
from conftest import write_rows

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")

from align.clean.config import RuleConfig
from align.clean.rules import decontaminate
from align.run.errors import ConfigError, DataError

CONTEXT = "A man in a red coat climbs a tall ladder beside the old barn"  # 14 words
ENDING = "and then he throws a bucket of blue paint over the roof of it"  # 14
OTHER = "he sells the ladder to a woman who has never seen a barn before"  # 14
FILLER = "some other words that nobody has ever asked about in a test"


@pytest.fixture()
def choices(tmp_path):
    """HellaSwag's columns, and a set with columns that are known beside it."""
    rows = [{"ind": 4, "activity_label": "Roofing", "ctx": CONTEXT, "endings": [ENDING, OTHER], "label": "0"}]
    write_rows(tmp_path / "swag.jsonl", rows)
    known = {"question": "Which planet of the sun is the largest of all eight of them", "choices": {"text": [FILLER]}}
    write_rows(tmp_path / "exam.jsonl", [known])
    return tmp_path


def made(sets, folder, **named):
    report = decontaminate.build([str(file) for file in sets], folder / "i.npz", **named)
    return report, decontaminate.Index.load(folder / "i.npz")


def test_rows_without_a_text_are_passed_over(choices):
    write_rows(choices / "gaps.jsonl", [{"question": None, "answer": None}, {"question": CONTEXT, "answer": None}])
    report, index = made([choices / "gaps.jsonl"], choices)
    assert index.rule(f"{FILLER} {CONTEXT} {FILLER}").action == "drop"
    assert report["sets"][str(choices / "gaps.jsonl")]["rows"] == 2


def test_columns_with_names_of_their_own(choices):
    with pytest.raises(DataError, match=r"has the columns ind, activity_label, ctx.*--decontaminate_columns"):
        made([choices / "swag.jsonl"], choices)
    report, index = made([choices / "swag.jsonl"], choices, columns=["ctx", "endings"])
    crossing = "tall ladder beside the old barn and then he throws a bucket of blue"  # the first joined with each other
    for text in (CONTEXT, ENDING, OTHER, crossing):
        assert index.rule(f"{FILLER} {text} {FILLER}").action == "drop", text
    assert report["sets"] == {str(choices / "swag.jsonl"): {"split": "train", "rows": 1, "texts": 5, "short": 0}}
    assert report["columns"] == {str(choices / "swag.jsonl"): ["ctx", "endings"]}


def test_each_set_has_its_own_columns(choices):
    """A set without any of the named columns is read as without them; one that nobody has is a slip."""
    sets = [choices / "swag.jsonl", choices / "exam.jsonl"]
    report, _ = made(sets, choices, columns=["ctx", "endings"])
    assert list(report["columns"].values()) == [["ctx", "endings"], ["question"]]
    report, index = made(sets[1:], choices, columns=["question", "choices"])  # a mapping's texts are texts
    assert report["sets"][str(sets[1])]["texts"] == 3 and index.rule(FILLER).action == "drop"
    with pytest.raises(DataError, match="none of .* has contexts"):
        made(sets, choices, columns=["ctx", "contexts"])


def test_what_is_too_short_is_told(tmp_path):
    """99 of 100 questions have fewer than 8 words; with their answers and both together 298 of 300 texts have."""
    rows = [{"question": "How many legs has a cat?", "answer": "Four"}] * 99
    rows += [{"question": "How many legs has a cat that has lost one of them?", "answer": "Three"}]
    write_rows(tmp_path / "short.jsonl", rows)
    report, _ = made([tmp_path / "short.jsonl"], tmp_path)
    (line,) = decontaminate.told(report)
    assert line == (
        f"{tmp_path / 'short.jsonl'} (train; question, answer): 2 of 300 texts are looked for, 298 have fewer than 8 "
        "words; a document that repeats only those is not found"
    )
    write_rows(tmp_path / "long.jsonl", rows[-1:])
    (line,) = decontaminate.told(made([tmp_path / "long.jsonl"], tmp_path)[0])
    assert line.endswith("2 of 3 texts are looked for, 1 has fewer than 8 words")


def test_columns_without_sets_are_refused():
    with pytest.raises(ConfigError, match="name the sets with --decontaminate"):
        RuleConfig(decontaminate_columns=["ctx"])
