"""A tokenizer made ready to be learnt from: its template, the tokens that end an answer, a pad token of its own."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from align.data.chat import dates
from align.data.chat.templates import (
    ASKED,
    CALL,
    REPLY,
    SAID,
    THOUGHT,
    TOLD,
    VALUE,
    Messages,
    TemplateError,
    render,
)
from align.run.received import permission

# For base models without a template. It needs no new tokens: turns are words, and an answer ends with the EOS token.
PLAIN_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}User: {{ message['content'] | trim }}\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] | trim }}{{ eos_token }}\n"
    "{% else %}{{ message['content'] | trim }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# Tokens that families keep for padding or for nothing; reused so that no embedding has to be added.
SPARE_TOKENS = (
    "<|pad|>", "<pad>", "[PAD]", "<|PAD_TOKEN|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|fim_pad|>",
    "<|endoftext|>", "<|reserved_special_token_0|>", "<|placeholder1|>", "<|extra_0|>", "<|dummy_0|>", "<unk>", "[UNK]",
)  # fmt: skip
RARE = "\u2603 \ua66e \U0001f701 \u16a0"  # nobody's vocabulary holds them whole


def set_up_tokenizer(
    tokenizer: Any, template: str | None = None, *, stops: Collection[int] = (), date: str | None = None
) -> None:
    """Give `tokenizer` a template, a pad token that is no stop token, and the template's turn end as its EOS.

    Args:
        tokenizer: a fast tokenizer; changed in place.
        template: Jinja text, a `.jinja` file, a folder or hub id of a tokenizer that has one, or None to keep the
            model's own (or the plain one, if it has none).
        stops: ids that the checkpoint's generation config names as ends of an answer.
        date: for a template that reads today's date, the one that it is to have (YYYY-MM-DD; default: today).

    Raises:
        TemplateError: if the template cannot be read, cannot render one question and its answer, or ends the
            assistant's turn with no special token: nothing would teach it to stop.
    """
    if template is not None:
        date = date or dates.pinned(tokenizer)  # of the template before
        _take_template(tokenizer, template)
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if dates.pin(tokenizer, date) and os.environ.get("RANK", "0") == "0":
        print(f"the chat template reads the date: it is {dates.pinned(tokenizer)} from here on", flush=True)
    if tokenizer.eos_token is None:
        raise TemplateError("the tokenizer has no EOS token, so nothing could end an answer; set one in its config")
    taken = {tokenizer.eos_token_id, *stops}
    end = _closing(tokenizer, [ASKED, TOLD], SAID, ASKED, taken)
    if end is None:
        raise TemplateError(
            "the chat template ends an assistant turn with no special token: a model trained on it could not stop. "
            "Give one that does with --chat_template_path"
        )
    tokenizer.eos_token = end
    _give_pad(tokenizer, {tokenizer.eos_token_id, *taken})


def _take_template(tokenizer: Any, template: str) -> None:
    """Jinja text, or the template of a file, a tokenizer's folder or a hub id, as TRL documents its flag."""
    from transformers import AutoTokenizer

    if "{%" in template or "{{" in template:
        tokenizer.chat_template = template
        return
    if Path(template).is_file():
        try:
            tokenizer.chat_template = Path(template).read_text()
        except UnicodeDecodeError as error:
            raise TemplateError(f"--chat_template_path {template} is no text file ({error})") from error
        return
    known = "a .jinja file, or the folder or hub id of a tokenizer that has a template"
    if not Path(template).is_dir() and (template.endswith((".jinja", ".j2")) or template.count("/") != 1):
        raise TemplateError(f"--chat_template_path {template}: no such file or folder; give {known}")
    try:
        source = AutoTokenizer.from_pretrained(template, **permission.code(template))
    except (OSError, ValueError) as error:
        raise TemplateError(f"--chat_template_path {template}: no tokenizer is there; give {known}") from error
    if source.chat_template is None:
        raise TemplateError(f"--chat_template_path {template}: its tokenizer has no chat template; give {known}")
    tokenizer.chat_template = source.chat_template
    vocabulary, text = tokenizer.get_vocab(), str(source.chat_template)
    used = [
        token.content for token in source.added_tokens_decoder.values()
        if token.special and token.content not in vocabulary and token.content in f"{text} {source.eos_token}"
    ]  # fmt: skip
    if used:
        tokenizer.add_special_tokens({"additional_special_tokens": used}, replace_extra_special_tokens=False)
        print(f"new tokens, as the template of {template} needs them: {' '.join(used)}", flush=True)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all tokens that are no words."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return set(tokenizer.all_special_ids) | added


def _closing(
    tokenizer: Any, messages: Messages, word: str, follows: dict[str, Any], stops: Collection[int],
    inside: Collection[int] = (),
) -> str | None:  # fmt: skip
    """The special token that ends the last of `messages`, read off the text after its `word`; None for none.

    Where several stand side by side it is the one of `stops`. Some templates (GLM's) write it as the beginning of the
    next turn only, so one that `follows` is looked at as well. What is `inside` a turn ends none.
    """
    text, some = _written(tokenizer, messages)
    if word not in text:
        raise TemplateError(
            "the chat template leaves out the assistant's words. Give one that writes them with --chat_template_path"
        )
    special = special_ids(tokenizer) - {*inside}

    def first(tail: str) -> str | None:
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
        begin = next((at for at, token in enumerate(ids) if token in special), None)
        if begin is None:
            return None
        end = next((at for at in range(begin, len(ids)) if ids[at] not in special), len(ids))
        run = ids[begin:end]
        return tokenizer.convert_ids_to_tokens(next((token for token in run if token in stops), run[-1]))

    if (found := first(text.rpartition(word)[2])) is not None:
        return found
    try:
        text = render(tokenizer, [*some, {**follows, "content": THOUGHT}], generation_prompt=False)
    except TemplateError:
        return None
    return first(text.rpartition(THOUGHT)[0].rpartition(word)[2])


def _written(tokenizer: Any, messages: Messages) -> tuple[str, Messages]:
    """The text of a made conversation, and what it is of: a template may insist on a system message."""
    refusal = None
    for some in (messages, [{"role": "system", "content": "y"}, *messages]):
        try:
            return render(tokenizer, some, generation_prompt=False), some
        except TemplateError as error:
            refusal = refusal or error
    raise refusal or AssertionError(messages)


def call_end(tokenizer: Any) -> tuple[str | None, set[int]]:
    """The special token that ends a turn that calls tools (None where the template writes no calls), and those that
    end or begin a call within the turn: they stand between two calls."""
    template = f"{tokenizer.chat_template} {tokenizer.eos_token} {sorted(special_ids(tokenizer))}"
    if template not in _call_ends:
        try:
            inside = _between_calls(tokenizer) - {tokenizer.eos_token_id}
            found = _closing(tokenizer, [ASKED, CALL], VALUE, REPLY, {tokenizer.eos_token_id}, inside)
        except TemplateError:
            found, inside = None, set()
        _call_ends[template] = (found, inside)
    return _call_ends[template]


_call_ends: dict[str, tuple[str | None, set[int]]] = {}


def _between_calls(tokenizer: Any) -> set[int]:
    """Ids of the special tokens between two calls of one turn; none where the template writes one call only."""
    call = CALL["tool_calls"][0]
    other = {"id": "call00002", **call, "function": {**call["function"], "arguments": {"where": THOUGHT}}}
    try:
        text, _ = _written(tokenizer, [ASKED, {**CALL, "tool_calls": [call, other]}])
    except TemplateError:
        return set()
    between = text.rpartition(THOUGHT)[0].rpartition(VALUE)[2] if VALUE in text.rpartition(THOUGHT)[0] else ""
    return special_ids(tokenizer) & {*tokenizer(between, add_special_tokens=False)["input_ids"]}


def stop_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """The token ids that end an answer: the trained one first, that of tool calls where it is another, then those that
    the checkpoint itself names."""
    called, _ = call_end(tokenizer)
    named = generation_config.eos_token_id if generation_config is not None else None
    ids = [tokenizer.eos_token_id, None if called is None else tokenizer.convert_tokens_to_ids(called)]
    ids += named if isinstance(named, list) else [named]
    return list(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _give_pad(tokenizer: Any, stops: set[int]) -> None:
    """Keep the pad token if it ends nothing; else take a spare one of the family, or add one."""
    stops = stops | set(stop_ids(tokenizer))
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stops:
        return
    vocabulary = tokenizer.get_vocab()
    taken = stops | {tokenizer.bos_token_id}
    if tokenizer.unk_token_id in tokenizer(RARE, add_special_tokens=False)["input_ids"]:
        taken.add(tokenizer.unk_token_id)  # it stands for words
    spare = next((t for t in SPARE_TOKENS if t in vocabulary and vocabulary[t] not in taken), None)
    if spare is not None:
        tokenizer.pad_token = spare
    else:  # really added: naming a token that is not there would give the id of the unknown one, GPT-2's EOS
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if tokenizer.pad_token_id in stops:  # where it was added: of ids that no token has, one is its own
        raise TemplateError(
            "generation_config.json or config.json names ids of no token as ends of an answer (eos_token_id), and so "
            "the pad token's; leave there what its tokenizer has"
        )
