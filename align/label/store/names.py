"""Annotators' names: what may be one, which two are the same, and which two only look it.

Lengths are looked at first: to bring marks into order takes time that grows with the square of their number.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from align.run.errors import DataError

LONGEST = 80
TYPED = 4 * LONGEST  # characters that are read at all: marks to be composed, blanks to be dropped
JOINERS = "\u200c\u200d"  # zero width: the non-joiner of Persian, the joiner of Indic scripts
# What shows nothing by itself: Unicode's Default_Ignorable_Code_Point, and the empty Braille cell
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# Letters of Greek and Cyrillic that are drawn like Latin ones; of https://www.unicode.org/reports/tr39/#Confusable_Detection
# those that names are written with
_DRAWN = {
    "АВЕЅІЈКМНОРСТУХҮԌԚԜ": "ABESIJKMHOPCTYXYGQW", "аеѕіјорсухүһԁԛԝгкмнтвɡ": "aesijopcyxyhdqwrkmhtbg",
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ": "ABEZHIKMNOPTYX", "αγειικνορτυχ": "ayeiikvoptux", "Ӏ|1Il": "lllll", "0": "o",
}  # fmt: skip
DRAWN = {ord(one): other for ours, latin in _DRAWN.items() for one, other in zip(ours, latin, strict=True)}
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")  # those in which letters look alike


def checked(name: str) -> str:
    """The name as it is stored: composed, and without outer and doubled blanks.

    Raises:
        DataError: an empty or overlong name, or one with something in it that nobody sees.
    """
    whole = unicodedata.normalize("NFC", " ".join(name.split())) if len(name) <= TYPED else ""
    if not 1 <= len(whole) <= LONGEST or not _visible(whole) or not folded(whole):
        raise DataError(f"annotator {name[:LONGEST]!r}: a name has 1 to {LONGEST} printable characters")
    return whole


@functools.lru_cache(maxsize=10_000)
def folded(name: str) -> str:
    """What tells names apart: what is seen of them, whatever the capitals, the width, and how accents are composed."""
    if len(name) > TYPED:
        return name  # of a file that somebody else wrote
    seen = unicodedata.normalize("NFKC", UNSEEN.sub("", name)).casefold()
    return " ".join(UNSEEN.sub("", unicodedata.normalize("NFKC", seen)).split())


def alike(names: Sequence[str]) -> list[str]:
    """Sentences about names that a reader may take for one another: drawn alike, or of letters of several scripts."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(one for one in names if len(one) <= TYPED):
        found.setdefault(_drawn(name), []).append(name)
    said = []
    for group in found.values():
        scripts = [_scripts(name) for name in group]
        if len(group) > 1:
            told = [
                f"{name} ({of})" if of and len(set(scripts)) > 1 else name
                for name, of in zip(group, scripts, strict=True)
            ]
            said.append(f"{' and '.join(told)} look alike, and are kept apart.")
        elif "," in scripts[0]:
            said.append(f"{group[0]} has letters of several scripts: {scripts[0]}.")
    return said


def _scripts(name: str) -> str:
    """The scripts of a name's letters, of those in which letters look alike: "Cyrillic, Latin"."""
    found = {unicodedata.name(letter, "").split(" ")[0] for letter in name}
    return ", ".join(sorted(script.capitalize() for script in SCRIPTS if script in found))


def _drawn(name: str) -> str:
    """How a name looks: letters that are drawn alike become one, before capitals are dropped and after."""
    latin = folded(folded(unicodedata.normalize("NFKC", name).translate(DRAWN)).translate(DRAWN))
    return latin.replace("rn", "m").replace("vv", "w")


def _visible(name: str) -> bool:
    """Is all of it printable? A joiner may stand between two letters, or marks on letters."""
    kinds = "".join(
        "l" if unicodedata.category(one)[0] in "LM" else "j" if one in JOINERS else "p" if one.isprintable() else "x"
        for one in name
    )
    return re.fullmatch(r"(?:[lp]|(?<=l)j(?=l))*", kinds) is not None
