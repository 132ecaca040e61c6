"""Messages to text, token ids, masks and stop ids: the only place that touches chat templates.

A conversation is rendered once and tokenised once; the assistant's spans are found inside that one sequence. So what
is trained on is exactly what generation will see: one BOS where the family has one, one stop token that is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]

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
    "<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|fim_pad|>", "<|endoftext|>",
    "<|reserved_special_token_0|>", "<unk>", "[UNK]",
)  # fmt: skip


class TemplateError(ValueError):
    """A chat template cannot render these messages, or could never be learnt from."""


def set_up_tokenizer(tokenizer: Any, template: str | None = None) -> None:
    """Give `tokenizer` a template, a pad token that is no stop token, and the template's turn end as its EOS.

    Args:
        tokenizer: a fast tokenizer; changed in place.
        template: Jinja text, a `.jinja` file, or None to keep the model's own (or the plain one, if it has none).

    Raises:
        TemplateError: if the template ends the assistant's turn with no special token: nothing would teach it to stop.
    """
    if template is not None:
        tokenizer.chat_template = Path(template).read_text() if Path(template).is_file() else template
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.eos_token is None:
        raise TemplateError("the tokenizer has no EOS token, so nothing could end an answer; set one in its config")
    tokenizer.eos_token = _turn_end(tokenizer)
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        taken = {tokenizer.eos_token, tokenizer.bos_token}
        spare = next((token for token in SPARE_TOKENS if token in vocabulary and token not in taken), None)
        tokenizer.pad_token = spare or "<|pad|>"  # new only where the family has none to spare


def _turn_end(tokenizer: Any) -> str:
    """The special token after the assistant's words in the template."""
    mark = "Zebra"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}], tokenize=False
    )
    tail = text[text.rindex(mark) + len(mark) :]
    specials = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for token_id in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token_id in specials:
            return tokenizer.convert_ids_to_tokens(token_id)
    raise TemplateError(
        f"the chat template ends an assistant turn with {tail!r}, which holds no special token: a model trained on it "
        "could not stop. Give one that does with --chat_template_path"
    )


def stop_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """The token ids that end an answer: the trained one first, then those that the checkpoint itself names."""
    ids = [tokenizer.eos_token_id]
    named = generation_config.eos_token_id if generation_config is not None else None
    for token_id in named if isinstance(named, list) else [named]:
        if token_id is not None and token_id not in ids:
            ids.append(token_id)
    return ids


def render(tokenizer: Any, messages: Messages, *, generation_prompt: bool) -> str:
    """The text of a conversation; with `generation_prompt`, up to where the assistant would begin."""
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
    except jinja2.exceptions.TemplateError as error:
        raise TemplateError(f"the chat template refuses these messages: {error}") from error


@dataclass
class Encoded:
    """Token ids and, for each, whether it is learnt (the assistant's words and the stop token). Both of length T."""

    input_ids: list[int]
    learnt: list[bool]

    @property
    def labels(self) -> list[int]:
        """`input_ids` where learnt, -100 elsewhere."""
        return [token if keep else -100 for token, keep in zip(self.input_ids, self.learnt, strict=True)]


def encode_messages(tokenizer: Any, messages: Messages, *, last_only: bool = False) -> Encoded:
    """Tokenise a conversation and mark the assistant's spans.

    Args:
        messages: `[{"role", "content"}, …]` with at least one assistant turn.
        last_only: mark the last assistant turn only (preference pairs share the earlier ones).

    Raises:
        TemplateError: if a span cannot be found, is empty, or does not end with the stop token.
    """
    text = render(tokenizer, messages, generation_prompt=False)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise TemplateError("there is no assistant turn to learn from")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    learnt = [False] * len(ids)
    end: int | None = 0
    for turn in turns[-1:] if last_only else turns:
        opening = render(tokenizer, messages[:turn], generation_prompt=True)
        if not text.startswith(opening):
            raise TemplateError("the template renders earlier turns differently once later ones follow")
        begin = next((t for t in range(end or 0, len(ids)) if offsets[t][0] >= len(opening)), len(ids))
        end = next((t + 1 for t in range(begin, len(ids)) if ids[t] == tokenizer.eos_token_id), None)
        if end is None:
            raise TemplateError("the assistant's turn does not end with the stop token")
        learnt[begin:end] = [True] * (end - begin)
        said = tokenizer.decode(ids[begin : end - 1], skip_special_tokens=True)
        if messages[turn]["content"].strip()[-20:] not in said and not _same_words(said, messages[turn]["content"]):
            raise TemplateError("the assistant's words are not where the template should have put them")
    if not last_only:
        return Encoded(ids, learnt)
    return Encoded(ids[:end], learnt[:end])  # a newline after the stop token belongs to nobody's answer


def _same_words(said: str, content: str) -> bool:
    """Equal up to spaces and case: tokenizers may normalise text (WordPiece does)."""
    return "".join(said.lower().split()).endswith("".join(content.lower().split())[-12:])


def encode_prompt(tokenizer: Any, prompt: str | Messages) -> list[int]:
    """Token ids of a prompt, up to where the assistant begins. Plain text is taken as it is, with the BOS if any."""
    if isinstance(prompt, str):
        return _plain(tokenizer, prompt)
    return list(tokenizer(render(tokenizer, prompt, generation_prompt=True), add_special_tokens=False)["input_ids"])


def encode_pair(tokenizer: Any, prompt: str | Messages, completion: str | Messages) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of one completion with its stop token.

    Raises:
        TemplateError: if the prompt's tokens change once the completion follows: generation would see other ones.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    if isinstance(prompt, str):
        ids = [*_plain(tokenizer, prompt + str(completion)), tokenizer.eos_token_id]
    else:
        ids = encode_messages(tokenizer, [*prompt, *completion], last_only=True).input_ids
    if ids[: len(prompt_ids)] != prompt_ids:
        raise TemplateError("the prompt's last token changes when the answer follows it")
    return prompt_ids, ids[len(prompt_ids) :]


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Plain text with the tokenizer's BOS, where it has one, and never its EOS."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    has_bos = tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id
    return [tokenizer.bos_token_id, *ids] if has_bos and ids[:1] != [tokenizer.bos_token_id] else ids
