"""Annotators' names: what may be one, and which two are the same."""

from __future__ import annotations

import re
import unicodedata

from align.run.errors import DataError

LONGEST = 80
JOINERS = "\u200c\u200d"  # zero width: the non-joiner of Persian, the joiner of Indic scripts


def checked(name: str) -> str:
    """The name as it is stored: composed, and without outer and doubled blanks.

    Raises:
        DataError: an empty or overlong name, or one with something in it that nobody sees.
    """
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    if not 1 <= len(name) <= LONGEST or not _visible(name):
        raise DataError(f"annotator {name[:LONGEST]!r}: a name has 1 to {LONGEST} printable characters")
    return name


def folded(name: str) -> str:
    """What tells names apart: capitals do not, nor how accents are composed, nor joiners, which are not seen."""
    return unicodedata.normalize("NFC", name).translate(dict.fromkeys(map(ord, JOINERS))).casefold()


def _visible(name: str) -> bool:
    """Is all of it printable? A joiner may stand between two letters, or marks on letters."""
    kinds = "".join(
        "l" if unicodedata.category(one)[0] in "LM" else "j" if one in JOINERS else "p" if one.isprintable() else "x"
        for one in name
    )
    return re.fullmatch(r"(?:[lp]|(?<=l)j(?=l))*", kinds) is not None
