"""The Modelfile that Ollama reads beside a GGUF file: its weights, how a conversation is written, where to stop.

Ollama writes conversations by templates of its own kind and does not run the Jinja that the file holds: without a
TEMPLATE it takes the one of its own list whose Jinja is nearest to the file's, or none. So a known form is translated
here. Which form a chat template is of is told by what it writes for some conversations, not by how it is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from align.data import chat
from align.run.received import screen

ASKED = {"role": "user", "content": "first asked"}
SAID = {"role": "assistant", "content": "then said"}
TOLD = {"role": "system", "content": "told before"}
NEXT = {"role": "user", "content": "asked again"}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
OLLAMA = {"repetition_penalty": "repeat_penalty"}


class Form(NamedTuple):
    """What stands before and behind each turn, and what an answer follows."""

    name: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str
    system: tuple[str, str] | None = None  # None: a system message is no turn of its own, and is not translated


def forms(eos: str) -> list[Form]:
    """The forms that are known. `eos`: the token that ends an answer, where a form leaves it open."""

    def header(role: str) -> tuple[str, str]:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"

    def im(role: str) -> tuple[str, str]:
        return f"<|im_start|>{role}\n", "<|im_end|>\n"

    def turn(role: str) -> tuple[str, str]:
        return f"<start_of_turn>{role}\n", "<end_of_turn>\n"

    return [
        Form("ChatML", im("user"), im("assistant"), im("assistant")[0], im("system")),
        Form("Llama 3", header("user"), header("assistant"), header("assistant")[0], header("system")),
        Form("Gemma", turn("user"), turn("model"), turn("model")[0]),
        Form("User and Assistant", ("User: ", "\n"), ("Assistant: ", f"{eos}\n"), "Assistant:", ("", "\n")),
    ]


def rendered(form: Form, messages: list[dict[str, str]]) -> str:
    """A conversation in this form, an answer awaited."""
    parts: dict[str, tuple[str, str]] = {
        "user": form.user,
        "assistant": form.assistant,
        "system": form.system or ("", ""),
    }
    turns = [parts[one["role"]][0] + one["content"] + parts[one["role"]][1] for one in messages]
    return "".join([*turns, form.prompt])


def recognised(tokenizer: Any, begins: bool) -> tuple[Form, str, str] | None:
    """The form of a chat template, what stands before the first turn, and its own system message; None for none.

    Args:
        begins: does the tokenizer put a BOS before whatever it is given, and Ollama with it?
    """
    for form in forms(str(tokenizer.eos_token)):
        asked = [[ASKED], [ASKED, SAID, NEXT], *([[TOLD, ASKED], [TOLD, ASKED, SAID, NEXT]] if form.system else [])]
        try:
            texts = [chat.render(tokenizer, messages, generation_prompt=True) for messages in asked]
        except chat.TemplateError:
            continue
        for start in dict.fromkeys(["", tokenizer.bos_token or ""]):
            own = texts[0].removeprefix(start).removesuffix(rendered(form, [ASKED]))
            heads = [start + (own if messages[0] is ASKED else "") for messages in asked]
            system = _said_by(form, own)
            if system is not None and texts == [
                head + rendered(form, messages) for head, messages in zip(heads, asked, strict=True)
            ]:
                return form, "" if begins else start, system
    return None


def _said_by(form: Form, own: str) -> str | None:
    """The system message that a template writes where none is given; None where it is no turn of the form."""
    before, after = form.system or ("", "")
    if not own:
        return ""
    fits = form.system is not None and own.startswith(before) and own.endswith(after)
    return own[len(before) : len(own) - len(after)] if fits and len(own) > len(before) + len(after) else None


def template(form: Form, start: str) -> str:
    """A form as Ollama's template: Go's language, its messages by role."""

    def said(part: tuple[str, str], what: str) -> str:
        return f"{part[0]}{{{{ {what} }}}}{part[1]}"

    system = f"{{{{ if .System }}}}{said(form.system, '.System')}{{{{ end }}}}" if form.system else ""
    turns = (
        f'{{{{ if eq .Role "user" }}}}{said(form.user, ".Content")}'
        f'{{{{ else if eq .Role "assistant" }}}}{said(form.assistant, ".Content")}{{{{ end }}}}'
    )
    return f"{start}{system}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{form.prompt}"


def write(name: str, tokenizer: Any, stops: list[int], begins: bool, generation_config: Any) -> tuple[str, str]:
    """The Modelfile of the GGUF file `name`, and in words what became of the chat template."""
    lines = [f"FROM ./{screen.plain(name)}"]
    found = recognised(tokenizer, begins)
    form, start, system = found or (None, "", "")
    words = [text for pair in ((form.user, form.assistant, form.system or ("", "")) if form else ()) for text in pair]
    if form is None or any('"""' in text or "{{" in text for text in (*words, start, system)):
        lines += [
            "# The chat template is of no form that could be translated; it stands in the file, in Jinja. Ollama takes",
            "# the nearest of its own templates, if one is near: look with `ollama show --template`.",
        ]
        told = "the chat template is of no form that could be translated for Ollama"
    else:
        lines += [f'TEMPLATE """{template(form, start)}"""', *([f'SYSTEM """{system}"""'] if system else [])]
        told = f"the chat template is {form.name}"
        if form.system is None:
            lines.append("# A system message is not part of this translation.")
            told += ", without its system messages"
    ends = tokenizer.convert_ids_to_tokens(stops)
    lines += [f"PARAMETER stop {quoted(token)}" for token in ends if '"""' not in token]
    return "\n".join([*lines, *_sampling(generation_config)]) + "\n", told


def quoted(token: str) -> str:
    """A token between quotes, as Ollama reads them."""
    return f'"""{screen.plain(token)}"""' if '"' in token or "\n" in token else f'"{screen.plain(token)}"'


def _sampling(generation_config: Any) -> list[str]:
    """What the checkpoint itself recommends; at temperature 1 a model answers as it was trained to."""
    given = {} if generation_config is None else generation_config.to_dict()
    values = {name: given.get(name) for name in SAMPLING if given.get("do_sample") and given.get(name) is not None}
    values = {"temperature": 1.0} | values
    return [f"PARAMETER {OLLAMA.get(name, name)} {value}" for name, value in values.items()]


def of_another(text: str, name: str) -> bool:
    """Is a Modelfile that is there for another file than `name`?"""
    return f"FROM ./{screen.plain(name)}" not in text.splitlines()
