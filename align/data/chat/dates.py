"""Templates that read today's date (Llama 3.2, gpt-oss, Granite, SmolLM3): the date is made part of the template.

Else the same rows would have other tokens tomorrow, with the same fingerprint, and a model other prompts than it was
trained on.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from align.data.chat.templates import TemplateError

READS = "strftime_now"  # the function by which templates ask for the date; transformers gives it to them
DIRECTIVES = "aAbBdeHIjmMpSyYFDx"  # of strftime, all but the time zone's
_PINNED = re.compile(r"\{#- template_date (\d{4}-\d\d-\d\d) -#\}")


def pinned(tokenizer: Any) -> str | None:
    """The date (YYYY-MM-DD) that a tokenizer's template was given; None where it reads none."""
    match = _PINNED.match(_text(tokenizer.chat_template))
    return match[1] if match else None


def pinned_in(folder: str) -> str | None:
    """The same of a saved checkpoint."""
    file = Path(folder) / "chat_template.jinja"
    match = _PINNED.match(file.read_text()) if file.is_file() else None
    return match[1] if match else None


def pin(tokenizer: Any, date: str | None) -> bool:
    """Fix the date of a template that reads it, today's by default. One that is fixed stays so, a parent's say.

    Returns:
        Whether a date was set now.

    Raises:
        TemplateError: for a date that is none, or one that differs from the date that the template has already.
    """
    if date is not None:
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            raise TemplateError(f"template_date={date!r} is no date; write it like 2026-11-27") from None
    known = pinned(tokenizer)
    if known is not None:
        if date not in (None, known):
            raise TemplateError(
                f"its chat template holds the date {known}, which training saw; template_date={date} would make other "
                "prompts of the same rows. Leave template_date out, or start from a model whose date is not set"
            )
        return False
    if READS not in _text(tokenizer.chat_template):
        return False
    head = _macro(datetime.date.fromisoformat(date) if date else datetime.date.today())
    given = tokenizer.chat_template
    tokenizer.chat_template = (
        {name: head + text for name, text in given.items()} if isinstance(given, dict) else head + given
    )
    return True


def _text(template: Any) -> str:
    """A template's text; of a tokenizer with several (one for tools, say), all of them."""
    return "".join(template.values()) if isinstance(template, dict) else template or ""


def _macro(date: datetime.date) -> str:
    """A macro of the function's name, which hides it, and prints the date in whatever format is asked for."""
    day = datetime.datetime(date.year, date.month, date.day)
    plain = {f"%-{c}": str(n) for c, n in (("d", day.day), ("m", day.month))}
    known = plain | {f"%{c}": day.strftime(f"%{c}") for c in DIRECTIVES}
    replaced = "".join(f" | replace({key!r}, {value!r})" for key, value in known.items())
    # The newline after the block is taken away by how templates are read
    return (
        f"{{#- template_date {date.isoformat()} -#}}"
        f"{{%- macro {READS}(format) -%}}{{{{- format{replaced} -}}}}{{%- endmacro %}}\n"
    )
