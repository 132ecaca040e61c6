"""Why a filter refused a document, in words and in places: what a reviewer and the data card show.

The filters give a bare key. Here the same quantity is computed again, only for documents that were refused, with the
character ranges that it comes from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import POLICY_SUBSTRINGS
from datatrove.utils.text import PUNCTUATION_SET

from align.clean.config import RuleConfig
from align.clean.rules import words as word_split

Spans = tuple[tuple[int, int], ...]
Explained = tuple[str, Spans, float | None]  # detail, spans, score
MOST = 50  # spans that are given at most


def reason(key: str, doc: Document, config: RuleConfig, rule: Any) -> tuple[str, str, Spans, float | None]:
    """A filter's key made clear: our key, the reason in words, the places in the text, the measured number."""
    if not key:
        return ("language", *_language(doc, config, rule))
    name = key if key.startswith(("gopher", "c4", "fineweb")) else _FAMILY.get(_stem(key), "") + key
    explain = _EXPLAIN.get(_stem(key))
    if explain is None:
        return name, key.replace("_", " "), (), None
    detail, spans, score = explain(doc.text, _words(doc.text, config), config)
    number = re.search(r"_(\d+)_", key)
    return name, detail.replace("N-", f"{number[1]}-" if number else ""), spans[:MOST], score


def _stem(key: str) -> str:
    """`duplicated_7_n_grams` and `duplicated_8_n_grams` are explained alike."""
    return re.sub(r"_\d+_", "_N_", key)


def _words(text: str, config: RuleConfig) -> list[str]:
    return word_split.split(text, word_split.tokenizer(config.word_tokenizer, config.languages))


def _found(pattern: str, text: str) -> Spans:
    return tuple(match.span() for match in re.finditer(pattern, text))


def _where(pieces: list[tuple[int, str]], wanted: Callable[[str], bool]) -> Spans:
    """Places of the pieces (start, text) that are wanted."""
    return tuple((start, start + len(piece)) for start, piece in pieces if wanted(piece))


def _lines(text: str, pattern: str = "\n") -> list[tuple[int, str]]:
    pieces, start = [], 0
    for match in re.finditer(pattern, text):
        pieces.append((start, text[start : match.start()]))
        start = match.end()
    return [*pieces, (start, text[start:])]


def _number(value: float) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"


# ----------------------------------------------------------------------------------------------------------- Gopher


def _short(text: str, words: list[str], config: RuleConfig) -> Explained:
    count = sum(any(ch not in PUNCTUATION_SET for ch in word) for word in words)
    return f"{count:,} words; at least {config.min_words:,}", (), count


def _long(text: str, words: list[str], config: RuleConfig) -> Explained:
    return f"{len(words):,} words; at most {config.max_words:,}", (), len(words)


def _word_length(text: str, words: list[str], config: RuleConfig) -> Explained:
    real = [word for word in words if any(ch not in PUNCTUATION_SET for ch in word)] or [""]
    mean = sum(map(len, real)) / len(real)
    low, high = config.min_mean_word_length, config.max_mean_word_length
    spans = _found(r"\S{20,}", text) if high is not None and mean > high else ()
    return f"words of {mean:.1f} characters on average; {low} to {high}", spans, mean


def _hashes(text: str, words: list[str], config: RuleConfig) -> Explained:
    share = text.count("#") / max(1, len(words))
    return f"{_number(share)} # for each word; at most {config.max_symbols}", _found("#+", text), share


def _ellipses(text: str, words: list[str], config: RuleConfig) -> Explained:
    share = (text.count("...") + text.count("…")) / max(1, len(words))
    return f"{_number(share)} ellipses for each word; at most {config.max_symbols}", _found(r"\.\.\.+|…", text), share


def _bullets(text: str, words: list[str], config: RuleConfig) -> Explained:
    lines = _lines(text)
    spans = _where(lines, lambda line: line.lstrip().startswith(("•", "-")))
    share = len(spans) / len(lines)
    return f"{share:.0%} of lines are list items; at most {config.max_bullet_lines:.0%}", spans, share


def _end_ellipses(text: str, words: list[str], config: RuleConfig) -> Explained:
    lines = _lines(text)
    spans = _where(lines, lambda line: line.rstrip().endswith(("...", "…")))
    share = len(spans) / len(lines)
    return f"{share:.0%} of lines end in an ellipsis; at most {config.max_ellipsis_lines:.0%}", spans, share


def _alphabetic(text: str, words: list[str], config: RuleConfig) -> Explained:
    share = sum(any(ch.isalpha() for ch in word) for word in words) / max(1, len(words))
    spans = _found(r"[^\sA-Za-z]*[\d#$%&*+/<=>@^_|~][^\sA-Za-z]*", text)
    return f"{share:.0%} of words have a letter; at least {config.min_alphabetic_words:.0%}", spans, share


def _stop_words(text: str, words: list[str], config: RuleConfig) -> Explained:
    from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS

    count = len(set(STOP_WORDS) & set(words))
    return f"{count} of the words {', '.join(STOP_WORDS)}; at least {config.min_stop_words}", (), count


# ------------------------------------------------------------------------------------------------------- repetition


def _repeated(
    pieces: list[tuple[int, str]], text: str, what: str, share: float | None, characters: float | None
) -> Explained:
    seen: set[str] = set()
    again = []
    for start, piece in pieces:
        if piece in seen:
            again.append((start, start + len(piece)))
        seen.add(piece)
    counted, length = len(again) / len(pieces), sum(b - a for a, b in again) / max(1, len(text))
    detail = f"{counted:.0%} of {what} and {length:.0%} of the text repeat earlier {what}"
    limits = [f"{most:.0%}" for most in (share, characters) if most is not None]
    return f"{detail}; at most {' and '.join(limits)}", tuple(again), length


def _repeated_lines(text: str, words: list[str], config: RuleConfig) -> Explained:
    most = config.max_duplicate_lines, config.max_duplicate_line_characters
    return _repeated(_lines(text, "\n+"), text, "lines", *most)


def _repeated_paragraphs(text: str, words: list[str], config: RuleConfig) -> Explained:
    most = config.max_duplicate_paragraphs, config.max_duplicate_paragraph_characters
    return _repeated(_lines(text.strip(), "\n{2,}"), text, "paragraphs", *most)


def _repeated_line_characters(text: str, words: list[str], config: RuleConfig) -> Explained:
    lines = [(start, line) for start, line in _lines(text) if line.strip()]
    return _repeated(lines, text, "lines", None, config.max_repeated_line_characters)


def _ngrams(text: str, words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _places(text: str, gram: tuple[str, ...]) -> Spans:
    return _found(r"\s*".join(map(re.escape, gram)), text)


def _top_gram(text: str, words: list[str], config: RuleConfig) -> Explained:
    """The n-gram of 2 to 4 words that takes the most of the text."""
    best: tuple[float, tuple[str, ...]] = (0.0, ())
    for n in range(2, 2 + len(config.max_top_ngrams)):
        for gram, count in _ngrams(text, words, n).most_common(1):
            best = max(best, (len(" ".join(gram)) * count / len(text), gram))
    share, gram = best
    limits = ", ".join(f"{most:.0%}" for most in config.max_top_ngrams)
    return (
        f"{share:.0%} of the text is {' '.join(gram)!r}; at most {limits} for 2, 3, 4 words",
        _places(text, gram),
        share,
    )


def _duplicated_grams(text: str, words: list[str], config: RuleConfig) -> Explained:
    """The places of the most frequent repeated 5-grams."""
    repeated = [gram for gram, count in _ngrams(text, words, 5).most_common(10) if count > 1]
    spans = tuple(sorted({span for gram in repeated for span in _places(text, gram)[1:]}))
    return "too much of the text is in repeated runs of N-word length", spans, None


# ---------------------------------------------------------------------------------------------------- FineWeb and C4


def _punctuated(text: str, words: list[str], config: RuleConfig) -> Explained:
    from datatrove.utils.text import TERMINAL_PUNCTUATION

    lines = [(start, line) for start, line in _lines(text) if line.strip()]
    spans = _where(lines, lambda line: not line.endswith(tuple(TERMINAL_PUNCTUATION)))
    share = 1 - len(spans) / max(1, len(lines))
    return f"{share:.0%} of lines end in an end mark; at least {config.min_punctuated_lines:.0%}", spans, share


def _short_lines(text: str, words: list[str], config: RuleConfig) -> Explained:
    lines = [(start, line) for start, line in _lines(text) if line.strip()]
    spans = _where(lines, lambda line: len(line) <= config.short_line)
    share = len(spans) / max(1, len(lines))
    detail = f"{share:.0%} of lines have at most {config.short_line} characters; at most {config.max_short_lines:.0%}"
    return detail, spans, share


def _newlines(text: str, words: list[str], config: RuleConfig) -> Explained:
    share = text.count("\n") / max(1, len(words))
    return f"{_number(share)} line breaks for each word; at most {config.max_newlines}", (), share


def _sentences(text: str, words: list[str], config: RuleConfig) -> Explained:
    from datatrove.utils.text import split_into_sentences

    language = word_split.tokenizer(config.word_tokenizer, config.languages)
    count = sum(len(split_into_sentences(line.strip(), language)) for line in text.splitlines() if line.strip())
    return f"{count} sentences; at least {config.min_sentences}", (), count


def _lorem(text: str, words: list[str], config: RuleConfig) -> Explained:
    return "placeholder text", _found("(?i)lorem ipsum", text), None


def _curly(text: str, words: list[str], config: RuleConfig) -> Explained:
    return "a curly bracket: code, not text", _found(r"[{}]", text), None


def _language(doc: Document, config: RuleConfig, rule: Any) -> Explained:
    copy = Document(doc.text, doc.id)
    rule.filter(copy)
    found, score = copy.metadata["language"], float(copy.metadata["language_score"])
    wanted = " or ".join(config.languages)
    return f"most like {found} ({score:.2f}); {wanted} with more than {config.min_language_score}", (), score


def removed_line(line: str, config: RuleConfig) -> str:
    """Which of C4's rules for lines took this one."""
    low = line.lower()
    if any(len(word) > 1000 for word in line.split()):
        return "long_word_lines"
    if config.remove_javascript_lines and "javascript" in low:
        return "javascript_lines"
    if config.remove_policy_lines and any(phrase in low for phrase in POLICY_SUBSTRINGS):
        return "policy_lines"
    return "unpunctuated_or_short_lines"


_FAMILY = {
    "dup_para_frac": "gopher_", "dup_para_char_frac": "gopher_", "dup_line_frac": "gopher_",
    "dup_line_char_frac": "gopher_", "top_N_gram": "gopher_", "duplicated_N_n_grams": "gopher_",
    "line_punct_ratio": "fineweb_", "short_line_ratio": "fineweb_", "char_dup_ratio": "fineweb_",
    "list_ratio": "fineweb_", "too_few_sentences": "c4_", "lorem_ipsum": "c4_", "curly_bracket": "c4_",
}  # fmt: skip
_EXPLAIN: dict[str, Callable[[str, list[str], RuleConfig], Explained]] = {
    "gopher_short_doc": _short, "gopher_long_doc": _long, "gopher_below_avg_threshold": _word_length,
    "gopher_above_avg_threshold": _word_length, "gopher_too_many_hashes": _hashes,
    "gopher_too_many_ellipsis": _ellipses, "gopher_too_many_bullets": _bullets,
    "gopher_too_many_end_ellipsis": _end_ellipses, "gopher_below_alpha_threshold": _alphabetic,
    "gopher_enough_stop_words": _stop_words, "dup_para_frac": _repeated_paragraphs,
    "dup_para_char_frac": _repeated_paragraphs, "dup_line_frac": _repeated_lines,
    "dup_line_char_frac": _repeated_lines, "top_N_gram": _top_gram, "duplicated_N_n_grams": _duplicated_grams,
    "line_punct_ratio": _punctuated, "short_line_ratio": _short_lines, "char_dup_ratio": _repeated_line_characters,
    "list_ratio": _newlines, "too_few_sentences": _sentences, "lorem_ipsum": _lorem, "curly_bracket": _curly,
}  # fmt: skip
