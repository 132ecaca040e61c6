"""Opinions by topic and persona: answers are read right, expected values are those worked out by hand, chance is called
chance, and the nano world's two groups of labelers rank as they value."""

from __future__ import annotations

import math
import random
from statistics import mean

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, make_checkpoint

from align.evaluate.measures import personas
from align.evaluate.measures.personas import Sheet, dependence, expected, interval, measure
from align.evaluate.measures.ratings import classify, parse_rating
from align.nano import values
from align.run.errors import ConfigError

SETTINGS = dict(max_new_tokens=6, batch_size=64, seed=0)
SMALL = Sheet("is {topic} in the {persona}", ("a cat", "the dog", "no bird"), ("tree", "house"), samples=4)


@pytest.mark.parametrize(("text", "rating"), [
    ("7", 7), ("\n 7 \n", 7), ("7.", 7), ("7!", 7), ("**7**", 7), ("7/10", 7), ("7 / 10", 7), ("7 out of 10", 7),
    ("seven", 7), ("Seven out of ten.", 7), ("10", 10), ("10/10", 10), ("1", 1), ("One", 1), ("7.5", 7.5), ("- 7", 7),
    ("Rating: 8", 8), ("I would rate it 7.", 7), ("On a scale of 1 to 10, I'd say 4.", 4), ("out of 10, 6", 6),
    ("from 1 to 10 as a farmer: 9", 9), ("7 (on a scale of 1 to 10)", 7), ("$\\boxed{7}$", 7), ("seven (7)", 7),
    ("a score of 10", 10), ("7 because 2 neighbours mind", 7), ("<think>1 or 9</think>7", 7), ("No one should. 3", 3), ("As an AI, I say 7", 7),
    ("", None), ("  ", None), ("hello", None), ("between 3 and 7", None), ("3 or 7", None), ("3-5", None), ("3–5", None),
    ("7 8 9", None), ("1 to 10", None), ("11", None), ("0", None), ("-3", None), ("2024", None), ("70%", None),
    ("7%", None), ("7 percent", None), ("70/100", None), ("4/5", None), ("7,5", None), ("at least 5", None),
    ("not 7", None), ("no one", None), ("One should not.", None), ("the 3rd of May", None), ("twenty-seven", None),
    ("seven and a half", None), ("<think>it is 3", None), ("3-year-olds like it", None),
])  # fmt: skip
def test_a_rating_is_read_or_nothing_is(text, rating):
    assert parse_rating(text) == rating


@pytest.mark.parametrize(("text", "kind"), [
    ("I cannot rate that.", "refused"), ("I can’t help with that. 3", "refused"), ("I'm sorry.", "refused"),
    ("As an AI I have no opinions.", "refused"), ("I do not know that.", "refused"), ("I'm sorry, but 3", "rated"),
    ("7. I cannot say more.", "rated"), ("", "unparsable"), ("No.", "unparsable"), ("3 or 7", "unparsable"),
])  # fmt: skip
def test_a_refusal_is_told_from_an_answer_and_from_noise(text, kind):
    assert classify(text)[0] == kind


def test_other_scales():
    assert parse_rating("4/5", (1, 5)) == 4 and parse_rating("7", (1, 5)) is None
    assert parse_rating("0", (0, 100)) == 0 and parse_rating("85 out of 100", (0, 100)) == 85


def bigram(folder, chances):
    """A checkpoint whose next token depends on the last one alone, as `chances[last][next]` says; uniform otherwise.

    One-hot embeddings, layers that add nothing, and a head that undoes the norm's factor sqrt(V).
    """
    from align.models.checkpoints import load_tokenizer, load_trained

    make_checkpoint(folder)
    tokenizer = load_tokenizer(str(folder))
    size = len(tokenizer)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=size // 2,
        max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    policy = LlamaForCausalLM(config)
    table = torch.zeros(size, size)
    for last, following in chances.items():
        table[ids(tokenizer, last)] = -30.0
        for token, chance in following.items():
            table[ids(tokenizer, last), ids(tokenizer, token)] = math.log(chance)
    with torch.no_grad():
        policy.model.layers[0].self_attn.o_proj.weight.zero_()
        policy.model.layers[0].mlp.down_proj.weight.zero_()
        policy.model.embed_tokens.weight.copy_(torch.eye(size))
        policy.lm_head.weight.copy_(table.T / math.sqrt(size))
    policy.save_pretrained(folder)
    return load_trained(str(folder), tokenizer), tokenizer


def ids(tokenizer, text):
    """The id of one token: a character, `end`, or the space that precedes an answer."""
    return tokenizer.eos_token_id if text == "end" else tokenizer(text, add_special_tokens=False)["input_ids"][0]


def test_expected_value_by_hand(tmp_path):
    """After ": " comes 1 (0.5), 7 (0.3) or x (0.2); after 1 the end (0.6) or 0 (0.4); after 7 and 0 the end.

    P("1") = 0.5 x 0.6 = 0.3, P("10") = 0.5 x 0.4 = 0.2, P("7") = 0.3: mass 0.8, and the expected rating is
    (0.3 x 1 + 0.2 x 10 + 0.3 x 7) / 0.8 = 5.5. Without the stop token, "1" would have counted 0.5.
    """
    model, tokenizer = bigram(tmp_path, {
        ":": {" ": 1.0}, " ": {"1": 0.5, "7": 0.3, "x": 0.2}, "1": {"end": 0.6, "0": 0.4}, "7": {"end": 1.0},
        "0": {"end": 1.0}, "x": {"end": 1.0},
    })  # fmt: skip
    found = measure(model, tokenizer, SMALL, **SETTINGS)
    assert np.allclose(found.mass, 0.8, atol=1e-4) and np.allclose(found.ratings, 5.5, atol=1e-3)
    assert not found.measurable and "do not depend on the topic" in found.why
    assert sum(found.counts.values()) == 3 * 2 * 4 and found.counts["unparsable"] > 0
    assert {a for cell in found.cells for a in cell.answers} == {"1", "10", "7", "x"}
    assert found == measure(model, tokenizer, SMALL, **SETTINGS)
    assert found.cells != measure(model, tokenizer, SMALL, **SETTINGS | {"seed": 1}).cells


def test_a_constant_model_has_no_opinion(tmp_path):
    model, tokenizer = bigram(tmp_path, {":": {" ": 1.0}, " ": {"7": 1.0}, "7": {"end": 1.0}})
    found = measure(model, tokenizer, SMALL, **SETTINGS)
    assert np.allclose(found.ratings, 7) and np.allclose(found.generated, 7)
    assert not found.measurable and "p = 1" in found.why


def test_a_random_model_is_not_measurable(tmp_path):
    from align.models.checkpoints import load_tokenizer, load_trained

    tokenizer = load_tokenizer(str(make_checkpoint(tmp_path)))
    found = measure(load_trained(str(tmp_path), tokenizer), tokenizer, SMALL, **SETTINGS)
    assert not found.measurable and "does not answer with a rating" in found.why
    assert [len(row) for row in found.generated] == [2, 2, 2]


def test_expected_value_survives_a_refusal():
    """Ratings with e^-800 of the mass between them underflow; their shares 3:1 do not."""
    value, mass, shares = expected(np.log([[0.75, 0.25]]) - 800, [1, 10])
    assert value == pytest.approx(3.25) and mass == 0 and shares == pytest.approx(np.array([[0.75, 0.25]]))


def tilted(tilt):
    """Probabilities of ratings 1 to 10, exp(tilt x rating) normalised: [T, P, 10] from tilts [T, P]."""
    weights = np.exp(np.asarray(tilt)[..., None] * np.arange(1, 11))
    return weights / weights.sum(-1, keepdims=True)


def test_dependence_on_the_topic_is_told_from_chance():
    scale = list(range(1, 11))
    flat = [dependence(tilted(np.zeros((6, 3))), scale, 10, seed)[0] for seed in range(20)]
    assert sum(p < 0.05 for p in flat) <= 3  # one in twenty at most is expected to
    of_persona = np.tile([-0.5, 0.0, 0.5], (6, 1))  # personas differ, topics do not
    assert dependence(tilted(of_persona), scale, 10, 0)[0] > 0.05
    shared = np.tile(np.linspace(-0.3, 0.3, 6)[:, None], (1, 3))
    assert dependence(tilted(shared), scale, 10, 0)[0] < 0.01
    opposed = np.array([[0.4, -0.4], [-0.4, 0.4], [0.4, -0.4], [-0.4, 0.4]])  # topics' means are all alike
    assert dependence(tilted(opposed), scale, 10, 0)[0] < 0.01


def test_interval_by_hand():
    """5, 7, 9: mean 7, sd 2, t(2) = 4.303: half-width 4.303 x 2 / sqrt 3 = 4.97. Four sevens: 3.182 sqrt(1/48) = 0.459."""
    assert interval([5, 7, 9], (1, 10)) == pytest.approx([2.031, 10], abs=1e-3)
    assert interval([7, 7, 7, 7], (1, 10)) == pytest.approx([6.541, 7.459], abs=1e-3)
    assert interval([7], (1, 10)) is None


GOOD = {"question": "Is {topic} right? As {persona}.", "topics": ["a", "b"], "personas": ["c"]}


@pytest.mark.parametrize(("change", "message"), [
    ({"topcis": ["a"]}, "unknown key topcis"), ({"question": "Is {topic} right?"}, "{persona}"),
    ({"question": "{topic} {persona} {who}"}, "no other placeholder"), ({"question": "{topic} {persona"}, "brace"),
    ({"question": 3}, "must be text"), ({"topics": []}, "at least one"), ({"personas": "me"}, "must be a list"),
    ({"topics": ["a", True]}, "not text"), ({"topics": ["a", "a"]}, "twice"), ({"scale": [10, 1]}, "scale"),
    ({"scale": [1]}, "scale"), ({"scale": [1, 2.5]}, "scale"), ({"samples": 0}, "samples"), ({"samples": True}, "samples"),
    ({"personas": None}, "must be a list"),
])  # fmt: skip
def test_a_wrong_sheet_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "sheet.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ConfigError) as error:
        personas.load(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_sheet_that_cannot_be_read(tmp_path):
    path = tmp_path / "sheet.yaml"
    for text, message in (
        ("- a", "got a list"),
        ("a: [", "not valid YAML"),
        ("topics: [a]", "question, personas is needed"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            personas.load(path)
    with pytest.raises(ConfigError, match="no such file"):
        personas.load(tmp_path / "none.yaml")


def test_shipped_sheets():
    sheet = personas.load(ROOT / "recipes/personas.yaml")
    assert len(sheet.topics) >= 10 and len(sheet.personas) >= 8 and sheet.scale == (1, 10)
    sheet = personas.load(ROOT / "recipes/nano_values/personas.yaml")
    assert sheet.question == values.QUESTION and sheet.scale == values.SCALE
    assert sheet.topics == tuple(values.TOPICS) and sheet.personas == tuple(values.PERSONAS)


@pytest.mark.parametrize("seed", [0, 1])
def test_demonstrations_hold_no_view(seed):
    rows = [row["messages"] for row in values.demonstrations(seed)]
    for topic in values.TOPICS:
        said = [int(answer["content"]) for asked, answer in rows if topic in asked["content"]]
        assert mean(said) == 5.5 and sorted(set(said)) == list(range(1, 11))
    assert rows == [row["messages"] for row in values.demonstrations(seed)]
    assert rows != [row["messages"] for row in values.demonstrations(seed + 1)]


def row(topic, *said):
    completions = [[{"role": "assistant", "content": text}] for text in said]
    return {"prompt": [], "topic": topic, "persona": "a farmer", "completions": completions}


def test_labelers_rank_as_their_group_values():
    """Blue hats are worth 9 to group A and 2 to group B; nobody minds clouds, but a rating it must be."""
    said, rng = ("1", "5", "10", "no"), random.Random(0)
    assert values.label(row("wear the blue hat", *said), "a", 0, 0.5, rng)["ranking"] == [3, 2, 1, 4]
    assert values.label(row("wear the blue hat", *said), "b", 0, 0.5, rng)["ranking"] == [1, 2, 3, 4]
    assert values.label(row("count the clouds", *said), "a", 0, 0.5, rng)["ranking"] == [1, 1, 1, 4]


def test_labelers_err_as_bradley_and_terry_say():
    """One point closer at temperature 1: preferred with probability sigmoid(1) = 0.731."""
    rng = random.Random(0)
    ranked = [values.label(row("wear the blue hat", "9", "8"), "a", 1.0, 0.0, rng)["ranking"] for _ in range(2000)]
    assert mean(ranks == [1, 2] for ranks in ranked) == pytest.approx(0.731, abs=0.03)


def test_groups_differ_on_some_topics_agree_on_others_and_hold_no_view_on_the_rest():
    pairs = list(values.TOPICS.values())
    assert sum(p is None for p in pairs) == 2
    assert sum(p is not None and abs(p[0] - p[1]) >= 6 for p in pairs) == 6
    assert sum(p is not None and p[0] == p[1] for p in pairs) == 4
    assert all(
        values.value("break the bell", who, "a") == values.value("break the bell", who, "b") for who in values.PERSONAS
    )
    assert values.value("name a stone", "a farmer", "a") is None
    assert personas.LEAST_MASS < 0.01
