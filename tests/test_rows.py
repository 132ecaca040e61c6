"""What a row is: one reader for every recipe. The right values are written out; nothing here needs a model."""

from __future__ import annotations

import json

import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data import load, pairs, text
from align.data.forms import asked, beside, normal, schemas, turns
from align.data.overlap.prompts import prompts_of
from align.label.exchange import imports
from align.run.arguments import DataArguments
from align.run.errors import DataError

SYSTEM = [{"role": "system", "content": "Be a pirate."}]
ASK = [{"role": "user", "content": "Name the capital of Peru."}]
TELL, LIE = [{"role": "assistant", "content": "It is Lima."}], [{"role": "assistant", "content": "It is Oslo."}]
Q, A, B, S = ASK[0]["content"], TELL[0]["content"], LIE[0]["content"], SYSTEM[0]["content"]
BEFORE = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
SHAREGPT = {"from": "human", "value": Q}
GPT, GPT2 = {"from": "gpt", "value": A}, {"from": "gpt", "value": B}

# Rows as public sets have them, and the prompt that every recipe is to read in them.
SAME = {
    "ultrafeedback_binarized": (
        {"prompt": Q, "prompt_id": "x", "chosen": ASK + TELL, "rejected": ASK + LIE, "messages": ASK + TELL,
         "score_chosen": 8.0, "score_rejected": 2.0}, ASK),
    "ultrachat_200k": ({"prompt": Q, "prompt_id": "x", "messages": ASK + TELL}, ASK),
    "orca": ({"system": S, "question": Q, "chosen": A, "rejected": B}, SYSTEM + ASK),
    "question with system": ({"system": S, "question": Q, "answer": A}, SYSTEM + ASK),
    "system_prompt": ({"system_prompt": S, "question": Q, "response": A}, SYSTEM + ASK),
    "alpaca with history": (
        {"instruction": Q, "input": "", "output": A, "system": S, "history": [["Hi.", "Hello."]]}, SYSTEM + BEFORE + ASK),
    "alpaca with input": (
        {"instruction": "Answer.", "input": Q, "output": A}, [{"role": "user", "content": f"Answer.\n\n{Q}"}]),
    "dolly": ({"instruction": "Answer.", "context": Q, "response": A}, [{"role": "user", "content": f"Answer.\n\n{Q}"}]),
    "pairs with instruction": ({"id": "a", "system": S, "instruction": Q, "input": "", "chosen": A, "rejected": B},
                               SYSTEM + ASK),
    "pairs with history": ({"question": Q, "history": [["Hi.", "Hello."]], "chosen": A, "rejected": B}, BEFORE + ASK),
    "query": ({"query": Q, "response": A}, ASK),
    "input and output": ({"input": Q, "output": A}, ASK),
    "an empty prompt beside a question": ({"prompt": "", "instruction": "", "input": Q, "output": A}, ASK),
    "mapped": ({"user": Q, "assistant": A}, ASK),
    "messages with system": ({"system": S, "messages": ASK + TELL}, SYSTEM + ASK),
    "messages with the same system": ({"system": f"{S} ", "messages": SYSTEM + ASK + TELL}, SYSTEM + ASK),
    "sharegpt": ({"conversations": [SHAREGPT, GPT], "system": S, "tools": "[]"}, SYSTEM + ASK),
    "sharegpt pairs": ({"conversations": [SHAREGPT], "chosen": GPT, "rejected": GPT2}, ASK),
    "sharegpt pairs in lists": ({"conversations": [SHAREGPT], "chosen": [GPT], "rejected": [GPT2]}, ASK),
    "hh": ({"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}"}, ASK),
    "hh prompt": ({"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": f" {A}", "rejected": f" {B}"}, ASK),
    "implicit": ({"chosen": SYSTEM + ASK + TELL, "rejected": SYSTEM + ASK + LIE}, SYSTEM + ASK),
    "implicit with system": ({"system": S, "chosen": ASK + TELL, "rejected": ASK + LIE}, SYSTEM + ASK),
    "sides with a system turn": ({"prompt": Q, "chosen": SYSTEM + ASK + TELL, "rejected": SYSTEM + ASK + LIE},
                                 SYSTEM + ASK),
    "the last question": ({"prompt": Q, "chosen": BEFORE + ASK + TELL, "rejected": BEFORE + ASK + LIE}, BEFORE + ASK),
    "plain": ({"prompt": f"{Q} It is", "completion": " Lima."}, f"{Q} It is"),
    "plain pairs": ({"prompt": f"{Q} It is", "chosen": " Lima.", "rejected": " Oslo."}, f"{Q} It is"),
    "prompt with system": ({"system": S, "prompt": Q, "completion": f" {A}"}, SYSTEM + ASK),
    "prompt and messages": ({"prompt": Q, "completion": TELL}, ASK),
    "messages and text": ({"prompt": ASK, "chosen": A, "rejected": B}, ASK),
    "developer": ({"messages": [{"role": "developer", "content": S}, *ASK, *TELL]}, SYSTEM + ASK),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, *TELL]}, ASK),
    "rankings": ({"system": S, "prompt": Q, "completions": [A, B], "ranking": [1, 2]}, SYSTEM + ASK),
    "rankings of messages": ({"prompt": Q, "completions": [TELL, LIE], "ranking": [1, 2]}, ASK),
}  # fmt: skip


def demonstration(row: dict) -> dict:
    return schemas.sft(row, "f, row 1")


def read(row: dict) -> dict:
    """Every reading that a row allows: by what, the prompt."""
    found = {"prompt": schemas.prompt(row, "f, row 1")["prompt"]}
    if "chosen" in row or "ranking" in row:
        pair = next(iter(normal.normalise([row], "preference", "f", [])))
        answers = (A, B) if "chosen" not in row or "Lima" not in row["chosen"] else (row["chosen"], row["rejected"])
        said = (text.completion(pair["chosen"]).strip(), text.completion(pair["rejected"]).strip())
        assert said == tuple(map(str.strip, map(text.completion, answers))) or said == (A, B), pair
        assert pair["drop"] == ""
        found["preference"] = pair["prompt"]
    else:
        learnt = demonstration(row)
        assert learnt["drop"] == ""
        assert learnt.get("completion", A) in (A, " Lima.")
        found["sft"] = learnt["prompt"] if "prompt" in learnt else learnt["messages"][:-1]
        assert "prompt" in learnt or learnt["messages"][-1] == TELL[0]
    if "chosen" in row:
        (imported,) = imports.from_pairs(row, "f, row 1", None, {})
        found["import"] = imported["prompt"]
    return found


@pytest.mark.parametrize("name", SAME)
def test_a_row_is_the_same_prompt_for_every_recipe(name):
    row, prompt = SAME[name]
    before = json.dumps(row)
    found = read(row)
    assert len(found) > 1 and found == dict.fromkeys(found, prompt)
    assert json.dumps(row) == before  # what a reward function gets is what the file says


@pytest.mark.parametrize("name", SAME)
def test_a_row_is_the_same_prompt_for_the_leak_check(name, tmp_path):
    row, prompt = SAME[name]
    rows = load.load(DataArguments(dataset_name=str(write_rows(tmp_path / "x.jsonl", [row]))), "train", seed=0)
    assert prompts_of(rows, "f").texts[-1:] == [text.user_side(prompt)]


# ------------------------------------------------------------------------------------------------------- plain or chat


@pytest.mark.parametrize(
    ("row", "how", "prompt", "answer"),
    [
        ({"prompt": Q, "completion": f" {A}"}, "auto", Q, f" {A}"),
        ({"prompt": Q, "completion": f" {A}"}, "chat", ASK, TELL),
        ({"prompt": Q, "completion": f" {A}"}, "text", Q, f" {A}"),
        ({"question": Q, "answer": A}, "auto", ASK, TELL),
        ({"question": Q, "answer": A}, "chat", ASK, TELL),
        ({"question": Q, "answer": A}, "text", Q, A),
        ({"prompt": Q, "completion": "    return 1"}, "chat", ASK, [{"role": "assistant", "content": "    return 1"}]),
        ({"prompt": Q, "completion": A, "tools": [{"name": "f"}]}, "auto", ASK, TELL),
    ],
)
def test_a_string_in_prompt_is_text_and_a_question_is_a_turn_unless_the_flag_says_otherwise(row, how, prompt, answer):
    learnt = schemas.sft(row, "f, row 1", how)
    assert learnt.get("prompt", learnt.get("messages", [])[:1]) == prompt
    assert learnt.get("completion", learnt.get("messages", [])[1:]) == answer
    assert schemas.prompt(row, "f, row 1", how)["prompt"] == prompt


@pytest.mark.parametrize("row", [{"messages": ASK + TELL}, {"system": S, "question": Q, "answer": A}, {"prompt": ASK},
                                 {"prompt": Q, "chosen": TELL, "rejected": LIE}])  # fmt: skip
def test_what_needs_the_template_is_refused_as_plain_text(row):
    with pytest.raises(DataError, match=r"f, row 1.*chat template.*--prompt_format text"):
        schemas.prompt(row, "f, row 1", "text")


# ------------------------------------------------------------------------------------------------------------- implicit


@pytest.mark.parametrize("beside", [{"prompt": None}, {"system": S}, {"question": ""}, {"instruction": None}])
def test_what_two_texts_share_is_no_prompt_where_a_column_could_hold_it(beside):
    row = {"chosen": "The capital is Lima.", "rejected": "The capital is Oslo.", **beside}
    assert schemas.preference({"chosen": row["chosen"], "rejected": row["rejected"]}, "f")["prompt"] == "The capital is"
    if beside == {"question": ""}:  # asked, and nothing
        assert schemas.preference(row, "f, row 1")["drop"] == "without a prompt"
        return
    with pytest.raises(DataError, match=f"f, row 1: .*nothing says what was asked.*{next(iter(beside))}"):
        schemas.preference(row, "f, row 1")


# ------------------------------------------------------------------------------------------------------- contradictions


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"system": "Be a clerk.", "messages": SYSTEM + ASK + TELL}, "system .'Be a clerk.'.*messages .'Be a pirate"),
        ({"prompt": "Name a colour.", "messages": ASK + TELL}, "prompt .'Name a colour.'. is not .* in messages"),
        ({"prompt": "Name a colour.", "chosen": ASK + TELL, "rejected": ASK + LIE}, "prompt .* in chosen"),
        ({"system": "Be a clerk.", "prompt": Q, "chosen": SYSTEM + ASK + TELL, "rejected": SYSTEM + ASK + LIE}, "differ|is not"),
    ],
)  # fmt: skip
def test_columns_that_contradict_each_other_are_named(row, words):
    with pytest.raises(DataError, match=rf"f, row 1.*{words}.*--columns \S+( \S+)*=other"):
        schemas.prompt(row, "f, row 1")


def test_unicode_forms_of_a_question_do_not_contradict_each_other():
    nfc, nfd = "caf\u00e9?", "cafe\u0301?"
    said = [{"role": "user", "content": nfc}, *TELL]
    assert demonstration({"prompt": nfd, "messages": said})["messages"] == said
    assert pairs.prompt_key(nfc) == pairs.prompt_key(nfd) == pairs.prompt_key(said[:1])
    assert pairs.prompt_key("cafe?") != pairs.prompt_key(nfc)
    same = {"prompt": "x", "chosen": nfc, "rejected": nfd}
    assert schemas.preference(same, "f")["drop"] == "with identical chosen and rejected"
    assert pairs.prompt_key("hello") == "df099f6a7ef2805d"  # stored rankings are found again: as it always was


def test_line_separators_and_marks_at_the_start_of_a_file_are_read(tmp_path):
    (tmp_path / "x.jsonl").write_bytes('\ufeff{"prompt": "a\u2028b", "completion": "c\u0085d"}\n'.encode())
    rows = load.load(DataArguments(dataset_name=str(tmp_path / "x.jsonl")), "train", seed=0)
    assert demonstration(rows[0])["prompt"] == "a\u2028b" and demonstration(rows[0])["completion"] == "c\u0085d"


# ------------------------------------------------------------------------------------------------ words and other things


@pytest.mark.parametrize(
    ("maker", "row", "words"),
    [
        ("sft", {"question": Q, "answer": 36}, "answer: expected text or messages, got int '36'"),
        ("sft", {"question": 7, "answer": "x"}, "question: expected text, got int '7'"),
        ("sft", {"instruction": True, "output": "x"}, "instruction: expected text, got bool"),
        ("sft", {"prompt": Q, "completion": True}, "completion: expected text or messages, got bool"),
        ("preference", {"prompt": Q, "chosen": None, "rejected": "x"}, "chosen: expected text or messages, got null"),
        ("preference", {"prompt": Q, "chosen": "y", "rejected": 1.5}, "rejected: expected text or messages, got float"),
        (
            "preference",
            {"prompt": Q, "chosen": "y", "rejected": "x", "margin": float("nan")},
            "margin: expected a number",
        ),
        ("prompt", {"prompt": 3}, "prompt: expected text, got int"),
        ("prompt", {"prompt": {"x": 1}}, r"prompt\[0\]: unknown role None"),
        ("prompt", {"prompt": "a\ud83d"}, r"prompt: holds half a character .'\\ud83d'"),
        (
            "prompt",
            {"messages": [{"role": "user", "content": None}]},
            r"messages\[0\].content: expected text, got null",
        ),
        (
            "prompt",
            {"conversations": [{"from": "human", "value": None}]},
            r"conversations\[0\].value: expected text, got null",
        ),
        (
            "prompt",
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            r"messages\[0\].content\[0\]: only parts of type text",
        ),
        (
            "prompt",
            {"messages": [{"role": "user", "content": "x", "images": ["y"]}]},
            r"messages\[0\].images: only text is learnt",
        ),
        ("prompt", {"question": Q, "history": "earlier"}, r"history\[0\]: expected \[what the user said"),
        ("prompt", {"prompt": Q, "origin": "reddit"}, "origin: this name is taken; .* --columns origin=other"),
        ("text", {"text": 1}, "text: expected text, got int"),
        ("text", {"text": None}, "text: expected text, got null"),
    ],
)
def test_what_is_no_text_is_named_by_row_and_field(maker, row, words):
    with pytest.raises(DataError, match=rf"^f, row 3\.{words}"):
        schemas.MAKERS[maker](row, "f, row 3", "auto")


def test_unlike_rows_of_one_file_are_each_read_by_their_own_form(tmp_path):
    rows = [{"messages": ASK + TELL}, {"prompt": "The sky is", "completion": " blue."}, {"question": Q, "answer": A}]
    for order in (rows, rows[::-1]):
        path = write_rows(tmp_path / "x.jsonl", order)
        loaded = load.load(DataArguments(dataset_name=str(path)), "train", seed=0)
        found = list(normal.normalise(loaded, "sft", "x", []))
        right = [{"messages": ASK + TELL}, {"prompt": "The sky is", "completion": " blue."}, {"messages": ASK + TELL}]
        assert [{k: v for k, v in row.items() if k not in ("drop", "origin")} for row in found] == (
            right if order is rows else right[::-1]
        )


def test_columns_that_some_rows_lack_come_late_or_early(tmp_path):
    base = {"prompt": "a", "chosen": "x", "rejected": "y"}
    full = {**base, "category": "maths", "margin": 1, "weight": 2.0}
    for order in ([base, full], [full, base]):
        path = write_rows(tmp_path / "x.jsonl", order)
        loaded = load.load(DataArguments(dataset_name=str(path)), "train", seed=0)
        found = list(normal.normalise(loaded, "preference", "x", []))
        assert [row.get("category") for row in found] == [row.get("category") for row in order]
        assert [row["margin"] for row in found] == [row.get("margin", 0.0) for row in order]
        assert [row["weight"] for row in found] == [row.get("weight", 1.0) for row in order]
    assert {"margin", "weight", "category"}.isdisjoint(schemas.preference(base, "f"))


# ----------------------------------------------------------------------------------------- tools, reasoning, switches


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima", "unit": null}'}}
PARSED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Lima", "unit": None}}}


@pytest.mark.parametrize("content", ["", None])
def test_calls_of_tools_are_carried_as_written(content, tmp_path):
    asks = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}},
    }
    other = {
        "type": "function",
        "function": {"name": "news", "parameters": {"properties": {"day": {"type": "number"}}}},
    }
    rows = [
        {"messages": [*ASK, asks, {"role": "tool", "tool_call_id": "c1", "content": "18"}, *TELL], "tools": [tool]},
        {"messages": ASK + TELL, "tools": [other]},
        {"messages": ASK + TELL, "tools": "[]"} if content else {"messages": ASK + TELL},
    ]
    loaded = load.load(DataArguments(dataset_name=str(write_rows(tmp_path / "x.jsonl", rows))), "train", seed=0)
    found = list(normal.normalise(loaded, "sft", "x", []))
    assert found[0]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [PARSED]}
    assert found[0]["messages"][2] == {"role": "tool", "content": "18", "tool_call_id": "c1"}
    assert [row.get("tools") for row in found] == [[tool], [other], None] and {row["drop"] for row in found} == {""}
    assert found[1]["messages"] == ASK + TELL  # no keys that it did not have


def test_sharegpt_calls_and_observations_are_turns():
    call = {"from": "function_call", "value": '{"name": "news", "arguments": {"day": 1}}'}
    row = {"conversations": [{"from": "human", "value": "News?"}, call, {"from": "observation", "value": "x"}, GPT],
           "tools": '[{"name": "news"}]'}  # fmt: skip
    made = demonstration(row)
    assert made["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "news", "arguments": {"day": 1}}}
    ]
    assert made["messages"][2] == {"role": "tool", "content": "x"} and made["tools"] == [{"name": "news"}]
    assert (
        schemas.prompt(row, "f")["prompt"] == made["messages"][:-1]
        and schemas.prompt(row, "f")["tools"] == made["tools"]
    )
    with pytest.raises(DataError, match=r"f, row 1.conversations\[0\].value.*: expected"):
        schemas.sft({"conversations": [{"from": "function_call", "value": "call news"}]}, "f, row 1")
    for source in ("human", "user"):
        for answer in ("gpt", "chatgpt", "bard", "bing", "assistant", "model"):
            said = [{"from": source, "value": Q}, {"from": answer, "value": A}]
            assert demonstration({"conversations": said})["messages"] == ASK + TELL


def test_the_older_form_of_a_call_is_one_too():
    said = [*ASK, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"}, *TELL]  # fmt: skip
    read = demonstration({"messages": said})["messages"]
    assert read[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    assert read[2] == {"role": "tool", "content": "1", "name": "f"}


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([{"function": {"name": "f", "arguments": "{city"}}], r"tool_calls\[0\].arguments: expected JSON"),
        ([{"function": {"arguments": "{}"}}], r"tool_calls\[0\]: expected a call of a tool"),
        ([3], r"tool_calls\[0\]: expected a call of a tool"),
        ([{"function": {"name": "f", "arguments": "[1]"}}], r"tool_calls\[0\].arguments: expected an object"),
    ],
)
def test_calls_that_cannot_be_carried_are_refused(calls, words):
    with pytest.raises(DataError, match=rf"f, row 1.messages\[1\].{words}"):
        schemas.sft({"messages": [*ASK, {"role": "assistant", "content": "", "tool_calls": calls}]}, "f, row 1")
    with pytest.raises(DataError, match="only the assistant calls tools"):
        schemas.sft({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "f, row 1")
    with pytest.raises(DataError, match="tools: expected"):
        schemas.sft({"messages": ASK + TELL, "tools": "not json"}, "f, row 1")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_carried_under_one_name(key):
    said = {"role": "assistant", "content": A, key: "Peru, so Lima."}
    right = {"role": "assistant", "content": A, "reasoning_content": "Peru, so Lima."}
    assert demonstration({"messages": [*ASK, said]})["messages"][-1] == right
    pair = schemas.preference({"prompt": ASK, "chosen": [said], "rejected": LIE}, "f")
    assert pair["chosen"] == [right] and pair["rejected"] == LIE and pair["drop"] == ""
    nothing = {**said, "content": None}
    assert demonstration({"messages": [*ASK, nothing]})["drop"] == ""  # it says its thoughts
    with pytest.raises(DataError, match="different reasoning"):
        demonstration({"messages": [*ASK, {**right, "reasoning": "x", "thinking": "y"}]})


@pytest.mark.parametrize("switch", ["weight", "train", "training", "learn", "loss"])
@pytest.mark.parametrize(("no", "yes"), [(0, 1), (False, True), (0.0, 1.0)])
def test_an_answer_that_is_not_to_be_learnt_says_so(switch, no, yes):
    said = [*BEFORE[:1], {**BEFORE[1], switch: no}, *ASK, {**TELL[0], switch: yes}]
    read = demonstration({"messages": said})
    assert read["messages"] == [BEFORE[0], {**BEFORE[1], "learn": False}, *ASK, {**TELL[0], "learn": True}]
    assert read["drop"] == "" and schemas.prompt({"messages": said}, "f")["prompt"] == BEFORE + ASK
    assert demonstration({"messages": [*ASK, {**TELL[0], switch: no}]})["drop"] == "without an answer to learn"
    with pytest.raises(DataError, match=rf"\[1\].{switch}: expected true or false"):
        demonstration({"messages": [*ASK, {**TELL[0], switch: 0.5}]})
    with pytest.raises(DataError, match="only the assistant's are"):
        demonstration({"messages": [{**ASK[0], switch: yes}, *TELL]})


# ---------------------------------------------------------------------------------------------------- what is dropped


@pytest.mark.parametrize(
    ("maker", "row", "reason"),
    [
        ("sft", {"messages": [*ASK, {"role": "assistant", "content": ""}]}, "with an empty answer"),
        ("sft", {"messages": [*ASK, {"role": "assistant", "content": " \n"}]}, "with an empty answer"),
        ("sft", {"messages": [*ASK, {"role": "assistant", "content": ""}, *ASK, *TELL]}, "with an empty answer"),
        ("sft", {"messages": [{"role": "user", "content": ""}, *TELL]}, "without a prompt"),
        ("sft", {"messages": SYSTEM + TELL}, "without a prompt"),
        ("sft", {"messages": ASK}, "without an answer to learn"),
        ("sft", {"messages": []}, "without a prompt"),
        ("sft", {"prompt": "x", "completion": " "}, "with an empty answer"),
        ("sft", {"prompt": "", "completion": "x"}, "without a prompt"),
        ("sft", {"question": Q, "answer": ""}, "with an empty answer"),
        ("preference", {"prompt": ASK, "chosen": [{"role": "assistant", "content": ""}], "rejected": LIE}, "with an empty answer"),
        ("preference", {"prompt": "x", "chosen": "y", "rejected": ""}, "with an empty answer"),
        ("preference", {"prompt": ASK, "chosen": TELL, "rejected": []}, "with an empty answer"),
        ("preference", {"chosen": ASK + TELL, "rejected": ASK}, "with an empty answer"),
        ("preference", {"prompt": "", "chosen": "y", "rejected": "z"}, "without a prompt"),
        ("preference", {"prompt": [], "chosen": TELL, "rejected": LIE}, "without a prompt"),
        ("preference", {"prompt": SYSTEM, "chosen": TELL, "rejected": LIE}, "without a prompt"),
        ("preference", {"prompt": ASK, "chosen": TELL, "rejected": TELL}, "with identical chosen and rejected"),
        ("preference", {"chosen": SYSTEM + ASK + TELL, "rejected": ASK + LIE}, "where chosen and rejected differ before the last turn"),
        ("preference", {"prompt": Q, "chosen": SYSTEM + ASK + TELL, "rejected": [{"role": "system", "content": "x"}, *ASK, *LIE]},
         "where chosen and rejected differ before the last turn"),
        ("preference", {"chosen": ASK + TELL + ASK + TELL, "rejected": ASK + LIE + ASK + LIE},
         "where chosen and rejected differ before the last turn"),
        ("preference", {"prompt": BEFORE, "chosen": TELL, "rejected": LIE}, "whose prompt ends with the assistant's turn"),
        ("prompt", {"prompt": " "}, "without a prompt"),
        ("prompt", {"messages": SYSTEM}, "without a prompt"),
        ("prompt", {"messages": SYSTEM + TELL}, "without a prompt"),
        ("prompt", {"question": ""}, "without a prompt"),
    ],
)  # fmt: skip
def test_rows_without_use_are_dropped_with_a_reason(maker, row, reason):
    assert schemas.MAKERS[maker](row, "f, row 1", "auto")["drop"] == reason


def test_a_conversation_that_begins_with_a_greeting_learns_what_follows_the_question():
    hello = {"from": "gpt", "value": "Hello."}
    read = demonstration({"conversations": [hello, SHAREGPT, GPT]})
    assert read["messages"] == [{"role": "assistant", "content": "Hello.", "learn": False}, *ASK, *TELL]
    assert read["drop"] == ""
    assert demonstration({"conversations": [hello]})["drop"] == "without a prompt"


def test_answers_of_several_turns_are_learnt_at_the_last():
    """Both sides call a tool in the same way and then say something else: that is what is compared."""
    step = [{"role": "assistant", "content": "", "tool_calls": [PARSED]}, {"role": "tool", "content": "18"}]
    pair = schemas.preference({"prompt": ASK, "chosen": step + TELL, "rejected": step + LIE}, "f")
    assert pair["prompt"] == ASK + step and (pair["chosen"], pair["rejected"], pair["drop"]) == (TELL, LIE, "")


# ------------------------------------------------------------------------------------------------- what is not read


def test_columns_that_are_not_read_are_named_once():
    rows = [
        {"id": "a", "prompt": Q, "messages": [{**ASK[0], "stamp": 1}, *TELL], "question": Q, "topic": None, "note": ""},
        {"id": "b", "prompt": Q, "messages": ASK + TELL, "question": "Else?", "topic": "x", "note": ""},
    ]  # fmt: skip
    made = normal.normalise(rows, "sft", "f", [])
    found = list(made)
    assert found[0]["origin"] == {"messages": "messages", "prompt": ["prompt", "question"]}
    assert made.names == ["id", "messages[].stamp", "question", "topic"]
    assert list(made) == found and made.names == ["id", "messages[].stamp", "question", "topic"]


THIRD = {"role": "assistant", "content": "Lima, of course."}


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"messages": [*ASK, THIRD], "chosen": A, "rejected": B}, True),
        ({"messages": [*ASK, THIRD], "chosen": TELL, "rejected": LIE}, True),
        ({"messages": [*ASK, *TELL, *BEFORE], "chosen": ASK + TELL, "rejected": ASK + LIE}, True),
        ({"messages": [*ASK, *TELL], "chosen": A, "rejected": B}, False),
        ({"messages": [*BEFORE, *ASK], "chosen": A, "rejected": B}, False),
    ],
)
def test_a_pair_says_which_answer_of_its_conversation_it_does_not_read(row, unread):
    """What is compared is chosen and rejected; a further answer is left out, and named."""
    made = schemas.preference(row, "f")
    assert (made["prompt"][-1:], made["chosen"], made["rejected"], made["drop"]) == (ASK, TELL, LIE, "")
    names = ["messages[] (an answer beside chosen and rejected)"] if unread else []
    assert made["origin"].get("unread", []) == names


@pytest.mark.parametrize("schema", ["sft", "preference", "prompt"])
@pytest.mark.parametrize("rank", [None, 0])
def test_messages_of_trees_are_told_what_they_are(schema, rank):
    row = {"message_id": "b", "parent_id": "a", "text": A, "role": "assistant", "lang": "en", "rank": rank}
    wanted = "the lower rank" if schema == "preference" else "the path as messages"
    with pytest.raises(DataError, match=f"single messages of trees.*parent_id says which.*{wanted}"):
        schemas.MAKERS[schema](row, "f, row 1", "auto")
    assert schemas.text_row(row, "f")["text"] == A


def test_ranking_rows_as_prompts_lose_the_completions_and_what_was_said_of_them():
    row = {"prompt": Q, "completions": [A, B], "ranking": [1, 2], "annotator": "ann", "kind": "person", "time": "now",
           "verdict": "ranked", "repeat": False, "item": "1", "stopped": [True, True], "lengths": [3, 3],
           "category": "maths", "answer": "Lima"}  # fmt: skip
    made = schemas.prompt(row, "f")
    assert {k: v for k, v in made.items() if k not in ("drop", "origin")} == {
        "prompt": Q, "category": "maths", "answer": "Lima",
    }  # fmt: skip
    assert schemas.prompt({"prompt": Q, "kind": "sum", "time": "now"}, "f")["kind"] == "sum"  # nobody's ranking


def test_rankings_keep_their_system_prompt_and_their_tools():
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = {"system": S, "question": Q, "completions": [A, B], "ranking": [2, 1], "tools": tools, "note": "x"}
    made = normal.normalise([row], "preference", "f", [])
    (pair,) = made
    assert (pair["prompt"], pair["chosen"], pair["rejected"], pair["tools"]) == (SYSTEM + ASK, LIE, TELL, tools)
    assert made.names == ["note"]
    with pytest.raises(DataError, match=r"f, row 1.completions\[1\]: expected text or messages, got null"):
        normal.normalise([{**row, "completions": [A, None]}], "preference", "f", [])


# ---------------------------------------------------------------------------------------------- messages as plain text


def test_messages_with_calls_and_reasoning_have_their_texts():
    call = {"role": "assistant", "content": "", "tool_calls": [PARSED]}
    thought = {**TELL[0], "reasoning_content": "Peru."}
    assert text.said(call) == 'weather({"city": "Lima", "unit": null})'
    assert text.contents([*ASK, call]) == f"{Q}\n" + 'weather({"city": "Lima", "unit": null})'
    assert "Assistant: weather(" in text.transcript([*ASK, call]) and "assistant: weather(" in text.readable(
        [*ASK, call]
    )
    assert text.contents([thought]) == A  # what it thought is nobody else's
    assert text.completion(TELL) == A != text.completion([thought]) and text.completion([call]) != ""
    assert text.canonical([{"role": "assistant", "content": None}]) == [["assistant", ""]]
    assert pairs.prompt_key([*ASK, call]) != pairs.prompt_key([*ASK, {"role": "assistant", "content": ""}])
    again = {**call, "tool_calls": [{**PARSED, "id": "c2"}]}
    assert pairs.prompt_key([*ASK, call]) == pairs.prompt_key([*ASK, again])  # ids of calls are chance
    assert pairs.prompt_key([{**ASK[0], "learn": False}]) == pairs.prompt_key(ASK)


def test_every_column_that_a_prompt_may_be_made_of_is_known_to_the_leak_check():
    assert {"system_prompt", "context", "history", "query"} <= set(asked.COLUMNS)
    assert turns.is_transcript("\n\nHuman: x") and not turns.is_transcript("Human: x")


def test_labelers_are_asked_what_a_model_is_asked_and_keep_what_it_thought(tmp_path):
    from align.label.store.items import item
    from align.label.store.rows import _rankable

    thought = {**TELL[0], "reasoning_content": "Peru."}
    row = {"system": S, "prompt": Q, "completions": [[thought], LIE], "note": None}
    stored = item(_rankable(row, "row 1", {}), "row 1", "train")
    assert json.loads(stored.prompt) == SYSTEM + ASK and json.loads(stored.completions) == [[thought], LIE]
    bare = item({"prompt": SYSTEM + ASK, "completions": [TELL, LIE]}, "row 1", "train")
    assert stored.id == bare.id  # one item, whatever was thought


def test_both_arms_of_a_comparison_read_strings_as_the_command_says(tmp_path):
    from align.compare import arms
    from align.compare.config import CompareConfig

    config = tmp_path / "own.yaml"
    config.write_text("{}")
    args = CompareConfig(
        output_dir=str(tmp_path / "out"), model_name_or_path="m", reward_model_path="r", rankings="k",
        ppo_config=str(config), dpo_config=str(config),
    )  # fmt: skip
    for how in ("auto", "chat"):
        prompts = DataArguments(dataset_name="p", prompt_format=how)
        for name in ("ppo", "dpo"):
            group = dict(name=name, recipe=name, config=str(config), over={})
            made = arms._planned(args, prompts, tmp_path / f"{name}.py", group, 0.1, 0)
            assert made.config.get("prompt_format", "auto") == how, name


# ------------------------------------------------------------------------------------------------------- any row at all

WORD = st.sampled_from(["", " ", "why", "so", "no", "\n\nHuman: why\n\nAssistant: so", "[]", "{}", "\ud83d"])
ODD = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.floats(), WORD)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.one_of(st.sampled_from(["user", "assistant", "system", "tool", "developer"]), ODD),
        "from": st.one_of(st.sampled_from(["human", "gpt", "function_call", "observation"]), ODD),
        "content": st.one_of(WORD, ODD, st.lists(st.one_of(WORD, st.just({"type": "text", "text": "x"})), max_size=2)),
        "value": ODD, "weight": ODD, "reasoning": ODD,
        "tool_calls": st.one_of(ODD, st.lists(st.one_of(ODD, st.just({"name": "f"})), max_size=2)),
    },
)  # fmt: skip
SAID = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": WORD})
VALUE = st.one_of(WORD, ODD, st.lists(SAID, max_size=3), st.lists(TURN, max_size=3), TURN, st.lists(WORD, max_size=2),
                  st.just([["why", "so"]]))  # fmt: skip
ANY = st.dictionaries(st.sampled_from([*asked.COLUMNS, *asked.ANSWERS, "ranking", "margin", "drop"]), VALUE, max_size=5)


@settings(max_examples=400, deadline=None)
@given(ANY, st.sampled_from(["auto", "chat", "text"]))
def test_any_row_is_read_or_refused_in_a_sentence_and_asks_the_same_everywhere(row, how):
    made = {}
    for schema in ("sft", "preference", "prompt"):
        try:
            made[schema] = schemas.MAKERS[schema](row, "f, row 1", how)
        except DataError as error:
            assert str(error).startswith("f, row 1")
        else:
            names = ["prompt"] if schema == "prompt" else ["messages", "prompt", "completion", "chosen", "rejected"]
            parts = [made[schema].get(name) for name in names]
            json.dumps(parts, ensure_ascii=False).encode()
            assert set(made[schema]) >= {"drop", "origin"}
    if "preference" in made and "prompt" in made and not made["preference"]["drop"]:
        assert made["preference"]["prompt"] == made["prompt"]["prompt"]
    if "sft" in made and "prompt" in made and not made["sft"]["drop"] and not {*asked.PAIR} & {*row}:
        told = made["sft"]
        begun = told["prompt"] if "prompt" in told else turns.without_switches(told["messages"])
        assert begun[: len(made["prompt"]["prompt"])] == made["prompt"]["prompt"]


# ------------------------------------------------------------------------------------------- columns that decide or matter


@pytest.mark.parametrize(
    "deciding",
    ["labels", "winner", "choice", "overall_preference", "better_response_id", "safer_response_id", "score_0"],
)
def test_sides_named_by_hand_are_refused_beside_a_column_that_says_which_is_better(deciding, tmp_path):
    rows = [{"prompt": Q, "response_0": A, "response_1": B, deciding: number} for number in (0, 1)]
    mapping = ["response_0=chosen", "response_1=rejected"]
    path = str(write_rows(tmp_path / "x.jsonl", rows))
    loaded = load.load(DataArguments(dataset_name=path), "train", seed=0)
    with pytest.raises(
        DataError, match=rf"^--columns response_0=chosen .*: {deciding} may say .* add {deciding}=other$"
    ):
        normal.normalise(loaded, "preference", "f", mapping)
    parts = [{"path": path, "columns": mapping}]
    with pytest.raises(DataError, match=f"{deciding} may say"):
        load.load(DataArguments(datasets=parts), "train", seed=0)
    pair = normal.normalise(loaded, "preference", "f", [*mapping, f"{deciding}=other"])[0]
    assert (pair["chosen"], pair["rejected"]) == (A, B)
    with pytest.raises(schemas.NoForm, match=f"better one may stand in {deciding}: write rows"):
        schemas.preference(rows[0], "f, row 1")


def test_sides_that_the_file_names_itself_need_no_other_word():
    row = {"prompt": Q, "chosen": A, "rejected": B, "label": 1}
    assert schemas.preference(row, "f")["chosen"] == A


@pytest.mark.parametrize(
    ("row", "drop", "unread"),
    [
        ({"prompt": Q, "completion": A, "label": True}, "", []),
        ({"prompt": Q, "completion": A, "label": False}, "whose label calls the answer bad", []),
        ({"prompt": ASK, "completion": TELL, "label": False}, "whose label calls the answer bad", []),
        ({"prompt": Q, "completion": A, "label": 0}, "", ["label"]),
        ({"prompt": Q, "completion": A, "label": "geography"}, "", ["label"]),
        ({"question": Q, "answer": A, "label": False}, "", ["label"]),
    ],
)
def test_a_label_says_whether_the_completion_is_good(row, drop, unread):
    made = demonstration(row)
    assert made["drop"] == drop and made["origin"].get("unread", []) == unread == made["origin"].get("matter", [])


THOUGHT = [{**TELL[0], "reasoning_content": "Peru, so Lima."}]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize(
    "row",
    [
        {"question": Q, "answer": A},
        {"messages": ASK + TELL},
        {"messages": ASK, "answer": A},
        {"conversations": [SHAREGPT, GPT]},
        {"system": "", "prompt": Q, "completion": A},
        {"messages": ASK + THOUGHT},
    ],
)
def test_reasoning_in_a_column_of_its_own_is_that_of_the_answer(name, row):
    made = demonstration({**row, name: "Peru, so Lima."})
    assert made["messages"] == ASK + THOUGHT and made["origin"]["reasoning"] == name and "unread" not in made["origin"]


@pytest.mark.parametrize("switch", ["on", "off", "High ", True, 1])
def test_a_switch_is_no_reasoning(switch):
    made = demonstration({"question": Q, "answer": A, "reasoning": switch})
    assert made["messages"] == ASK + TELL and made["origin"]["matter"] == ["reasoning"]


def test_reasoning_that_the_answer_has_already_or_that_plain_text_cannot_hold_is_named():
    own = [{"role": "assistant", "content": "<think>Hm.</think>It is Lima."}]
    for row in ({"messages": ASK + own}, {"messages": ASK + THOUGHT}, {"prompt": Q, "completion": A}):
        made = demonstration({**row, "reasoning": "Other words."})
        assert made.get("messages", ASK + THOUGHT) in (ASK + own, ASK + THOUGHT)
        assert made["origin"]["matter"] == ["reasoning"]


def test_an_answer_beside_messages_is_their_missing_last_turn():
    made = demonstration({"messages": BEFORE + ASK, "answer": A})
    assert made["messages"] == BEFORE + ASK + TELL and made["drop"] == ""
    made = demonstration({"messages": ASK + TELL, "answer": "Lima"})
    assert made["messages"] == ASK + TELL and made["origin"]["unread"] == ["answer"]
    assert demonstration({"messages": ASK, "answer": 6})["drop"] == "without an answer to learn"


@pytest.mark.parametrize("empty", [{"system": ""}, {"system_prompt": None}, {"history": []}, {"tools": "[]"}])
def test_a_column_that_makes_turns_makes_them_where_it_is_empty_too(empty, tmp_path):
    """Of one file, rows with a system prompt would be chat and those without plain text."""
    full = {"system": S, "system_prompt": S, "history": [["Hi.", "Hello."]], "tools": [{"name": "f"}]}
    rows = [{"prompt": Q, "chosen": A, "rejected": B, **{name: full[name]}} for name in empty]
    rows += [{"prompt": Q, "chosen": A, "rejected": B, **empty}]
    loaded = load.load(DataArguments(dataset_name=str(write_rows(tmp_path / "x.jsonl", rows))), "train", seed=0)
    found = list(normal.normalise(loaded, "preference", "x", []))
    assert found[0]["prompt"][-1:] == found[1]["prompt"] == ASK and found[1]["chosen"] == found[0]["chosen"] == TELL


@pytest.mark.parametrize("sides", [{"chosen": A, "rejected": B}, {"chosen": TELL, "rejected": LIE}])
def test_turns_in_a_column_that_is_not_read_are_not_passed_over_for_a_prompt(sides):
    row = {"trajectory": [SHAREGPT], **sides}
    with pytest.raises(DataError, match="f, row 1: .*trajectory holds turns .*--columns trajectory=messages"):
        schemas.preference(row, "f, row 1")
    mapped = schemas.preference({"messages": [SHAREGPT], **sides}, "f, row 1")
    assert (mapped["prompt"], mapped["chosen"], mapped["rejected"]) == (ASK, TELL, LIE)
    assert schemas.preference({"other": [SHAREGPT], "chosen": A, "rejected": B}, "f")["prompt"] == "It is"


def test_what_may_matter_stands_apart():
    row = {"messages": [{**ASK[0], "functions": "[]x"}, *TELL], "id": 1, "winner": 2, "past": ASK + TELL, "other": ASK}
    made = demonstration(row)
    assert made["origin"]["matter"] == ["messages[].functions", "past", "winner"]
    lines = beside.not_read(made["origin"]["unread"], made["origin"]["matter"])
    assert lines == ["look: not read, and often part of what is learnt: messages[].functions, past, winner",
                     "not read: id, other"]  # fmt: skip
    assert beside.not_read(["id"], []) == ["not read: id"] and beside.not_read([], []) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"query": Q, "answers": "[]"},
            r"\(the question is in query, and no column holds its answer\).*Map yours with",
        ),
        ({"output": A, "post": Q}, r"\(an answer is in output, and no column holds its question\).*Map yours with"),
        ({"text": f"### Human: {Q}### Assistant: {A}"}, "text is a conversation with marks of its own"),
        ({"trajectory": ASK + TELL}, "--columns trajectory=messages reads the turns"),
        (
            {"info": {"post": Q}, "summaries": [{"text": A}]},
            "info, summaries has to be written into columns of its own",
        ),
    ],
)
def test_what_fits_no_form_is_told_what_was_found_and_a_way_that_helps(row, words):
    with pytest.raises(schemas.NoForm, match=words):
        demonstration(row)


def test_a_question_that_is_no_text_names_the_way_on():
    with pytest.raises(DataError, match="row 1.input: expected text, got list .*--columns input=messages reads turns"):
        demonstration({"input": ASK, "output": A})
    with pytest.raises(DataError, match="row 1.question: expected text, got dict .*write its words into a column"):
        demonstration({"question": {"full_text": Q}, "answer": A})


@pytest.mark.parametrize(
    ("asks", "tells"), [("User", "Assistant"), ("Human", "AI"), ("USER", "Chatbot"), ("human", "GPT")]
)
def test_names_of_roles_may_be_written_in_any_case(asks, tells):
    said = [{"role": asks, "content": Q}, {"role": tells, "content": A}]
    assert demonstration({"messages": said})["messages"] == ASK + TELL


def test_messages_may_be_json_in_a_text():
    assert demonstration({"messages": json.dumps(ASK + TELL)})["messages"] == ASK + TELL
    with pytest.raises(DataError, match=r"row 1.messages: expected JSON, got '\[oh"):
        demonstration({"messages": "[oh"})


# ---------------------------------------------------------------------------------- what goes with a question, or against it


@pytest.mark.parametrize("name", ["question", "query", "instruction", "user", "input"])
def test_the_context_of_a_question_is_asked_with_it(name):
    """Questions about a table or a passage (sql-create-context, SQuAD) cannot be answered without it."""
    row, asks = (
        {name: "How many?", "context": "CREATE TABLE a"},
        {"role": "user", "content": "How many?\n\nCREATE TABLE a"},
    )
    made = demonstration({**row, "answer": A})
    assert made["messages"] == [asks, *TELL] and "unread" not in made["origin"]
    assert schemas.prompt(row, "f")["prompt"] == [asks]
    assert schemas.preference({**row, "chosen": A, "rejected": B}, "f")["prompt"] == [asks]
    for nothing in ("", None, []):
        assert demonstration({**row, "context": nothing, "answer": A})["messages"] == [
            {**asks, "content": "How many?"},
            *TELL,
        ]
    with pytest.raises(
        DataError, match="row 1.context: expected text that goes with .*, got dict .*--columns context=other"
    ):
        schemas.prompt({**row, "context": {"contexts": ["a"]}}, "f, row 1")


RENDERED = f"### Instruction:\n{Q}\n### Output:\n{A}"


@pytest.mark.parametrize("name", ["instruction", "question", "query"])
@pytest.mark.parametrize("answer", ["output", "answer", "response"])
def test_a_prompt_beside_the_question_that_was_answered_is_not_taken_for_it(name, answer):
    """It may hold the answer, as in python_code_instructions_18k_alpaca: to be copied is all that would be learnt."""
    with pytest.raises(DataError, match=rf"row 1: prompt .* is not what is asked in {name} .*--columns prompt=other"):
        schemas.sft({"prompt": RENDERED, name: Q, answer: A}, "f, row 1")
    made = schemas.sft({"other": RENDERED, name: Q, answer: A}, "f")
    assert made["messages"] == ASK + TELL
    same = demonstration({"prompt": Q, name: f"{Q} ", answer: A})
    assert (same["prompt"], same["completion"]) == (Q, A) and same["origin"]["prompt"] == ["prompt", name]
    assert demonstration({"prompt": RENDERED, name: Q, "completion": B})["completion"] == B  # of the prompt, as in TRL
    assert demonstration({"prompt": ASK, name: "Else?", answer: A})["messages"] == ASK + TELL


def test_an_input_beside_a_prompt_is_read_with_it_or_not_meant():
    row = {"prompt": "Name the capital.", "input": "Peru", "output": A}
    with pytest.raises(DataError, match="row 1: prompt and input both hold words; --columns prompt=instruction"):
        schemas.sft(row, "f, row 1")
    assert demonstration({"instruction": row["prompt"], "input": "Peru", "output": A})["messages"] == [
        {"role": "user", "content": "Name the capital.\n\nPeru"}, *TELL,
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["completion", "response", "output"])
def test_the_blank_after_a_transcripts_prompt_is_no_part_of_any_answer(answer):
    """Else SFT would learn " It is Lima." where DPO and the reward model, of the same set, learn "It is Lima."."""
    row = {"prompt": f"\n\nHuman: {Q}\n\nAssistant:"}
    assert demonstration({**row, answer: f" {A}"})["messages"] == ASK + TELL
    assert schemas.preference({**row, "chosen": f" {A}", "rejected": f" {B}"}, "f")["chosen"] == TELL


@pytest.mark.parametrize("name", ["completion", "answer", "output"])
def test_messages_may_stand_as_json_in_any_column_that_takes_them(name):
    row = {"prompt": json.dumps(SYSTEM + ASK)}
    assert demonstration({**row, name: json.dumps(TELL)})["messages"] == SYSTEM + ASK + TELL
    pair = schemas.preference({**row, "chosen": json.dumps(TELL), "rejected": json.dumps(LIE)}, "f")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (SYSTEM + ASK, TELL, LIE)
    assert schemas.prompt(row, "f")["prompt"] == SYSTEM + ASK
    for words in ('[{"role": "admin", "content": "x"}]', '[{"name": "f"}]', "[1] and [2]"):  # an answer that is JSON
        assert demonstration({"question": Q, name: words})["messages"][-1]["content"] == words
    with pytest.raises(DataError, match=r"row 1.prompt: begins like messages and is no JSON .*; write them as JSON"):
        schemas.prompt({"prompt": str(ASK)}, "f, row 1")


@pytest.mark.parametrize("name", ["solution", "response", "instruction", "context", "is_safe", "rationale", "prefix"])
def test_other_questions_and_answers_that_are_not_read_stand_apart_unless_they_say_the_same(name):
    made = demonstration({"messages": ASK + TELL, name: "Other words."})
    assert made["origin"]["matter"] == [name]
    if name in ("solution", "response"):
        again = demonstration({"messages": ASK + TELL, name: f"{A}\n"})
        assert again["origin"]["unread"] == [name] and again["origin"]["matter"] == []


def test_a_list_of_texts_is_told_why_it_is_no_conversation():
    with pytest.raises(DataError, match=r"row 1.prompt\[0\]: expected .*, got str 'Hi'; of a list of texts nobody"):
        schemas.prompt({"prompt": ["Hi", "Why?"]}, "f, row 1")
