"""Thoughts and answers apart: what is sampled is read once, and whoever grades or ranks it sees the answer alone."""

from __future__ import annotations

import types

import pytest
from conftest import make_tokenizer
from test_templates import ASK, TELL, THOUGHT, family, told, user

from align.data import chat
from align.data.chat import reasoning
from align.evaluate.measures import ratings
from align.judge.protocol import read_choice
from align.judge.rankers import texts_of
from align.models import generate, scorers
from align.models.generate import Completion
from align.run.errors import ConfigError, RunError


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("a cat", "", ("", "a cat")),
        (" a cat\n", "", ("", " a cat\n")),  # nothing to take out, nothing changed
        ("<think>\nhm\n</think>\n\na cat", "", ("hm", "a cat")),
        ("\n<think>hm</think>a cat", "", ("hm", "a cat")),
        ("<think></think>\na cat", "", ("", "a cat")),
        ("<think>one</think><think>two</think>a cat", "", ("one\n\ntwo", "a cat")),
        ("hm\n</think>\n\na cat", "<think>", ("hm", "a cat")),
        ("hm\n</think>\n\na cat", "", ("hm", "a cat")),  # a prompt that is not known opened it
        ("<think>\nhm, and then", "", ("hm, and then", "")),  # it never ended: there is no answer
        ("hm, and then", "<think>", ("hm, and then", "")),
        ("[THINK]hm[/THINK]a cat", "", ("hm", "a cat")),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>a cat", "", ("hm", "a cat")),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>a cat", "", ("hm", "a cat")),
        ("<|channel|>final<|message|>a cat", "", ("", "a cat")),
        ("<|channel|>fin", "", ("", "")),  # cut before its first word
        ("<seed:think>hm</seed:think>a cat", "", ("hm", "a cat")),
        ("HTML has no <think> tag", "", ("", "HTML has no <think> tag")),
    ],
)  # fmt: skip
def test_reasoning_is_split_off(text, opened, expected):
    assert reasoning.split(text, opened) == expected


def test_messages_keep_it_apart_and_judges_do_not_see_it():
    message = told("<think>\nhm\n</think>\n\na cat")
    assert reasoning.apart(message) == told("a cat", reasoning_content="hm")
    assert reasoning.apart(user("<think>x</think>")) == user("<think>x</think>")
    assert (
        reasoning.answer_of([message]) == [told("a cat")] and reasoning.answer_of("<think>hm</think>a cat") == "a cat"
    )
    item = {"completions": ["<think>1</think>a cat", [told("a cat", reasoning_content="2")], [message], "a dog"]}
    assert texts_of(item) == ["a cat", "a cat", "a cat", "a dog"]
    assert ratings.parse_rating("<think>1 or 9</think>7") == 7 and ratings.parse_rating("<think>it is 3") is None
    assert read_choice("<think>Verdict: 1\nVerdict: 1</think>\nVerdict: 2") == "2"
    assert read_choice("<think>so far\nVerdict: 1") is None


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3_5_think", "glm4moe", "gptoss", "nemotron_3_nano", "deepseek_r1_distill", "llama3_1"]
)
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "help please"}]], ids=["", "system"])
def test_what_is_sampled_comes_back_as_the_row_that_it_was(name, system):
    """Encoded as learnt and decoded as sampled, thought and answer are the same; so for `<think>` opened by the prompt."""
    tokenizer = family(name)
    stops = set(chat.stop_ids(tokenizer))
    for message, thought in ((TELL, ""), (told(TELL["content"], reasoning_content=THOUGHT), THOUGHT)):
        prompt, ids = chat.encode_pair(tokenizer, [*system, ASK], [message])
        found = generate.as_completion(prompt, ids, stops, tokenizer)
        assert (found.text, found.reasoning, found.stopped, found.ids) == (TELL["content"], thought, True, ids)
        cut = generate.as_completion(prompt, ids[:-1], stops, tokenizer)
        assert (cut.text, cut.reasoning, cut.stopped) == (TELL["content"], thought, False)
    begun = tokenizer("hello cat", add_special_tokens=False)["input_ids"]
    if name in ("qwen3_5_think", "nemotron_3_nano", "deepseek_r1_distill"):
        found = generate.as_completion(prompt, begun, stops, tokenizer)
        assert (found.text, found.reasoning) == ("", "hello cat")


@pytest.mark.parametrize("said", [" a cat", "a cat", "  the mat ", "\nthe mat", " <think>x</think> a cat", "at ."])
def test_plain_text_is_what_was_sampled(tokenizer, said):
    """With its leading blank, so that ranked and trained on it is the very tokens that were sampled."""
    prompt, ids = chat.encode_pair(tokenizer, "what is", said)
    found = generate.as_completion(prompt, ids, {tokenizer.eos_token_id}, tokenizer)
    assert (found.text, found.reasoning) == (said, "")
    assert chat.encode_pair(tokenizer, "what is", found.text) == (prompt, ids)


def test_a_reward_model_reads_the_answer_without_its_reasoning():
    """Where the policy reasoned, its ids are no longer what the reward model was trained on: it reads the text."""
    tokenizer = family("qwen3")
    seen: list[list[int]] = []
    scorer = scorers.from_model(lambda rows: seen.extend(rows) or [0.0] * len(rows), tokenizer, tokenizer)
    prompt, ids = chat.encode_pair(tokenizer, [ASK], [told("a cat", reasoning_content=THOUGHT)])
    row = {"prompt": [ASK], "input_ids": prompt}
    thoughtful = generate.as_completion(prompt, ids, chat.stop_ids(tokenizer), tokenizer)
    assert thoughtful.reasoning == THOUGHT
    scorer.score([row, row], [thoughtful, Completion([7, 8], "xy", False)])
    assert seen == [sum(chat.encode_pair(tokenizer, [ASK], [told("a cat")]), []), [*prompt, 7, 8]]
    seen.clear()
    endless = Completion(ids[:5], "", False, THOUGHT)  # it thought until it was cut
    scorer.score([row], [endless])
    assert seen == [sum(chat.encode_pair(tokenizer, [ASK], [told("")], read=True), [])]


def test_a_reward_model_that_ranks_given_answers_reads_them_without_reasoning(tokenizer):
    for answer, bare in (("<think>hm</think> a cat", "a cat"), ([told("<think>hm</think>a cat")], [told("a cat")])):
        prompt = [ASK] if isinstance(answer, list) else "what is "
        assert chat.encode_pair(tokenizer, prompt, answer, read=True) == chat.encode_pair(tokenizer, prompt, bare)


def test_lengths_are_those_of_answers():
    from align.evaluate.policy import Bench

    tokenizer = make_tokenizer()
    bench = types.SimpleNamespace(tokenizer=tokenizer)
    assert Bench.answer_ids(bench, Completion([1, 2, 3], "x", True)) == [1, 2, 3]
    said = Bench.answer_ids(bench, Completion(list(range(9)), "a cat", True, "hm"))
    assert tokenizer.decode(said) == "a cat"


# ------------------------------------------------------------------------------------------------- reward functions


def write(path, body: str) -> str:
    path.write_text(f"def score({body}\n")
    return f"{path}:score"


ROWS = [{"prompt": "x", "completions": ["a", "b"], "ranking": [1, 2], "stopped": "no", "input_ids": [1]},
        {"prompt": [user("x")], "prompts": 3, "input_ids": [1]}]  # fmt: skip
SAID = [Completion([5], "hello", True), Completion([5], "a cat", False, THOUGHT)]


def test_functions_on_rankings_rows_see_what_was_sampled(tmp_path):
    """Columns named like what we give do not get in its way; a column that a row lacks is None there."""
    where = write(tmp_path / "a.py", """prompts, completions, stopped, ranking, **columns):
    assert prompts == ["x", [{"role": "user", "content": "x"}]] and stopped == [True, False]
    assert completions == ["hello", [{"role": "assistant", "content": "a cat"}]]
    assert ranking == [[1, 2], None] and not columns, columns
    return [1.0, 2.0]""")  # fmt: skip
    assert scorers.from_function(where).score(ROWS, SAID) == [1.0, 2.0]


def test_functions_without_kwargs_get_what_they_name(tmp_path):
    where = write(tmp_path / "a.py", "completions, ranking=None):\n    return [float(len(completions))] * 2")
    assert scorers.from_function(where).score(ROWS, SAID) == [2.0, 2.0]
    where = write(tmp_path / "b.py", "completions, answer):\n    return [0.0]")
    with pytest.raises(RunError, match=r"asks for answer, .* can have prompts, completions, stopped, ranking"):
        scorers.from_function(where).score(ROWS, SAID)
    where = write(tmp_path / "c.py", "completions:\n    return [0.0]")
    with pytest.raises(ConfigError, match="SyntaxError"):
        scorers.load_function(where)


def test_two_functions_of_one_name_are_both_there(tmp_path):
    (tmp_path / "sub").mkdir()
    places = [write(path, f"prompts, **rest):\n    return [{n}.0] * len(prompts)")
              for n, path in enumerate([tmp_path / "a.py", tmp_path / "b.py", tmp_path / "sub" / "b.py"])]  # fmt: skip
    one = scorers.Reward([scorers.from_function(places[0])])
    assert list(one.raw(ROWS, SAID)[1]) == ["score"]
    every = scorers.Reward(
        [scorers.from_function(place, weight) for place, weight in zip(places, (1, 10, 100), strict=True)]
    )
    totals, each = every.raw(ROWS, SAID)
    assert totals == [210.0, 210.0]
    assert each == {"a.score": [0.0, 0.0], "b.score-1": [1.0, 1.0], "b.score-2": [2.0, 2.0]}


def test_rloo_scores_what_ppo_scores():
    """TRL would render a conversation with its reasoning, and with the newline that Qwen's template ends in."""
    from transformers import GenerationConfig

    tokenizer = family("qwen3")
    seen: list[list[int]] = []
    scorer = scorers.from_model(lambda rows: seen.extend(rows) or [0.5] * len(rows), tokenizer, tokenizer)
    function = scorers.for_trl(scorer, tokenizer, GenerationConfig(eos_token_id=[tokenizer.eos_token_id]))
    prompt, plain = chat.encode_pair(tokenizer, [ASK], [TELL])
    _, thoughtful = chat.encode_pair(tokenizer, [ASK], [told("a cat", reasoning_content=THOUGHT)])
    found = function(prompts=[[ASK]] * 3, completions=[], completion_ids=[plain, thoughtful, plain[:-1]], other=[1] * 3)
    assert found == [0.5] * 3
    answer = sum(chat.encode_pair(tokenizer, [ASK], [told("a cat")]), [])
    assert seen == [prompt + plain, answer, prompt + plain[:-1]]
    assert seen[0][-1] == tokenizer.eos_token_id
