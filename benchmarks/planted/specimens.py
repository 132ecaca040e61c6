"""Specimens of what cleaning should find: junk, boilerplate, personal data, unwanted pages, broken encodings.

Each maker gives a text and the facts about it: `gone`, what must not be left in the text, `stays`, look-alikes that
must be. Addresses, numbers and accounts are made up: their checksums hold, their owners do not exist.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from planted import prose

Fact = dict[str, Any]
# Per language: articles, adjectives, nouns, verbs, prepositions, adverbs. Rough grammar; the words are what counts.
FOREIGN = {
    "de": (
        "Der Die Das Ein Eine", "alte neue kleine große schöne lange stille rote",
        "Brücke Mühle Straße Werkstatt Küche Lampe Glocke Schule Kirche Wiese Stadt Geschichte",
        "wurde ist war bleibt stand lag", "neben hinter vor unter zwischen bei",
        "gestern langsam nicht wieder oft schon niemals",
    ),
    "fr": (
        "Le La Les Une Cette", "petite vieille grande belle nouvelle longue",
        "maison rivière fenêtre école église montagne lampe cuisine horloge histoire forêt",
        "était est reste semblait devient", "près derrière devant sous entre chez",
        "toujours souvent jamais lentement encore hier",
    ),
    "es": (
        "El La Los Una Esta", "pequeña vieja grande hermosa nueva larga",
        "casa ventana iglesia escuela montaña lámpara cocina historia ciudad carretera",
        "era es estaba queda parece", "cerca detrás delante debajo entre sobre",
        "siempre nunca despacio todavía ayer muchas",
    ),
}  # fmt: skip
LOREM = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "do",
    "eiusmod",
    "tempor",
]
POLICY = (
    "We use cookies to improve your visit. By browsing on you agree to our cookie policy.",
    "Read our privacy policy and the terms of use of this site.",
    "Please enable Javascript in your browser to see this page.",
)


def _foreign(rng: random.Random) -> tuple[str, Fact]:
    language = rng.choice(sorted(FOREIGN))
    pools = [part.split() for part in FOREIGN[language]]

    def sentence() -> str:
        article, adjective, noun, verb, near, when = (rng.choice(pool) for pool in pools)
        other = f"{rng.choice(pools[0]).lower()} {rng.choice(pools[1])} {rng.choice(pools[2])}"
        return f"{article} {adjective} {noun} {verb} {when} {near} {other}."

    lines = [" ".join(sentence() for _ in range(4)) for _ in range(rng.randint(4, 8))]
    return "\n".join(lines), {"language": language}


def _symbols(rng: random.Random) -> tuple[str, Fact]:
    words = [rng.choice(prose.NOUNS) + rng.choice((" #", " ###", " ...", "")) for _ in range(rng.randint(80, 200))]
    return " ".join(words), {}


def _repetition(rng: random.Random) -> tuple[str, Fact]:
    few = prose.sentences(rng, 3)
    return "\n".join(rng.choice(few) for _ in range(rng.randint(15, 40))), {}


def _placeholder(rng: random.Random) -> tuple[str, Fact]:
    found = [" ".join(rng.choices(LOREM, k=rng.randint(8, 14))).capitalize() + "." for _ in range(rng.randint(6, 15))]
    return "\n".join(["Lorem ipsum dolor sit amet.", *found]), {}


def _short(rng: random.Random) -> tuple[str, Fact]:
    return " ".join(prose.sentences(rng, rng.randint(1, 3))), {}


def within(rng: random.Random, added: list[str], *, alone: bool = False) -> str:
    """A document with sentences put in at random places, each in a line of its own where `alone`."""
    parts = prose.paragraphs(rng, rng.randint(14, 40))
    for sentence in added:
        if alone:
            parts.insert(rng.randint(0, len(parts)), [sentence])
        else:
            part = rng.choice(parts)
            part.insert(rng.randint(0, len(part)), sentence)
    return prose.join(parts)


def _boilerplate(rng: random.Random) -> tuple[str, Fact]:
    lines = rng.sample(POLICY, rng.randint(1, 3))
    return within(rng, lines, alone=True), {"gone": lines}


def luhn(digits: str) -> str:
    """The digits with the one appended that makes Luhn's sum a multiple of ten (ISO/IEC 7812)."""
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def iban(country: str, account: str) -> str:
    """An IBAN with its two check digits (ISO 13616, modulo 97)."""
    number = "".join(str(int(c, 36)) for c in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02d}{account}"


def _personal(rng: random.Random) -> tuple[str, Fact]:
    def digits(count: int) -> str:
        return "".join(rng.choices("0123456789", k=count))

    first, last = rng.choice(prose.NAMES).lower().split()
    town = rng.choice(prose.PLACES).lower()
    card = luhn("4" + digits(14))
    ip = ".".join(["81", *(str(rng.randint(1, 250)) for _ in range(3))])
    ssn = f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"
    cards = " ".join(card[i : i + 4] for i in range(0, 16, 4))
    gone = [
        (f"Letters reach us at {first}.{last}@{town}-museum.org every day.", f"{first}.{last}@{town}-museum.org"),
        (f"Call (212) 555-01{(two := digits(2))} before noon.", f"(212) 555-01{two}"),
        (f"From abroad the number is +44 20 7946 0{(three := digits(3))} instead.", f"+44 20 7946 0{three}"),
        (f"The server answered from {ip} at night.", ip),
        (f"The card {cards} was charged twice.", cards),
        (f"Gifts go to {(account := iban('DE', digits(18)))} in spring.", account),
        (f"His SSN {ssn} stood on the form.", ssn),
    ]  # fmt: skip
    stays = [
        (
            f"The printer is at 192.168.{(a := rng.randint(0, 9))}.{(b := rng.randint(1, 250))} in the hall.",
            f"192.168.{a}.{b}",
        ),
        (f"The catalogue has the ISBN 0-306-{(five := digits(5))}-{(one := digits(1))} inside.", f"0-306-{five}-{one}"),
        (f"They ran version 2.{(n := rng.randint(1, 40))}.7.1 then.", f"2.{n}.7.1"),
        (f"It sold for {(price := f'1,2{digits(2)}.00')} pounds in 1914-1918 money.", price),
    ]
    hidden, left = rng.sample(gone, rng.randint(1, 3)), rng.sample(stays, rng.randint(1, 2))
    text = within(rng, [sentence for sentence, _ in hidden + left])
    return text, {"gone": [what for _, what in hidden], "stays": [what for _, what in left]}


def _unwanted(rng: random.Random) -> tuple[str, Fact]:
    return within(rng, 5 * ["Watch free porn and sex videos online, new ones every day."]), {}


def _excused(rng: random.Random) -> tuple[str, Fact]:
    return within(rng, ["The clinic published a study on pornography, health education and addiction in schools."]), {}


def _mojibake(rng: random.Random) -> tuple[str, Fact]:
    said = [
        f"The caf\u00e9 isn\u2019t far, said {rng.choice(prose.NAMES)}.",
        "Na\u00efve visitors paid \u00a35 for cr\u00e8me br\u00fbl\u00e9e.",
    ]
    text = within(rng, said).encode("utf-8").decode("cp1252")
    return text, {"gone": ["\u00c3", "\u00e2\u20ac"], "stays": ["caf\u00e9", "br\u00fbl\u00e9e"]}


def _cp1252(rng: random.Random) -> tuple[str, Fact]:
    return within(rng, ["The caf\u00e9 charged \u00a35 for cr\u00e8me br\u00fbl\u00e9e."]), {
        "stays": ["caf\u00e9", "\u00a35", "br\u00fbl\u00e9e"]
    }


MAKERS: dict[str, Callable[[random.Random], tuple[str, Fact]]] = {
    "symbols": _symbols, "repetition": _repetition, "placeholder": _placeholder, "short": _short, "foreign": _foreign,
    "boilerplate": _boilerplate, "personal": _personal, "unwanted": _unwanted, "excused": _excused,
    "mojibake": _mojibake, "cp1252": _cp1252,
}  # fmt: skip
