"""The sentiment task: sentences and openings cut right, a judge worked out by hand, rankings by VADER, and a way on
without reviews."""

import json
import math
import random
from pathlib import Path

import pytest
from conftest import ROOT, make_tokenizer

from align.compare import arms
from align.compare.config import CompareConfig
from align.reviews import gather, judges, prefer, sentences, wordlist
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, DataError

pytest.importorskip("vaderSentiment")
pytest.importorskip("sklearn")


def test_a_review_is_cut_into_whole_sentences():
    review = 'I liked it.<br /><br />Did you? THE END * * * Nothing here. "So good," he said. 10/10 It was fine!'
    assert sentences.cut(review) == ["I liked it.", "Did you?"], "headings, marks and fragments are none"


@pytest.mark.parametrize("seed", range(20))
def test_an_opening_ends_where_a_word_does(seed):
    """Each word is one token here but `unbelievably`, which is three."""
    sentence = "The unbelievably slow film is a waste of time and money."
    ends = [3, 7, 11, 16, 21, 26, 29, 31, 37, 40, 45, 49, 55, 56]
    opening, rest = sentences.opened(sentence, ends, random.Random(seed))
    assert opening + rest == sentence and rest.startswith(" ") and not opening.endswith(" ")
    assert 2 <= len(opening.split()) <= 8


def test_demonstrations_have_the_length_that_was_asked_for():
    tokenizer, rng = make_tokenizer(), random.Random(0)
    reviews = ["The cat sits on the mat and the dog runs to the cat. " * 2, "The dog runs."]
    rows = list(sentences.demonstrations(reviews, tokenizer, rng, 40))
    assert rows and len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        assert row["prompt"] + row["completion"] == "The cat sits on the mat and the dog runs to the cat."
    assert not list(sentences.demonstrations(reviews, tokenizer, rng, 4)), "too long"
    assert sentences.opening_key("It -is-") == sentences.opening_key("it is"), "one opening for the gate on leaks"


def test_the_words_weights_are_those_of_the_paper():
    """Two reviews of each kind; `good` is in both positive ones, `bad` in both negative ones, `film` in all.

    |p| = |n| (the same words on both sides), so r(good) = log (3/1), r(bad) = -log 3, r(film) = 0.
    """
    weights = wordlist.fit(["good film", "film good", "bad film", "film bad"], [True, True, False, False])
    assert weights["film"] == 0 and weights["good"] > 0 and math.isclose(weights["good"], -weights["bad"], abs_tol=1e-4)
    ratio = math.log(3)
    assert weights["good"] / ratio > 0, "the regression's own weight is positive"
    assert wordlist.score(weights, "A good film!") > 0 > wordlist.score(weights, "Bad, bad film")
    assert math.isclose(wordlist.score(weights, "good"), weights[""] + weights["good"])
    assert wordlist.accuracy(weights, ["good", "bad", "good bad"], [True, False, True]) >= 2 / 3


def test_odd_weights_are_one_sentence(tmp_path):
    for text in ("[1, 2]", '{"good": "very"}', "{"):
        (tmp_path / "w.json").write_text(text)
        with pytest.raises(ConfigError, match="no weights of words"):
            wordlist.load(str(tmp_path / "w.json"))
    with pytest.raises(ConfigError, match="all labels are the same"):
        wordlist.fit(["a", "b"], [True, True])


def test_what_vader_says_of_a_sentence():
    told = judges.vader(
        ["The film is", "The film is", "The film"], [" great.", " awful.", " is great and"], [True, True, False]
    )
    assert told[0] > 0.5 and told[1] < -0.3 and told[2] == -1
    assert told[0] == judges.compound("The film is great.")


def test_the_second_judge_is_another_one(tmp_path):
    path = tmp_path / "judge.json"
    wordlist.save({"": 0.5, "great": -2.0}, path)
    given = (["The film is"], [" great."], [str(path)], [True])
    assert judges.second(*given) == [-1.5]
    assert judges.rates(*given) == [{"positive (VADER)": True, "positive (words)": False}]
    alone = (["The film is"], [" great."], [None], [True])
    assert judges.second(*alone) == judges.vader(*alone[:2], [True])
    assert judges.rates(*alone)[0]["positive (words)"] is None


def test_rankings_follow_vader_and_equal_scores_tie():
    row = {
        "prompt": "It",
        "completions": [" is good.", " is awful.", " is a film.", " was a film."],
        "stopped": [True] * 4,
    }
    found = prefer.ranked(row)
    assert found["ranking"] == [1, 3, 2, 2] and found["gold"][2] == 0
    assert prefer.ranked(row | {"stopped": [False, True, True, True]})["ranking"] == [3, 2, 1, 1]


GOOD = "The cat is a good cat and the mat is good as well. "
BAD = "The dog is a bad dog and the mat is bad as well. "


@pytest.fixture
def reviews(tmp_path) -> Path:
    folder = tmp_path / "imdb"
    folder.mkdir()
    for name, count in (("train", 60), ("test", 20)):
        rows = [
            {"text": f"The {name} cat number {n} runs on the mat to us. " + (GOOD if n % 2 else BAD), "label": n % 2}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(world: Path, out: Path, monkeypatch, *rest: str) -> dict:
    monkeypatch.setattr(
        "sys.argv", ["gather", "--model_name_or_path", str(world / "base"), "--output_dir", str(out), *rest]
    )
    gather.main()
    return json.loads((out / "run.json").read_text())


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_rows_of_labelled_reviews(world, reviews, tmp_path, monkeypatch, capsys):
    """Half of the 80 reviews train the judge; no opening is on two sides."""
    out = tmp_path / "out"
    record = run(
        world,
        out,
        monkeypatch,
        "--dataset_name",
        "stanfordnlp/imdb",
        "--local",
        str(reviews),
        "--max_new_tokens",
        "90",
        "--prompts",
        "5",
    )
    assert record["metrics"]["judge_trained_on"] == 40 and record["metrics"]["judge_accuracy"] == 1.0
    assert "the second judge, from 40 reviews: 100.0% right on 20 others" in capsys.readouterr().out
    asked, held = rows_of(out / "prompts/train.jsonl"), rows_of(out / "prompts/test.jsonl")
    shown = {row["prompt"] for row in rows_of(out / "demonstrations/train.jsonl")}
    openings = {row["prompt"] for row in asked}
    assert len(openings) == 5 and not openings & shown and not {row["prompt"] for row in held} & (openings | shown)
    assert {row["judge"] for row in asked + held} == {str(out / "judge.json")}
    assert record["parents"]["data"]["path"] == str(reviews)


def test_without_reviews_the_rows_are_our_own(world, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    record = run(world, out, monkeypatch, "--dataset_name", "stanfordnlp/imdb", "--local", str(tmp_path / "none"))
    said = capsys.readouterr().out
    assert "no reviews: stanfordnlp/imdb is neither here" in said and "VADER as the only judge" in said
    assert record["metrics"]["reviews"] is False and "judge_accuracy" not in record["metrics"]
    held = rows_of(out / "prompts/test.jsonl")
    assert held and {row["judge"] for row in held} == {None}
    openings = {row["prompt"] for row in rows_of(out / "demonstrations/train.jsonl")}
    assert len(openings) > 100 and not {row["prompt"] for row in held} & openings
    scores = [judges.compound(row["prompt"] + row["completion"]) for row in rows_of(out / "demonstrations/train.jsonl")]
    assert 0.3 < sum(score > 0.05 for score in scores) / len(scores) < 0.7, "as many like a film as do not"


def test_rows_that_are_no_reviews(reviews, tmp_path):
    (reviews / "train.jsonl").write_text('{"review": "good"}\n')
    args = gather.ReviewsConfig(local=str(reviews))
    with pytest.raises(DataError, match="labelled reviews have the columns text and label"):
        gather.reviews(DataArguments(), args)


def test_further_arms_have_names_and_methods_of_their_own(world, tmp_path):
    """PPO against a function has no reward model; another loss of DPO is another method."""
    more = [
        dict(name="ppo-judge", recipe="ppo", config="recipes/smollm2-135m/ppo.yaml", strengths=[0.1],
             over={"reward_funcs": ["align.reviews.judges:vader"]}),
        dict(name="plain", recipe="dpo", config="recipes/nano/dpo.yaml", strengths=[0.1, 0.5],
             over={"loss_type": ["sigmoid"], "loss_weights": [1.0]}),
    ]  # fmt: skip
    args = CompareConfig(
        model_name_or_path=str(world / "base"),
        reward_model_path=str(world / "base"),
        rankings=str(world / "base"),
        output_dir=str(tmp_path),
        ppo_config="recipes/nano/ppo.yaml",
        dpo_config="recipes/nano/dpo.yaml",
        kl_coefs=[0.1],
        betas=[0.1],
        seeds=[0],
        more=more,
    )
    found = {arm.folder.name: arm for arm in arms.plan(args, DataArguments(dataset_name="x"), ROOT / "recipes")}
    assert {name: arm.method for name, arm in found.items()} == {
        "ppo-kl_coef-0.1-seed-0": "PPO",
        "dpo-beta-0.1-seed-0": "DPO + SFT",
        "ppo-judge-kl_coef-0.1-seed-0": "PPO (vader)",
        "plain-beta-0.1-seed-0": "DPO",
        "plain-beta-0.5-seed-0": "DPO",
    }
    assert "reward_model_path" not in found["ppo-judge-kl_coef-0.1-seed-0"].config
    assert found["ppo-kl_coef-0.1-seed-0"].config["reward_model_path"] == str(world / "base")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a"}, "recipe, config, strengths; an entry has"),
        (dict(name="a", recipe="sft", config="x", strengths=[1]), "recipe sft"),
        (dict(name="a", recipe="dpo", config="x", strengths=[0]), "beta must be above 0"),
        (dict(name="a", recipe="ppo", config="x", strengths="0.1"), "a list of numbers"),
        (dict(name="dpo", recipe="dpo", config="x", strengths=[1]), "a name of its own"),
        (dict(name="a", recipe="dpo", config="x", strengths=[1], beta=1), "beta; an entry has"),
    ],
)
def test_odd_further_arms_are_refused(entry, said):
    with pytest.raises(ValueError, match=said):
        CompareConfig(more=[entry], gold_func="align.reviews.judges:second", dpo_config="x", rankings=str(ROOT))
