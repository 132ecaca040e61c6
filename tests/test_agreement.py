"""Agreement and biases, against published worked examples and numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from align.label import agreement, biases, opinions
from align.label.reliability import alpha, tau_b
from align.label.summary import Pace

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, None missing
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def test_krippendorffs_own_examples():
    units = [[v for v in unit if v is not None] for unit in zip(*OBSERVERS, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha(units, order=[1, 2, 3, 4, 5]) == pytest.approx(0.815, abs=5e-4)
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]  # section A: binary, two observers
    assert alpha(zip(meg, owen, strict=True)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_at_its_ends():
    """One tie against one win, twice: o = 4 disagreeing of n = 4; expected 2 x 2 x 2: 1 - 3 x 4 / 8 = -0.5."""
    assert alpha([[1, 1], [0, 0]]) == 1
    assert alpha([[1, 0], [0, 1]]) == pytest.approx(-0.5)
    assert alpha([[1], [0]]) is None and alpha([[1, 1], [1, 1]]) is None


def test_tau_b():
    """SciPy's documented example (stats.kendalltau): ten pairs, two tied in x, one in y: -4 / sqrt(8 x 9) = -0.4714."""
    assert tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert tau_b([1, 2, 3], [1, 2, 3]) == 1 and tau_b([1, 2, 3], [3, 2, 1]) == -1
    assert tau_b([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / 6**0.5)  # P = 2, one tie in y: 2 / sqrt(2 x 3)
    assert tau_b([1, 1, 1], [1, 2, 3]) is None


def row(annotator, ranking, item="i", **rest):
    said = rest.pop("completions", ["a", "bb", "ccc"])
    return {"prompt": "p", "completions": said, "ranking": ranking, "annotator": annotator, "item": item,
            "kind": "person", "verdict": "ranked", "repeat": False, "shown": [0, 1, 2], "seconds": 10.0, **rest}  # fmt: skip


def test_agreement_between_annotators():
    """Item i: [1,2,3] against [1,3,2]: two of three pairs alike, tau 1/3. Item j: alike, tau 1. Means 5/6 and 2/3."""
    rows = [row("ann", [1, 2, 3]), row("bob", [1, 3, 2]), row("ann", [1, 2, 3], "j"), row("bob", [1, 2, 3], "j"),
            row("ann", [1, 2, 3], "alone")]  # fmt: skip
    found = agreement.summary(rows).people
    assert found.items == 2
    assert found.tau_b.value == pytest.approx(2 / 3) and found.raw.value == pytest.approx(5 / 6)
    assert found.raw.low < found.raw.value <= found.raw.high == 1


def test_three_annotators_are_compared_in_every_pair_of_them():
    """ann and bob agree on all three pairs, each agrees with cyd on none: (1 + 0 + 0) / 3."""
    rows = [row("ann", [1, 2, 3]), row("bob", [1, 2, 3]), row("cyd", [3, 2, 1])]
    found = agreement.summary(rows)
    assert found.people.raw.value == pytest.approx(1 / 3)
    assert found.people.tau_b.value == pytest.approx((1 - 1 - 1) / 3)
    by_name = {one.name: one.others.raw.value for one in found.annotators}
    assert by_name == {"ann": pytest.approx(0.5), "bob": pytest.approx(0.5), "cyd": 0}


def test_ties_are_a_judgement_of_their_own():
    """[1,1,2] against [1,2,3]: tie against win, then win and win: two of three; tau-b 2 / sqrt(2 x 3)."""
    found = agreement.summary([row("ann", [1, 1, 2]), row("bob", [1, 2, 3])]).people
    assert found.raw.value == pytest.approx(2 / 3)
    assert found.tau_b.value == pytest.approx(2 / 6**0.5)


def test_identical_completions_are_one_and_skips_are_none():
    same = {"completions": ["a", "a", "bb"]}
    rows = [row("ann", [1, 1, 3], **same), row("bob", [1, 1, 3], **same), row("cyd", None, verdict="skip")]
    found = agreement.summary(rows)
    assert found.people.raw.value == 1 and found.verdicts == {"ranked": 2, "skip": 1}


def test_models_are_measured_against_people_only():
    rows = [row("ann", [1, 2, 3]), row("judge", [1, 2, 3], kind="model"), row("judge", [3, 2, 1], "j", kind="model"),
            row("other", [3, 2, 1], kind="model")]  # fmt: skip
    found = agreement.summary(rows)
    assert found.people.items == 0 and found.people.alpha.nominal is None
    assert found.models["judge"].items == 1 and found.models["judge"].tau_b.value == 1
    assert found.models["other"].tau_b.value == -1
    assert found.everybody.items == 1


def test_a_models_alpha_is_with_each_person_and_not_between_people():
    """Three people agree on every item; the model says the opposite: each of its pairs of opinions differs."""
    rows = [row(name, said, item=f"i{number}") for number, said in enumerate(([1, 2, 3], [3, 1, 2])) for name in "abc"]
    rows += [row("m", said, item=f"i{number}", kind="model") for number, said in enumerate(([3, 2, 1], [1, 3, 2]))]
    found = agreement.summary(rows)
    assert found.people.alpha.nominal == 1 and found.models["m"].alpha.nominal < -0.9


def test_self_consistency_is_of_an_annotators_own_repeats():
    rows = [row("ann", [1, 2, 3]), row("ann", [1, 3, 2], repeat=True), row("bob", [1, 2, 3])]
    found = {one.name: one for one in agreement.summary(rows).annotators}
    assert found["ann"].themselves.tau_b.value == pytest.approx(1 / 3) and found["ann"].repeats == 1
    assert found["bob"].themselves.items == 0
    assert agreement.summary(rows).people.raw.value == 1, "the repeat is not compared with others"


def test_position_bias_by_hand():
    """First shown is best, shares the best with one, is last: (1 + 1/2 + 0) / 3 = 1/2, against 1/3."""
    rows = [row("ann", [2, 1, 3], shown=[1, 0, 2]), row("ann", [1, 1, 3], "j"), row("ann", [3, 2, 1], "k")]
    found = biases.position_bias(rows)
    assert found.rate.value == pytest.approx(0.5) and found.expected == pytest.approx(1 / 3) and found.rate.n == 3
    assert biases.position_bias([{**rows[0], "shown": None}]) is None


def test_length_bias_by_hand():
    """[1,2,3] for lengths 1, 2, 3: the shorter three times. [3,1,1]: two pairs decided, both for the longer. 2 of 5."""
    found = biases.length_bias([row("ann", [1, 2, 3]), row("ann", [3, 1, 1], "j")])
    assert found.rate.value == pytest.approx(2 / 5) and found.pairs == 5 and found.rate.n == 2
    assert biases.length_bias([row("ann", [1, 2, 3], completions=["a", "b", "c"])]) is None


def test_pace_is_the_median():
    rows = [row("ann", [1, 2, 3], str(n), seconds=s) for n, s in enumerate((10, 20, 3000))]
    assert biases.pace(rows) == Pace(seconds=20, per_hour=180, timed=3)


def test_a_written_better_answer_is_left_out():
    """It is the annotator's own, ranked first by its maker; nobody else saw it."""
    plain = row("ann", [1, 2, 3])
    written = row("bob", [2, 3, 4, 1], completions=["a", "bb", "ccc", "mine is much longer"], written=True)
    found = agreement.summary([plain, written])
    assert found.people.tau_b.value == 1
    assert biases.length_bias([written]).pairs == 3
    assert biases.position_bias([written]).rate.value == 1
    tied = [2, 2, 2, 1]  # what an export makes of "all bad" with a written answer: nobody called the three a tie
    bad = row("bob", tied, completions=["a", "bb", "ccc", "mine"], written=True, verdict="all_bad")
    assert opinions.ranks_of(bad) is None and opinions.ranks_of({**bad, "verdict": "ranked"}) is not None


def test_old_rows_without_our_columns_and_the_summary_as_json():
    rows = [{"prompt": "p", "completions": ["a", "b"], "ranking": r, "annotator": n, "time": None}
            for n, r in (("x", [1, 2]), ("y", [1, 2]))]  # fmt: skip
    found = agreement.summary(rows)
    assert found.people.raw.value == 1 and found.pace is None
    told = json.loads(json.dumps(found.as_dict()))
    assert told["people"]["raw"] == {"value": 1, "low": 0, "high": 1, "n": 1}
    assert set(told["people"]) == {"items", "tau_b", "raw", "alpha", "alpha_ordinal"}
    assert set(told["annotators"][0]["self"]) == {"items", "tau_b", "raw"} and told["annotators"][0]["kind"] == "person"


def test_the_program_prints_a_table(tmp_path, capsys):
    from conftest import write_rows

    rows = [row(name, r, f"i{n}") for n in range(5) for name, r in (("ann", [1, 2, 3]), ("bob", [1, 3, 2]))]
    path = write_rows(tmp_path / "rows.jsonl", [*rows, row("judge", [1, 2, 3], "i0", kind="model")])
    agreement.main(["--source", str(path)])
    printed = capsys.readouterr().out
    assert "between people: Kendall's tau-b" in printed and "0.33 (0.33 to 0.33, n 5)" in printed
    assert "judge (model) with people" in printed and "first shown is ranked best" in printed
    agreement.main(["--source", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["rankings"] == 11
    from align.run.errors import DataError

    with pytest.raises(DataError, match=r"nobody called eve ranked here; there are \['ann', 'bob', 'judge'\]"):
        agreement.main(["--source", str(path), "--annotators", "eve"])
