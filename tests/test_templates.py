"""The chat templates that open checkpoints bring: what a row says is learnt as generation sees it, or refused by name.

The texts that are expected are read off the families' own documentation of their formats, and written out here.
"""

from __future__ import annotations

import datetime
import json
import re
from importlib.resources import files

import pytest
from conftest import make_tokenizer

from align.data import chat

TRL = files("trl") / "chat_templates"
MARKS = re.compile(
    r"<\|[^|<>\s'\"]+\|>|<｜[^<>\s'\"]+｜>|<\|[a-z]+>|<[a-z]+\|>|\[gMASK\]|<sop>|<(?:start|end)_of_turn>"
)
ENDS = {  # the token that ends a turn, where it is not the first of these that the template has
    "cohere": "<|END_OF_TURN_TOKEN|>", "cohere2": "<|END_OF_TURN_TOKEN|>", "glm4moe": "<|user|>", "phi3": "<|end|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>", "deepseekv3": "<｜end▁of▁sentence｜>", "gptoss": "<|return|>",
    "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "gemma4": "<turn|>", "muse_glimmer": "<|eot|>",
    "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "llama3_2": "<|eot_id|>", "lfm2": "<|im_end|>",
    "phi3_5": "<|end|>", "lfm2_2_5": "<|im_end|>", "nemotron_3_nano": "<|im_end|>", "nemotron_3_super": "<|im_end|>",
    "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "qwen3_5_nothink": "<|im_end|>", "qwen3_5_think": "<|im_end|>",
    "qwen3_6": "<|im_end|>", "qwen3_8": "<|im_end|>", "qwen3_instruct_2507": "<|im_end|>",
}  # fmt: skip
CALLS = ["glm4moe", "gptoss", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_5_think", "qwen3_6", "qwen3_8",
         "qwen3_instruct_2507", "gemma4", "nemotron_3_nano", "muse_glimmer", "lfm2_2_5"]  # fmt: skip

# DeepSeek R1's, shortened: finished answers lose their thoughts; the newer one opens them in the prompt
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{% set c = m['content'] %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + c + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>OPEN' }}{% endif %}"
)


def user(words: str) -> dict:
    return {"role": "user", "content": words}


def told(words: str, **more) -> dict:
    return {"role": "assistant", "content": words, **more}


ASK, TELL = user("what is a cat"), told("a dog sits on the mat")
TWO = [ASK, TELL, user("who sings"), told("the bird")]
ARGUMENTS = {"where": 'the "big" tree', "deep": {"n": 3}}
CALL = told(
    "", tool_calls=[{"id": "call00001", "type": "function", "function": {"name": "find", "arguments": ARGUMENTS}}]
)
TOOLS = [{"type": "function", "function": {
    "name": "find", "description": "finds things",
    "parameters": {"type": "object", "properties": {"where": {"type": "string", "description": "a place"}}},
}}]  # fmt: skip
ASKED_TOOL = [user("where is it"), CALL, {"role": "tool", "content": "on it", "name": "find", "tool_call_id": "call00001"},
              told("it is on the mat")]  # fmt: skip


def bare(text: str | None, special: list[str] = (), eos: str | None = None):
    """A tokenizer with a family's template and its special tokens, as the checkpoint has them."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = text
    tokenizer.eos_token = eos or tokenizer.eos_token
    return tokenizer


def family(name: str):
    text = (TRL / f"{name}.jinja").read_text()
    tokenizer = bare(text, sorted(set(MARKS.findall(text))))
    if "bos_token" not in text:
        tokenizer.bos_token = None
    chat.set_up_tokenizer(tokenizer)
    return tokenizer


def learnt(tokenizer, encoded: chat.Encoded) -> str:
    return tokenizer.decode([i for i, keep in zip(encoded.input_ids, encoded.learnt, strict=True) if keep])


# ------------------------------------------------------------------------------------------------------------- turns


@pytest.mark.parametrize("name", ENDS)
def test_every_learnt_turn_stands_after_the_tokens_that_generation_sees(name):
    """Each turn of a conversation is learnt once, after the prompt's own tokens, with the turn's end."""
    tokenizer = family(name)
    assert tokenizer.eos_token == ENDS[name]
    assert tokenizer.pad_token_id not in chat.stop_ids(tokenizer)
    made = chat.encode_messages(tokenizer, TWO)
    found = []
    for encoded in made:
        ids, edges = encoded.input_ids, [0, *map(int, encoded.learnt), 0]
        begins = [at for at in range(len(ids)) if edges[at + 1] and not edges[at]]
        ends = [at for at in range(1, len(ids) + 1) if edges[at] and not edges[at + 1]]
        found += [(ids[:begin], ids[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    expected = [chat.encode_pair(tokenizer, TWO[:turn], [TWO[turn]]) for turn in (1, 3)]
    assert sorted(found) == sorted(expected)
    for turn, (prompt, answer) in zip((1, 3), expected, strict=True):
        assert prompt == chat.encode_prompt(tokenizer, TWO[:turn])
        assert answer[-1] == tokenizer.eos_token_id and answer.count(tokenizer.eos_token_id) == 1
        assert TWO[turn]["content"] in tokenizer.decode(answer)


def test_qwen3s_earlier_turns_are_learnt_as_they_were_asked_for():
    """The template writes an empty thought before the last answer only, so an earlier one is an example of its own."""
    tokenizer = family("qwen3")
    made = chat.encode_messages(tokenizer, TWO)
    assert [learnt(tokenizer, one) for one in made] == [
        "<think>\n\n</think>\n\na dog sits on the mat<|im_end|>", "<think>\n\n</think>\n\nthe bird<|im_end|>"
    ]  # fmt: skip
    assert "assistant\na dog sits on the mat<|im_end|>" in tokenizer.decode(made[1].input_ids)  # context, as asked
    assert len(chat.encode_messages(family("qwen2_5"), TWO)) == 1


def test_a_turn_that_is_context_only_is_not_learnt():
    tokenizer = family("qwen2_5")
    (made,) = chat.encode_messages(tokenizer, [ASK, {**TELL, "learn": False}, *TWO[2:]])
    assert learnt(tokenizer, made) == "the bird<|im_end|>"
    with pytest.raises(chat.TemplateError, match="no assistant turn"):
        chat.encode_messages(tokenizer, [ASK, {**TELL, "learn": False}])


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "deepseek_r1_distill", "glm4moe"])
def test_an_empty_answer_is_never_learnt_and_can_be_scored(name):
    tokenizer = family(name)
    for said in ("", " \n"):
        with pytest.raises(chat.TemplateError, match="turn is empty"):
            chat.encode_messages(tokenizer, [ASK, told(said)])
        with pytest.raises(chat.TemplateError, match="turn is empty"):
            chat.encode_pair(tokenizer, "what is", said)
        assert chat.encode_pair(tokenizer, [ASK], [told(said)], read=True)[1][-1] == tokenizer.eos_token_id
    with pytest.raises(chat.TemplateError, match="reasoning without an answer"):
        chat.encode_messages(tokenizer, [ASK, told("", reasoning_content="a cat")])


def test_the_whole_answer_is_compared_with_what_the_template_kept():
    """Words lost at the beginning of a long answer are seen, not only its last ones."""
    short = "{% for m in messages %}{{ m['role'] + ' ' + m['content'][-30:] + eos_token }}{% endfor %}"
    tokenizer = bare(short + "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}")
    chat.set_up_tokenizer(tokenizer)
    assert chat.encode_messages(tokenizer, [ASK, TELL])
    with pytest.raises(chat.TemplateError, match="leaves out words of the assistant's message"):
        chat.encode_messages(tokenizer, [ASK, told("the cat sits on the mat in the house and sings")])
    with pytest.raises(chat.TemplateError, match="leaves out words of the user's message"):
        chat.encode_prompt(tokenizer, [user("what is the cat that sits on the mat in the house")])


def test_an_answer_that_holds_the_stop_token_is_refused():
    with pytest.raises(chat.TemplateError, match="hold the token that ends an answer"):
        chat.encode_messages(family("qwen3"), [ASK, told("a cat <|im_end|> and a dog")])


def test_a_system_message_is_kept_or_refused():
    for name in set(ENDS) - {"gemma"}:
        tokenizer = family(name)
        text = tokenizer.decode(chat.encode_prompt(tokenizer, [{"role": "system", "content": "help please"}, ASK]))
        assert "help please" in text, name
    with pytest.raises(chat.TemplateError, match="System role not supported"):
        chat.encode_prompt(family("gemma"), [{"role": "system", "content": "help please"}, ASK])
    tokenizer = bare(R1, ["<|User|>", "<|Assistant|>"])
    chat.set_up_tokenizer(tokenizer)
    with pytest.raises(chat.TemplateError, match="leaves out words of the system's message"):
        chat.encode_prompt(tokenizer, [{"role": "system", "content": "help please"}, ASK])


def test_the_answer_is_tokenised_apart_where_it_would_change_the_prompts_tokens(tokenizer):
    """`…on the m` + `at`: together they would be other tokens than the prompt's own, which generation has seen."""
    prompt, answer = chat.encode_pair(tokenizer, "on the m", "at")
    assert prompt == chat.encode_prompt(tokenizer, "on the m")
    assert tokenizer.decode(prompt + answer, skip_special_tokens=True) == "on the mat"


# ------------------------------------------------------------------------------------------------- tools, reasoning


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("as_text", [False, True], ids=["mapping", "json"])
def test_calls_and_tools_are_in_the_text(name, as_text):
    """The name, every argument and the tools' descriptions; arguments as JSON are the same as a mapping."""
    tokenizer = family(name)
    messages = json.loads(json.dumps(ASKED_TOOL))
    if as_text:
        messages[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(ARGUMENTS)
    made = chat.encode_messages(tokenizer, messages, tools=TOOLS)
    said = "".join(learnt(tokenizer, one) for one in made)
    assert "find" in said and "where" in said and "3" in said and "it is on the mat" in said
    assert 'the "big" tree' in said or r"the \"big\" tree" in said
    assert "finds things" in tokenizer.decode(made[0].input_ids) and "finds things" not in said


@pytest.mark.parametrize("name", ["gemma", "llama3", "phi3", "cohere2", "deepseek_r1_distill"])
def test_a_template_without_tools_says_so(name):
    tokenizer = family(name)
    with pytest.raises(chat.TemplateError, match="does not write tool calls"):
        chat.encode_messages(tokenizer, ASKED_TOOL)
    with pytest.raises(chat.TemplateError, match="does not write the row's tools"):
        chat.encode_prompt(tokenizer, [ASK], tools=TOOLS)


def test_a_call_ends_with_the_familys_own_token():
    """gpt-oss ends a call with <|call|>, GLM with the next turn's <|observation|>: both are stops of generation."""
    for name, end in (("gptoss", "<|call|>"), ("glm4moe", "<|observation|>"), ("qwen3", "<|im_end|>")):
        tokenizer = family(name)
        stops = tokenizer.convert_ids_to_tokens(chat.stop_ids(tokenizer))
        assert stops == list(dict.fromkeys([ENDS[name], end]))
        _, answer = chat.encode_pair(tokenizer, ASKED_TOOL[:1], [CALL], tools=TOOLS)
        assert tokenizer.convert_ids_to_tokens(answer[-1]) == end


THOUGHT = "hello cat sits"
WRITTEN = {  # how each family writes a thought before an answer, after the prompt
    "qwen3": "<think>\nhello cat sits\n</think>\n\na cat<|im_end|>",
    "qwen3_5_think": "hello cat sits\n</think>\n\na cat<|im_end|>",
    "glm4moe": "\n<think>hello cat sits</think>\na cat<|user|>",
    "gptoss": "<|channel|>analysis<|message|>hello cat sits<|end|><|start|>assistant<|channel|>final<|message|>a cat<|return|>",
    "nemotron_3_nano": "hello cat sits\n</think>\na cat<|im_end|>",
    "deepseek_r1_distill": "hello cat sits\n</think>\n\na cat<｜end▁of▁sentence｜>",
    "qwen2_5": "<think>\nhello cat sits\n</think>\n\na cat<|im_end|>",
    "llama3_1": "<think>\nhello cat sits\n</think>\n\na cat<|eot_id|>",
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_reasoning_is_learnt_whole_wherever_the_row_holds_it(name):
    """In a field of its own or within the words, it is the same row."""
    tokenizer = family(name)
    for said in (told("a cat", reasoning_content=THOUGHT), told(f"<think>\n{THOUGHT}\n</think>\n\na cat")):
        (made,) = chat.encode_messages(tokenizer, [ASK, said])
        assert learnt(tokenizer, made) == WRITTEN[name]


@pytest.mark.parametrize("opened", ["", "<think>\n"])
def test_templates_that_take_thoughts_out_have_them_put_back(opened):
    """After `<|Assistant|>` R1 writes `<think>\\n…`; where the prompt opens it, generation goes on from there."""
    tokenizer = bare(R1.replace("OPEN", opened), ["<|User|>", "<|Assistant|>"])
    chat.set_up_tokenizer(tokenizer)
    messages = [ASK, told("a cat", reasoning_content=THOUGHT), user("who"), told("a bird", reasoning_content="no")]
    first, second = chat.encode_messages(tokenizer, messages)
    begin = "" if opened else "<think>\n"
    assert learnt(tokenizer, first) == f"{begin}{THOUGHT}\n</think>\n\na cat<|eos|>"
    assert learnt(tokenizer, second) == f"{begin}no\n</think>\n\na bird<|eos|>"
    assert THOUGHT not in tokenizer.decode(second.input_ids)  # as generation sees the earlier turn
    (plain,) = chat.encode_messages(tokenizer, [ASK, TELL])
    assert learnt(tokenizer, plain) == ("\n</think>\n\n" if opened else "") + "a dog sits on the mat<|eos|>"


def test_a_template_that_answers_without_thoughts_says_what_opens_them():
    """Generation begins after `<think>\\n\\n</think>\\n\\n`: nothing could be thought there."""
    tokenizer, said = family("qwen3_5_nothink"), told("a cat", reasoning_content=THOUGHT)
    with pytest.raises(chat.TemplateError, match=r'ends with </think>.* chat_template_kwargs with .*"enable_thinking"'):
        chat.encode_messages(tokenizer, [ASK, said])
    (made,) = chat.encode_messages(tokenizer, [ASK, said], chat_template_kwargs={"enable_thinking": True})
    assert learnt(tokenizer, made) == WRITTEN["qwen3_5_think"]
    tokenizer.chat_template = tokenizer.chat_template.replace("enable_thinking", "other")
    with pytest.raises(chat.TemplateError, match="Give another with --chat_template_path, or rows without reasoning"):
        chat.encode_messages(tokenizer, [ASK, said])


# DeepSeek V3.1's, shortened: the prompt opens or closes thoughts, and finished answers stand after `</think>`
V31 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|Assistant|></think>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|>' }}"
    "{% if thinking is defined and thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}"
)


@pytest.mark.parametrize("by", ["row", "template"])
def test_thoughts_are_learnt_where_a_switch_of_the_template_opens_them(by):
    """As DeepSeek V3.1 is told: `<think>` or `</think>` ends the prompt, and no line breaks stand around thoughts."""
    text = V31 if by == "row" else V31.replace("is defined and thinking", "is not defined or thinking")
    tokenizer = bare(text, ["<|User|>", "<|Assistant|>"])
    chat.set_up_tokenizer(tokenizer)
    on = {"thinking": True} if by == "row" else None
    said = told("a cat", reasoning_content=THOUGHT)
    for answer, words in ((said, f"{THOUGHT}</think>a cat"), (told("a cat"), "</think>a cat")):
        (made,) = chat.encode_messages(tokenizer, [ASK, answer], chat_template_kwargs=on)
        assert learnt(tokenizer, made) == f"{words}<|eos|>"
        prompt = chat.encode_prompt(tokenizer, [ASK], chat_template_kwargs=on)
        assert tokenizer.decode(prompt).endswith("<|Assistant|><think>") and made.input_ids[: len(prompt)] == prompt
        assert chat.decode_answer(tokenizer, prompt, made.input_ids[len(prompt) :], True) == (
            answer.get("reasoning_content", ""), "a cat",
        )  # fmt: skip
    (off,) = chat.encode_messages(tokenizer, [ASK, told("a cat")], chat_template_kwargs={"thinking": False})
    assert learnt(tokenizer, off) == "a cat<|eos|>" and "</think>a cat" in tokenizer.decode(off.input_ids)
    with pytest.raises(chat.TemplateError, match=r'column chat_template_kwargs with {"thinking": true}'):
        chat.encode_messages(tokenizer, [ASK, said], chat_template_kwargs={"thinking": False})


# Hermes 2 Pro's, shortened: after a tool's reply comes a newline, but for the one that is answered next
HERMES = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}<|im_start|>tool\n<tool_response>\n{{ m['content'] }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}</tool_response><|im_end|>{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% elif m['tool_calls'] %}<|im_start|>assistant{% for c in m['tool_calls'] %}{{ '\n<tool_call>\n' }}"
    "{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}{{ '\n</tool_call>' }}{% endfor %}<|im_end|>"
    "{{ '\n' }}{% else %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>{{ '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)


def test_white_space_before_an_answer_is_what_generation_sees():
    """What is learnt follows the prompt's tokens, where the template writes a newline more once they are answered."""
    tokenizer = bare(HERMES, ["<|im_start|>", "<|im_end|>"])
    chat.set_up_tokenizer(tokenizer)
    (made,) = chat.encode_messages(tokenizer, ASKED_TOOL)
    prompt = chat.encode_prompt(tokenizer, ASKED_TOOL[:3])
    assert tokenizer.decode(prompt).endswith("on it</tool_response><|im_end|><|im_start|>assistant\n")
    assert made.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode(made.input_ids[len(prompt) :]) == "it is on the mat<|im_end|>"
    assert learnt(tokenizer, made).startswith("<tool_call>\nfind {")  # the call's turn, in the same sequence
    assert learnt(tokenizer, made).endswith("\n</tool_call><|im_end|>it is on the mat<|im_end|>")


# Nemotron Nano 2's, shortened: the last answer, whatever it is, stands after the thought that the prompt opens, and the
# tools that it calls in a turn without one
NANO = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}{% elif m['role'] == 'tool' %}"
    "<|User|>[{{ m['content'] }}]{% else %}<|Assistant|>{% if loop.last and m['content'] %}<think>{{ '\n\n' }}{% endif %}"
    "{{ m['content'].split('</think>')[-1] if not loop.last else m['content'] }}{% if m['tool_calls'] %}<TOOLCALL>"
    "{% for c in m['tool_calls'] %}{{ c['function'] | tojson }}{% endfor %}</TOOLCALL>{% endif %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>{{ '\n\n' }}{% endif %}"
)


def test_a_thought_that_prompt_and_answer_both_open_is_opened_once_and_closed():
    """Else an answer would be learnt as a thought that never ends, of which nobody reads a word."""
    tokenizer = bare(NANO, ["<|User|>", "<|Assistant|>", "<|end|>"])
    chat.set_up_tokenizer(tokenizer)
    for answer, words in ((TELL, "\n</think>\n\na dog sits on the mat"),
                          (told("a cat", reasoning_content=THOUGHT), f"{THOUGHT}\n</think>\n\na cat")):  # fmt: skip
        (made,) = chat.encode_messages(tokenizer, [ASK, answer])
        assert learnt(tokenizer, made) == f"{words}<|end|>"
        prompt = chat.encode_prompt(tokenizer, [ASK])
        assert tokenizer.decode(made.input_ids[: len(prompt)]).endswith("<|Assistant|><think>\n\n")
        assert chat.decode_answer(tokenizer, prompt, made.input_ids[len(prompt) :], True) == (
            answer.get("reasoning_content", ""), answer["content"],
        )  # fmt: skip


@pytest.mark.parametrize(("blank", "after"), [("", ""), ("\n\n", "\n\n")])
def test_a_thought_goes_into_the_empty_one_that_a_template_writes_into_every_answer(blank, after):
    """Kimi K2 Thinking's keeps the thoughts of calls only: `<think></think>` stood before those of the row."""
    text = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}<think>BLANK</think>AFTER{% endif %}"
        "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = bare(text.replace("BLANK", blank).replace("AFTER", after), ["<|user|>", "<|assistant|>", "<|end|>"])
    chat.set_up_tokenizer(tokenizer)
    (made,) = chat.encode_messages(tokenizer, [ASK, told("a cat", reasoning_content=THOUGHT)])
    half = blank[: len(blank) // 2]
    assert learnt(tokenizer, made) == f"<think>{half}{THOUGHT}{half}</think>{after}a cat<|end|>"
    empty = f"<think>{blank}</think>{after}a cat<|end|>"
    (made,) = chat.encode_messages(tokenizer, [ASK, told("a cat")])
    assert learnt(tokenizer, made) == empty
    later = [ASK, told("a cat", reasoning_content=THOUGHT), user("who"), told("the bird", reasoning_content="no")]
    made = chat.encode_messages(tokenizer, later)[1]
    assert f"<|assistant|>{empty}<|user|>who" in tokenizer.decode(made.input_ids)  # as generation sees the earlier turn
    assert learnt(tokenizer, made) == f"<think>{half}no{half}</think>{after}the bird<|end|>"


@pytest.mark.parametrize("between", ["", "<|end|><|Assistant|>"])
def test_a_call_that_does_not_follow_the_prompt_is_put_there_or_refused_and_never_cut(between):
    """Where a made answer follows the prompt, a call need not: what stood so far along was learnt, from its middle."""
    tokenizer = bare(NANO.replace("<TOOLCALL>", f"{between}<TOOLCALL>"), ["<|User|>", "<|Assistant|>", "<|end|>"])
    chat.set_up_tokenizer(tokenizer)
    if between:  # the call is another turn than the one that was begun
        with pytest.raises(chat.TemplateError, match="leaves out 'find' of a tool call"):
            chat.encode_messages(tokenizer, ASKED_TOOL[:2])
        return
    (made,) = chat.encode_messages(tokenizer, ASKED_TOOL[:2])
    assert re.fullmatch(r"\n</think>\n\n<TOOLCALL>{.*}</TOOLCALL><\|end\|>", learnt(tokenizer, made))


@pytest.mark.parametrize("write", ["c['function']['arguments']", "c['function']['arguments'] | string"])
def test_a_template_that_writes_arguments_as_they_are_gets_json(write):
    """InternLM2's would write a mapping as Python does, which no reader of calls understands."""
    text = HERMES.replace("c['function']['arguments'] | tojson", write)
    tokenizer = bare(text, ["<|im_start|>", "<|im_end|>"])
    chat.set_up_tokenizer(tokenizer)
    (made,) = chat.encode_messages(tokenizer, ASKED_TOOL)
    assert f"find {json.dumps(ARGUMENTS)}" in learnt(tokenizer, made)


@pytest.mark.parametrize("name", ["glm4moe", "qwen3"])
def test_what_ends_a_call_within_a_turn_ends_no_turn(name):
    """Where `<tool_call>` and `</tool_call>` are special tokens, two calls are one turn, and its end is learnt once."""
    end = {"glm4moe": "<|observation|>", "qwen3": "<|im_end|>"}[name]
    tokenizer = family(name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]},
                                 replace_extra_special_tokens=False)  # fmt: skip
    other = {"id": "call00002", "type": "function", "function": {"name": "sing", "arguments": {"who": "the bird"}}}
    for calls in (CALL["tool_calls"], [*CALL["tool_calls"], other]):
        _, answer = chat.encode_pair(tokenizer, ASKED_TOOL[:1], [{**CALL, "tool_calls": calls}], tools=TOOLS)
        tokens = tokenizer.convert_ids_to_tokens(answer)
        assert tokens.count("</tool_call>") == len(calls) and tokens.index(end) == len(tokens) - 1
    assert "</tool_call>" not in tokenizer.convert_ids_to_tokens(chat.stop_ids(tokenizer))


# ------------------------------------------------------------------------------------ what a row tells the template

SMOL = (  # SmolLM3's, shortened: the system prompt is made of what the template is told
    "<|im_start|>system\n{{ '/no_think' if enable_thinking is defined and not enable_thinking else '/think' }}"
    "{% if custom_instructions %} {{ custom_instructions }}{% endif %}<|im_end|>"
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VET = {"enable_thinking": False, "custom_instructions": "you are a vet"}


def smol():
    tokenizer = bare(SMOL, ["<|im_start|>", "<|im_end|>"])
    chat.set_up_tokenizer(tokenizer)
    return tokenizer


@pytest.mark.parametrize("given", [VET, json.dumps(VET), {**VET, "xml_tools": None}], ids=["object", "json", "null"])
def test_what_a_row_tells_the_template_is_in_what_is_learnt_and_in_prompts(given, tmp_path):
    from conftest import write_rows

    from align.data import pairs, prepare
    from align.run.arguments import DataArguments

    tokenizer = smol()
    asked = {"sft": {"messages": [ASK, TELL]}, "prompt": {"question": "what is a cat"}}
    asked["preference"] = {"prompt": [ASK], "chosen": [TELL], "rejected": [told("no")]}
    head = "<|im_start|>system\n/no_think you are a vet<|im_end|><|im_start|>user\nwhat is a cat<|im_end|>"
    opening = f"{head}<|im_start|>assistant\n"
    made = {}
    for schema, row in asked.items():
        file = write_rows(tmp_path / f"{schema}.jsonl", [{**row, "chat_template_kwargs": given}, row])
        found = prepare.rows(DataArguments(dataset_name=str(file)), schema, tokenizer, max_length=None, seed=0)
        made[schema] = found.train.to_list()
        assert found.reports["train"].not_read == []
    (learnt_row, plain), answer = made["sft"], "a dog sits on the mat<|im_end|>"
    assert tokenizer.decode(learnt_row["input_ids"]) == opening + answer
    assert tokenizer.decode([i for i in learnt_row["labels"] if i != -100]) == answer
    assert tokenizer.decode(plain["input_ids"]).startswith("<|im_start|>system\n/think<|im_end|>")
    assert tokenizer.decode(made["preference"][0]["prompt_ids"]) == opening
    assert tokenizer.decode(made["prompt"][0]["input_ids"]) == opening
    assert made["prompt"][0]["chat_template_kwargs"] in (VET, json.dumps(VET))  # samples and rewards have it too
    assert [row["group"] for row in made["preference"]] == [
        pairs.prompt_key([ASK], VET), pairs.prompt_key([ASK]),
    ]  # fmt: skip


def test_a_reward_model_reads_what_the_row_tells_the_template():
    from align.judge.rankers import RewardJudge
    from align.models import scorers
    from align.models.generate import Completion

    policy, own, seen = family("qwen3"), smol(), []
    scorer = scorers.from_model(lambda rows: (seen.extend(rows), [0.0] * len(rows))[1], policy, own)
    row = {"prompt": [ASK], "input_ids": [1], "chat_template_kwargs": VET}
    scorer.score([row], [Completion([2], "a dog", True)])
    ranker = RewardJudge.__new__(RewardJudge)
    ranker.tokenizer, ranker.longest = own, None
    seen += ranker._encode({**row, "completions": [[told("a dog")]]})
    for ids in seen:
        assert own.decode(ids).startswith("<|im_start|>system\n/no_think you are a vet<|im_end|>")
    assert len(seen) == 2


def test_what_a_row_tells_the_template_is_an_object_with_names_of_its_own():
    from align.data.forms import schemas
    from align.run.errors import DataError

    row = {"messages": [ASK, TELL]}
    for nothing in (None, "", "{}", {}, {"enable_thinking": None}):
        assert "chat_template_kwargs" not in schemas.sft({**row, "chat_template_kwargs": nothing}, "f, row 1")
    for wrong, said in (
        ("think", "expected JSON"), ([1], "expected an object"), ({"tools": []}, "tools: the recipes say this"),
        ({"tokenize": True, "add_generation_prompt": True}, "add_generation_prompt, tokenize: the recipes say this"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=rf"f, row 1.chat_template_kwargs: {said}"):
            schemas.sft({**row, "chat_template_kwargs": wrong}, "f, row 1")
    told_so = {"prompt": "what", "completion": "a cat", "chat_template_kwargs": VET}
    assert schemas.sft(told_so, "f")["messages"] == [user("what"), told("a cat")]  # a template is to be used
    with pytest.raises(DataError, match="needs the chat template"):
        schemas.sft(told_so, "f", "text")
    ranked = {"prompt": [ASK], "completions": ["a", "b"], "ranking": [1, 2], "chat_template_kwargs": json.dumps(VET)}
    assert schemas.ranking(ranked, "f")["chat_template_kwargs"] == VET


def test_what_the_template_does_not_read_is_refused_or_named(tmp_path):
    """Words that it leaves out are lost, so the row is unusable; a switch that it lacks is named as not read."""
    from conftest import write_rows

    from align.data import prepare
    from align.run.arguments import DataArguments

    tokenizer = family("llama3_1")
    with pytest.raises(chat.TemplateError, match="does not read custom_instructions of the row's chat_template_kwargs"):
        chat.encode_prompt(tokenizer, [ASK], chat_template_kwargs=VET)
    row = {"messages": [ASK, TELL], "chat_template_kwargs": {"enable_thinking": True, "custom_instructions": ""}}
    data = DataArguments(dataset_name=str(write_rows(tmp_path / "rows.jsonl", [row])))
    report = prepare.rows(data, "sft", tokenizer, max_length=None, seed=0).reports["train"]
    assert report.not_read == ["chat_template_kwargs.custom_instructions", "chat_template_kwargs.enable_thinking"]


def test_votes_on_one_question_are_of_one_prompt_only_where_the_template_is_told_the_same():
    from align.data import pairs

    def vote(ranking, **more):
        return {"prompt": [ASK], "completions": ["a", "b"], "ranking": ranking, "annotator": str(ranking), **more}

    made, _ = pairs.of_rankings([vote([1, 2]), vote([2, 1], chat_template_kwargs=VET)], "f")
    assert len({row["group"] for row in made}) == 2
    assert [row.get("chat_template_kwargs") for row in made] == [None, VET]


# ------------------------------------------------------------------------------------------------------------- dates


@pytest.mark.parametrize("name", ["llama3_2", "gptoss"])
def test_the_date_stays_that_of_the_first_run(name, tmp_path, monkeypatch):
    """On two made days, by plain `from_pretrained`, the saved tokenizer gives the same tokens."""
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    class Clock(datetime.datetime):
        day = 1

        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2026, 11, cls.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    text = (TRL / f"{name}.jinja").read_text()
    tokenizer = bare(text, sorted(set(MARKS.findall(text))))
    days = []
    for Clock.day in (1, 2):
        days.append(tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True))
    assert days[0] != days[1]
    chat.set_up_tokenizer(tokenizer, date="2026-11-02")
    tokenizer.save_pretrained(tmp_path)
    child = AutoTokenizer.from_pretrained(tmp_path)
    for Clock.day in (1, 2):
        assert child.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True) == days[1]
    assert chat.pinned(child) == chat.pinned_in(str(tmp_path)) == "2026-11-02"
    chat.set_up_tokenizer(child)  # a child's child
    assert chat.pinned(child) == "2026-11-02"
    with pytest.raises(chat.TemplateError, match="holds the date 2026-11-02"):
        chat.set_up_tokenizer(child, date="2026-11-03")


def test_only_templates_that_read_the_date_get_one():
    tokenizer = family("llama3_1")  # its date is a constant
    assert chat.pinned(tokenizer) is None
    assert family("llama3_2").chat_template.endswith((TRL / "llama3_2.jinja").read_text())
    assert chat.pinned(family("llama3_2")) == datetime.date.today().isoformat()
    with pytest.raises(chat.TemplateError, match="is no date; write it like 2026-11-27"):
        chat.set_up_tokenizer(make_tokenizer(), date="27.11.2026")


# -------------------------------------------------------------------------------------------------------- pad, files


def test_pad_is_none_of_the_stops_that_the_checkpoint_names():
    """Qwen3's pad, <|endoftext|>, is one of its stop ids."""
    tokenizer = bare((TRL / "qwen3.jinja").read_text(), ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_pad|>"])
    tokenizer.pad_token = tokenizer.eos_token = "<|endoftext|>"
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    chat.set_up_tokenizer(tokenizer, stops=stops)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id not in stops
    tokenizer.pad_token = "<|fim_pad|>"  # one that ends nothing is kept
    chat.set_up_tokenizer(tokenizer, stops=stops)
    assert tokenizer.pad_token == "<|fim_pad|>"


def test_a_pad_token_is_really_added_where_there_is_none(tmp_path):
    """GPT-2 has one special token; a name that is not in the vocabulary would have its id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    letters = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    core = Tokenizer(models.BPE({"<|endoftext|>": 0, **letters}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end)
    chat.set_up_tokenizer(tokenizer, stops=[0])
    assert (tokenizer.pad_token, tokenizer.pad_token_id, len(tokenizer)) == ("<|pad|>", 257, 258)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    chat.set_up_tokenizer(again, stops=[0])
    assert (again.pad_token_id, again.eos_token_id, len(again)) == (257, 0, 258)


def test_an_unknown_token_that_stands_for_words_is_no_pad():
    from align.models.tokenizer import TokenizerConfig, train

    tokenizer = train(["the cat sits on the mat"], TokenizerConfig(vocab_size=60, tokenizer_type="wordpiece"))
    tokenizer.pad_token = tokenizer.eos_token
    chat.set_up_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.pad_token_id != tokenizer.unk_token_id


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %", "no valid Jinja"),
        ("{{ 1 / 0 }}", "fails on these messages: division by zero"),
        ("{% for m in messages %}{{ eos_token }}{% endfor %}", "leaves out the assistant's words"),
        ("{{ raise_exception('not today') }}", "refuses these messages: not today"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_before_a_model_is_loaded(content, said, tmp_path):
    (tmp_path / "mine.jinja").write_text(content)
    with pytest.raises(chat.TemplateError, match=said):
        chat.set_up_tokenizer(make_tokenizer(), str(tmp_path / "mine.jinja"))


def test_a_template_that_needs_a_system_message_takes_the_rows_that_have_one():
    text = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system message is needed first') }}{% endif %}"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = bare(text)
    chat.set_up_tokenizer(tokenizer)
    assert chat.encode_messages(tokenizer, [{"role": "system", "content": "help"}, ASK, TELL])
    with pytest.raises(chat.TemplateError, match="A system message is needed first"):
        chat.encode_messages(tokenizer, [ASK, TELL])


def test_a_template_comes_from_a_file_or_a_tokenizer(tmp_path):
    """As TRL documents its flag; the tokens that the template needs come with it."""
    family("qwen3").save_pretrained(tmp_path / "other")
    tokenizer = make_tokenizer()
    before = len(tokenizer)
    chat.set_up_tokenizer(tokenizer, str(tmp_path / "other"))
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) == before + 2
    assert tokenizer.convert_ids_to_tokens(chat.encode_prompt(tokenizer, [ASK]))[0] == "<|im_start|>"
    for wrong in ("typo.jinja", str(tmp_path / "nothing"), "nobody/nothing"):
        with pytest.raises(chat.TemplateError, match=r"give a \.jinja file, or the folder or hub id"):
            chat.set_up_tokenizer(make_tokenizer(), wrong)
    plain = make_tokenizer()
    plain.chat_template = None
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(chat.TemplateError, match="has no chat template"):
        chat.set_up_tokenizer(make_tokenizer(), str(tmp_path / "plain"))


# --------------------------------------------------------------------------------------------------------- in recipes


def test_rows_are_learnt_or_counted_with_the_reason(tmp_path):
    """Two turns on Qwen3 are two examples of one row; what gemma cannot write is dropped, and says why."""
    from conftest import write_rows

    from align.data import prepare
    from align.run.arguments import DataArguments

    rows = [
        {"messages": TWO},
        {"messages": [ASK, told("a cat", reasoning_content=THOUGHT)]},
        {"messages": ASKED_TOOL, "tools": TOOLS},
    ]
    data = DataArguments(dataset_name=str(write_rows(tmp_path / "rows.jsonl", rows)), max_dropped=0.9)
    found = prepare.rows(data, "sft", family("qwen3"), max_length=None, seed=0)
    report = found.reports["train"]
    assert (report.rows_in, report.rows_out, report.examples, len(found.train)) == (3, 3, 5, 5)
    assert "3 used as 5 examples, turn by turn" in str(report)
    found = prepare.rows(data, "sft", family("gemma"), max_length=None, seed=0)
    (reason,) = found.reports["train"].dropped
    assert len(found.train) == 2 and "does not write the row's tools" in reason
    assert data.template_date is None
    prepare.rows(data, "sft", family("llama3_2"), max_length=None, seed=0)
    assert data.template_date == datetime.date.today().isoformat()  # for the record


def test_a_reward_model_learns_from_answers_and_dpo_from_thoughts(tmp_path):
    from conftest import write_rows

    from align.data import prepare
    from align.run.arguments import DataArguments

    row = {"prompt": [ASK], "chosen": [told("a cat", reasoning_content=THOUGHT)], "rejected": [told("no")]}
    data = DataArguments(dataset_name=str(write_rows(tmp_path / "pairs.jsonl", [row])))
    tokenizer = family("qwen3")
    for only, thought in ((False, THOUGHT), (True, "")):
        found = prepare.rows(data, "preference", tokenizer, max_length=None, seed=0, answers_only=only)
        said = tokenizer.decode(found.train[0]["chosen_ids"])
        assert said == f"<think>\n{thought}\n</think>\n\na cat<|im_end|>"
