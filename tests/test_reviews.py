"""The sentiment task: sentences and openings cut right, a judge worked out by hand, rankings by VADER, and a way on
without reviews."""

import json
import math
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, launch, make_tokenizer

from align.compare import arms
from align.compare.config import CompareConfig
from align.compare.verdict import gold_is_trained_on
from align.evaluate import policy
from align.evaluate.measures import wins
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

    Words that only one review has do not count, which leaves |p| = 3 + 1 + 3 = |n|: r(good) = log 3, r(bad) = -log 3,
    r(film) = 0. By symmetry good and bad have one weight b, and the loss, 2 b^2 / 2 + 4 C log(1 + exp(-b log 3)) at C = 0.1,
    is least where b = 0.2 log(3) / (1 + exp(b log 3)).
    """
    weights = wordlist.fit(["good film", "film good", "bad film", "film bad"], [True, True, False, False])
    assert weights["film"] == 0 and weights["good"] > 0 and math.isclose(weights["good"], -weights["bad"], abs_tol=1e-4)
    ratio, b = math.log(3), 0.0
    for _ in range(20):
        b = 0.2 * ratio / (1 + math.exp(b * ratio))
    assert weights["good"] == pytest.approx(ratio * b, abs=1e-4) and b == pytest.approx(0.1036, abs=1e-4)
    assert wordlist.score(weights, "A good film!") > 0 > wordlist.score(weights, "Bad, bad film")
    assert wordlist.score(weights, "good") == weights["good"] and wordlist.score(weights, "unknown") == 0
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
    wordlist.save({"is": 0.5, "great": -2.0}, path)
    given = (["The film is"], [" great."], [str(path)])
    assert judges.second(*given) == [-1.5]
    assert judges.rates(*given, [True]) == [{"positive (VADER)": True, "positive (words)": False}]


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
    assert {row["judge"] for row in asked + held} == {str(next(out.glob("judge-*.json")))}
    assert record["parents"]["data"]["path"] == str(reviews)


def test_without_reviews_the_rows_are_our_own(world, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    record = run(world, out, monkeypatch, "--dataset_name", "stanfordnlp/imdb", "--local", str(tmp_path / "none"))
    said = capsys.readouterr().out
    assert "no reviews: stanfordnlp/imdb is neither here" in said and "Going on with sentences of our own" in said
    assert record["metrics"]["reviews"] is False and record["metrics"]["judge_accuracy"] > 0.95
    assert "data" not in record["parents"], "nothing was read from there"
    held = rows_of(out / "prompts/test.jsonl")
    assert held and {row["judge"] for row in held} == {str(next(out.glob("judge-*.json")))}
    shown = {row["prompt"] for row in rows_of(out / "demonstrations/test.jsonl")}
    assert shown and not shown & {row["prompt"] for row in held}
    openings = {row["prompt"] for row in rows_of(out / "demonstrations/train.jsonl")}
    assert len(openings) > 100 and not {row["prompt"] for row in held} & openings
    scores = [judges.compound(row["prompt"] + row["completion"]) for row in rows_of(out / "demonstrations/train.jsonl")]
    assert 0.3 < sum(score > 0.05 for score in scores) / len(scores) < 0.7, "as many like a film as do not"


def test_reviews_that_come_sorted_by_label_are_shuffled_before_they_are_cut(reviews):
    """As the published ones do: the first 12,500 of IMDB are negative."""
    rows = sorted(rows_of(reviews / "train.jsonl"), key=lambda row: row["label"])
    (reviews / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = gather.ReviewsConfig(local=str(reviews), reviews=30)
    found = gather.reviews(DataArguments(), args, random.Random(0))
    assert len(found["train"]) == 30 and 5 < sum(row["label"] for row in found["train"]) < 25


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"review": "good"}], "labelled reviews have the columns text and label"),
        ([{"text": "good", "label": 2}, {"text": "bad", "label": 1}], r"label is 1 for .*; here it is \[1, 2\]"),
        ([{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}], r"here it is \['neg', 'pos'\]"),
    ],
)
def test_rows_that_are_no_reviews(reviews, rows, said):
    (reviews / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=said):
        gather.reviews(DataArguments(), gather.ReviewsConfig(local=str(reviews)), random.Random(0))


def test_reviews_without_a_held_out_split(reviews):
    (reviews / "test.jsonl").unlink()
    with pytest.raises(DataError, match="there is no such split"):
        gather.reviews(DataArguments(), gather.ReviewsConfig(local=str(reviews)), random.Random(0))


def test_further_arms_have_names_and_methods_of_their_own(world, tmp_path):
    """PPO against a function has no reward model; another loss of DPO is another method."""
    more = [
        dict(name="ppo-judge", recipe="ppo", config="recipes/smollm2-135m/ppo.yaml", strengths=[0.1],
             over={"reward_funcs": ["align.reviews.judges:vader"], "reward_model_path": None}),
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


def test_two_groups_of_one_method_are_refused_before_anything_is_trained(world, tmp_path):
    more = [
        dict(name="slow", recipe="dpo", config="recipes/nano/dpo.yaml", strengths=[0.1], over={"learning_rate": 1e-6})
    ]
    args = CompareConfig(
        model_name_or_path=str(world / "base"),
        reward_model_path=str(world / "base"),
        rankings=str(world / "base"),
        output_dir=str(tmp_path),
        dpo_config="recipes/nano/dpo.yaml",
        betas=[0.1],
        seeds=[0],
        more=more,
    )
    with pytest.raises(ConfigError, match=r"dpo and slow are both DPO \+ SFT"):
        arms.plan(args, DataArguments(dataset_name="x"), ROOT / "recipes")


def test_an_edited_reward_function_makes_another_arm(world, tmp_path):
    def digest() -> str:
        more = [dict(name="own", recipe="ppo", config="recipes/nano/ppo.yaml", strengths=[0.1],
                     over={"reward_funcs": [f"{function}:good"], "reward_model_path": None})]  # fmt: skip
        args = CompareConfig(model_name_or_path=str(world / "base"), gold_func="align.reviews.judges:second",
                             output_dir=str(tmp_path), seeds=[0], more=more)  # fmt: skip
        (arm,) = arms.plan(args, DataArguments(dataset_name="x"), ROOT / "recipes")
        return arm.stage.inputs

    function = tmp_path / "own.py"
    function.write_text("def good(completions, **_): return [1.0 for _ in completions]")
    before = digest()
    assert digest() == before
    function.write_text("def good(completions, **_): return [2.0 for _ in completions]")
    assert digest() != before


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (dict(name="a", recipe="dpo", config="x", strengths=[1, 1]), "each once"),
        (dict(name="../a", recipe="dpo", config="x", strengths=[1]), "the name of a folder"),
        (dict(name="a", recipe="dpo", config="x", strengths=[1], over="b"), "keys and values"),
        (
            dict(name="a", recipe="rloo", config="x", strengths=[1], over={"reward_funcs": ["m:f"]}),
            "takes no reward_funcs",
        ),
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


@pytest.mark.slow
def test_the_chain_from_reviews_to_a_report(world, reviews, tmp_path):
    """Every stage by its own YAML, on a tiny model: each reads what the one before wrote."""
    chain = yaml.safe_load((ROOT / "recipes/smollm2-135m/pipeline.yaml").read_text())
    steps = {
        "reviews": ["--local", str(reviews), "--max_new_tokens", "90", "--prompts", "12"],
        "sft": ["--max_steps", "2", "--max_length", "128", "--bf16", "false"],
        "sample": ["--max_new_tokens", "12"],
        "reward": ["--num_train_epochs", "1", "--max_length", "128", "--global_batch_size", "4"],
        "dpo": ["--max_steps", "2", "--max_length", "128", "--global_batch_size", "4"],
        "ppo": ["--max_steps", "1", "--global_batch_size", "4", "--response_length", "12"],
        "ppo-judge": [
            "--max_steps",
            "1",
            "--global_batch_size",
            "4",
            "--response_length",
            "12",
            "--normalize_reward",
            "false",
        ],
        "eval": ["--max_new_tokens", "12", "--num_generations", "1"],
        "compare": ["--max_new_tokens", "12", "--num_generations", "1"],
    }
    shutil.copytree(world / "base", tmp_path / "base")
    for stage in chain["stages"][1:]:
        settings = yaml.safe_load((ROOT / stage["config"]).read_text())
        moved = yaml.safe_dump(settings).replace("runs/smollm2-135m", str(tmp_path))
        config = tmp_path / f"{stage['name']}.yaml"
        config.write_text(moved)
        failed = [str(tmp_path / name) for name in ("sft", "reward")]  # two steps teach nobody to stop
        accept = [] if stage["name"] in ("reviews", "rank", "leaks") else ["--accept_failed", *failed]
        more = steps.get(stage["name"], [])
        command = [sys.executable, *stage["run"].split(), "--config", str(config), *more, *accept]
        done = launch(command, check=False)
        assert done.returncode == 0, (stage["name"], done.stdout[-2000:], done.stderr[-2000:])
        assert json.loads((tmp_path / stage["name"] / "run.json").read_text())["status"] == "complete"
    report = (tmp_path / "compare/report.md").read_text()
    assert "second judge" in report


def test_the_second_judge_decides_where_there_is_one():
    """VADER rewards an arm and may still be its gold score, as long as another judge has the last word."""
    assert policy.decides({"reward": 1, "gold": 2, "second": 3}) == "second"
    assert policy.decides({"reward": 1, "gold": 2}) == "gold" and policy.decides({"index": 1}) is None
    assert wins.judges([{"reward": 1, "gold": 2, "second": 3}], None) == ["second", "gold", "reward"]
    runs = [{"config": {"reward_funcs": ["align.reviews.judges:vader"]}}]
    given = dict(gold_func="align.reviews.judges:vader", gold_model_path=None, reward_model_path=None)
    assert gold_is_trained_on(SimpleNamespace(**given, second_func=None), runs)
    assert not gold_is_trained_on(SimpleNamespace(**given, second_func="align.reviews.judges:second"), runs)
    assert gold_is_trained_on(SimpleNamespace(**given, second_func="align.reviews.judges:vader"), runs)
