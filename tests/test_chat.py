"""Masks and stop tokens for every template family: what is learnt is the answer and one stop token, nothing else."""

from __future__ import annotations

from importlib.resources import files

import pytest
from conftest import make_tokenizer

from align.data import chat

TRL = files("trl") / "chat_templates"
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = {
    # family: template, special tokens, bos, eos, the token that ends a turn
    "llama3": ((TRL / "llama3.jinja").read_text(), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"], "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "qwen3": ((TRL / "qwen3.jinja").read_text(), ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], None, "<|im_end|>", "<|im_end|>"),
    "gemma": ((TRL / "gemma.jinja").read_text(), ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", "<end_of_turn>"),
    "smollm2": (SMOLLM2, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|im_start|>", "<|im_end|>", "<|im_end|>"),
    "gpt-neox without a template": (None, ["<|endoftext|>", "<|padding|>"], "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
}  # fmt: skip
ASK = {"role": "user", "content": "what is a cat"}
TELL = {"role": "assistant", "content": "hello tree"}


def family(name: str):
    template, special, bos, eos, end = FAMILIES[name]
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = bos, eos, eos
    tokenizer.chat_template = template
    chat.set_up_tokenizer(tokenizer)
    return tokenizer, end


@pytest.mark.parametrize("name", FAMILIES)
def test_one_stop_token_and_one_bos(name):
    tokenizer, end = family(name)
    assert tokenizer.eos_token == end
    assert tokenizer.pad_token not in (None, tokenizer.eos_token)
    (encoded,) = chat.encode_messages(tokenizer, [ASK, TELL])
    learnt = [i for i, keep in zip(encoded.input_ids, encoded.learnt, strict=True) if keep]
    assert learnt[-1] == tokenizer.eos_token_id and learnt.count(tokenizer.eos_token_id) == 1
    said = tokenizer.decode(learnt[:-1], skip_special_tokens=True).strip()
    assert said.endswith("hello tree") and "cat" not in said and "assistant" not in said, said
    bos = FAMILIES[name][2]
    if bos and bos not in ("<|im_start|>", "<|endoftext|>"):
        assert encoded.input_ids.count(tokenizer.bos_token_id) == 1 and encoded.input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_is_learnt_and_no_question(name):
    tokenizer, _ = family(name)
    messages = [ASK, TELL, {"role": "user", "content": "who sings"}, {"role": "assistant", "content": "the bird"}]
    made = chat.encode_messages(tokenizer, messages)
    pairs = [pair for encoded in made for pair in zip(encoded.input_ids, encoded.learnt, strict=True)]
    text = tokenizer.decode([token for token, keep in pairs if keep])
    assert "hello tree" in text and "the bird" in text and "who sings" not in text and "cat" not in text
    assert text.count(tokenizer.eos_token) == 2
    _, completion = chat.encode_pair(tokenizer, messages[:-1], messages[-1:])
    text = tokenizer.decode(completion)
    assert "the bird" in text and "hello" not in text


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_trained_is_what_generation_sees(name):
    tokenizer, _ = family(name)
    prompt, completion = chat.encode_pair(tokenizer, [ASK], [TELL])
    (whole,) = chat.encode_messages(tokenizer, [ASK, TELL])
    assert prompt == chat.encode_prompt(tokenizer, [ASK])
    assert prompt + completion == whole.input_ids
    assert completion[-1] == tokenizer.eos_token_id


def test_system_turn_is_never_added_to_a_completion():
    """DPO trainers once rendered `chosen` by itself and got a second default system prompt (b8)."""
    tokenizer, _ = family("smollm2")
    _, completion = chat.encode_pair(tokenizer, [ASK], [TELL])
    assert "helpful" not in tokenizer.decode(completion) and "system" not in tokenizer.decode(completion)


def test_plain_text_gets_bos_and_stop(tokenizer):
    prompt, completion = chat.encode_pair(tokenizer, "what is", " a cat")
    assert prompt[0] == tokenizer.bos_token_id and completion[-1] == tokenizer.eos_token_id
    assert (prompt + completion).count(tokenizer.bos_token_id) == 1


def test_a_template_that_never_stops_is_refused():
    tokenizer = make_tokenizer()
    with pytest.raises(chat.TemplateError, match="could not stop"):
        chat.set_up_tokenizer(tokenizer, "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")


def test_a_refusing_template_names_its_reason():
    tokenizer, _ = family("gemma")
    with pytest.raises(chat.TemplateError, match="System role not supported"):
        chat.encode_messages(tokenizer, [{"role": "system", "content": "x"}, ASK, TELL])


def test_words_in_the_prompt_that_look_like_the_answer(tokenizer):
    """The span is found by position, so a question that holds the answer's words is still no target."""
    (encoded,) = chat.encode_messages(tokenizer, [{"role": "user", "content": "hello tree"}, TELL])
    assert tokenizer.decode([i for i, k in zip(encoded.input_ids, encoded.learnt, strict=True) if k]).count("tree") == 1
