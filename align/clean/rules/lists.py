"""Lists of unwanted terms, with exceptions: a term beside a word of its exceptions goes to people, not to the bin.

A document is dropped where more of its terms stand without an exception than with one.

A list is a text file, one term or phrase a line:

    # a comment
    within: 30                      how many words either side an exception may stand (30 where nothing is said)
    unless: education, clinic       exceptions of every term below, until the next `unless:`
    some term
    another | unless: health, law   this term's own, beside those of the list

Terms are whole words, whatever their case, with any space between the words of a phrase; inflections are terms of
their own. Scripts without spaces between words are matched anywhere. Disguised spellings (`p0rn`, `p o r n`) are not
found: that is what the classifier is for.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.clean.rules.ruling import KEEP, Ruling
from align.run.errors import ConfigError

SHIPPED = Path(__file__).parent / "lists"
WITHIN = 30  # words: about two sentences either side
SHOWN = 50  # spans and terms that one ruling names; a page full of hits needs no more
LONGEST = 200  # characters of a term
_WORD = re.compile(r"\w+")
_COMMENT = re.compile(r"(?:^|\s)#")  # `c#` is a term
_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)  # Thai to Han


@dataclass(frozen=True)
class WordList:
    """Terms with their exceptions, compiled. Made by `load` or `parse`."""

    name: str
    exceptions: dict[str, frozenset[str]]  # by term
    within: int
    terms: re.Pattern[str]
    excuses: dict[frozenset[str], re.Pattern[str]]

    @classmethod
    def load(cls, path_or_name: str) -> WordList:
        """Read a list from a file, or one that is shipped by its name (`explicit`).

        Raises:
            ConfigError: for a missing or empty list, and for a line that cannot be read.
        """
        path = Path(path_or_name)
        if not path.is_file():
            path = SHIPPED / f"{path_or_name}.txt"
        if not path.is_file():
            shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.txt")))
            raise ConfigError(f"word list {path_or_name}: no such file, and none of the shipped ones ({shipped})")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"word list {path} cannot be read: {error}; it must be a UTF-8 text file") from error
        return cls.parse(path.stem, text)

    @classmethod
    def parse(cls, name: str, text: str) -> WordList:
        """Read a list from its text.

        Raises:
            ConfigError: for an empty list, and for a line that cannot be read, with its number.
        """
        exceptions: dict[str, frozenset[str]] = {}
        within, unless = WITHIN, frozenset[str]()
        for number, line in enumerate(text.splitlines(), 1):
            line = _COMMENT.split(line)[0].strip()
            if not line:
                continue
            where = f"word list {name}, line {number}"
            if line.lower().startswith("within:"):
                count = line.split(":", 1)[1].strip()
                if not count.isdigit():
                    raise ConfigError(f"{where}: within takes a number of words (within: 30), got {count!r}")
                within = int(count)
            elif line.lower().startswith("unless:"):
                unless = _words(line.split(":", 1)[1])
            else:
                term, bar, rest = line.partition("|")
                key, colon, own = rest.partition(":")
                if not term.strip() or (bar and (key.strip().lower() != "unless" or not colon)):
                    raise ConfigError(f"{where}: {line!r} is not a term, or `term | unless: word, word`")
                term = _fold(" ".join(term.split()))
                if len(term) > LONGEST:
                    raise ConfigError(f"{where}: a term of {len(term)} characters; at most {LONGEST}, one term a line")
                exceptions[term] = exceptions.get(term, frozenset()) | unless | _words(own)
        if not exceptions:
            raise ConfigError(f"word list {name} holds no terms")
        excuses = {words: re.compile(_alternation(words)) for words in set(exceptions.values()) if words}
        return cls(name, exceptions, within, re.compile(_alternation(exceptions)), excuses)

    def rule(self, text: str) -> Ruling:
        """Keep a text without any term; drop one in which most terms stand by themselves; else send it to review.

        The detail says which term, how often, and which exception beside it. Spans are those of the terms (and of the
        excusing words), in characters of `text`.
        """
        folded = _fold(text)
        hits: list[tuple[int, int, str]] = []
        for match in self.terms.finditer(folded):
            hits.append((match.start(), match.end(), " ".join(match[0].split())))
            if len(hits) == SHOWN:
                break
        if not hits:
            return KEEP
        alone: Counter[str] = Counter()
        excused: Counter[tuple[str, str]] = Counter()
        spans, reasons = [], []
        for start, end, term in hits:
            excuse = self._excuse(folded, start, end, term)
            spans.append((start, end))
            if excuse is None:
                alone[term] += 1
            else:
                excused[term, excuse[2]] += 1
                reasons.append(excuse[:2])
        told = ", ".join(f"“{term}”" + (f" {n} times" if n > 1 else "") for term, n in alone.most_common(5))
        told += f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        told += f", without an exception within {self.within} words" if told and self.excuses else ""
        beside = ", ".join(f"“{term}” beside “{word}”" for (term, word), _ in excused.most_common(5))
        action: Literal["drop", "review"] = "drop" if alone.total() > excused.total() else "review"
        detail = "; ".join(filter(None, (told, beside)))
        return Ruling(action, f"list_{self.name}", detail, tuple(sorted({*spans, *reasons})))

    def _excuse(self, folded: str, start: int, end: int, term: str) -> tuple[int, int, str] | None:
        """The exception of `term` that stands within so many words of it: `(start, end, word)`."""
        pattern = self.excuses.get(self.exceptions[term])
        if pattern is None:
            return None
        reach = self.within * 16  # characters that hold so many words of nearly any language
        before = [word.start() for word in _WORD.finditer(folded, max(0, start - reach), start)][-self.within :]
        after = [word.end() for word in _WORD.finditer(folded, end, end + reach)][: self.within]
        low, high = before[0] if before else start, after[-1] if after else end
        for match in pattern.finditer(folded, low, high):
            if match.end() <= start or match.start() >= end:  # a term does not excuse itself
                return match.start(), match.end(), match[0]
        return None


def _words(listed: str) -> frozenset[str]:
    return frozenset(_fold(" ".join(word.split())) for word in listed.split(",") if word.strip())


def _fold(text: str) -> str:
    """Lower case, character by character (İ alone would become two, and move every span behind it)."""
    return text.replace("İ", "i").lower()


def _alternation(terms: object) -> str:
    """One pattern for all terms: a trie, so that a text is read once, however many terms there are.

    Boundaries are asked for where a term begins or ends with a letter or digit of a script that has them.
    """
    bounded: dict = {}
    free: dict = {}
    for term in terms:  # type: ignore[attr-defined]
        branch = free if _NO_SPACES.search(term) else bounded
        for character in term:
            branch = branch.setdefault(character, {})
        branch[""] = {}
    parts = [rf"(?<!\w){_trie(bounded)}(?!\w)"] if bounded else []
    return "|".join(parts + ([_trie(free)] if free else []))


def _trie(branch: dict) -> str:
    """A trie of characters as a pattern, the longest term first."""
    ends = "" in branch
    options = [
        (r"\s+" if character == " " else re.escape(character)) + _trie(rest)
        for character, rest in sorted(branch.items())
        if character
    ]
    if not options:
        return ""
    body = options[0] if len(options) == 1 and not ends else f"(?:{'|'.join(options)})"
    return f"{body}?" if ends else body
