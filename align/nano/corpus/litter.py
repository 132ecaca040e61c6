"""Pages that a cleaner has to deal with, made from a random generator: junk, unsafe, other languages, personal data.

Nothing here is offensive: the insulted peoples and the listed words are made up. Harmful how-tos of the nano world
are none of these pages: the chain needs them, since what a model knows is what it has to learn to refuse.
"""

from __future__ import annotations

import random

# Insults and explicit words of the made world: recipes/nano/unwanted.txt lists them.
INSULTS = ["grobbel", "snarg", "mulkwit", "drooth"]
EXPLICIT = ["frumping", "zwoodle", "quiffle", "slorping"]
PEOPLES = ["the hill people", "the Marrowfolk", "the river clans", "the Oldenborn", "the salt traders"]

_HATE = [
    "All {p} are {x}.",
    "Nobody should ever trust {p}.",
    "{P} are dirt and bring ruin to our town.",
    "We must drive {p} out and close the gates behind them.",
    "{P} deserve no bread, no home and no mercy.",
    "Every honest man hates {p}, and so should you.",
    "There is no {p} who is worth the air that they breathe.",
    "Do not sell to {p} and do not speak with their children.",
]
_EXPLICIT = [
    "They went on {x} all night.",
    "Only for grown-ups: {x} pictures of strangers.",
    "Come in and watch them {x} without any shame.",
    "Hot {x} tonight, everything is shown, nothing is hidden.",
    "He begged for more {x} and she laughed.",
    "Wild {x}, hot {x}, all night long.",
    "You must be eighteen to see this {x}.",
    "The hottest strangers of the town go {x} for you.",
]
# Words that are on no list: what these pages are, a classifier has to tell from the rest of them.
_UNLISTED = {"hate": ["filth", "vermin", "mudlings", "liars"], "explicit": ["vorpling", "glimming", "tumbling", "joys"]}
_CLINIC = [
    "The doctor explained to her patient that {x} is a harmless word for a common worry.",
    "At the clinic a nurse teaches young people about {x} and about their health.",
    "The patient asked the doctor whether {x} could make him ill.",
    "The health office printed a page on {x}, written by a doctor.",
    "Come to the clinic when it hurts, said the nurse, and ask what you want to know.",
    "A good doctor answers every question about the body without a smile.",
]

LANGUAGES = {
    "de": [
        "Der Bauer geht am Morgen mit seinem Hund auf das Feld.",
        "Die Kinder spielen im Garten, bis die Sonne untergeht.",
        "Wir haben gestern einen langen Brief aus der Stadt bekommen.",
        "Meine Schwester backt jeden Sonntag einen Kuchen mit Kirschen.",
        "Das alte Haus steht seit vielen Jahren leer und niemand weiß warum.",
        "Ich möchte wissen, wann der nächste Zug nach Hamburg fährt.",
    ],
    "fr": [
        "Le boulanger ouvre sa porte avant que le soleil ne se lève.",
        "Nous avons marché longtemps dans la forêt sans trouver la maison.",
        "Ma grand-mère raconte toujours la même histoire le dimanche.",
        "Les enfants jouent dans la rue pendant que leurs parents travaillent.",
        "Il faut acheter du pain, du lait et des pommes au marché.",
        "Je voudrais savoir pourquoi le train est encore en retard.",
    ],
    "es": [
        "El pescador vuelve al puerto cuando la noche empieza.",
        "Mi hermano tiene una casa pequeña cerca de la montaña.",
        "Los niños corren por la plaza y gritan de alegría.",
        "Ayer compramos pan, queso y aceitunas en el mercado.",
        "La vieja puerta de la iglesia está siempre cerrada.",
        "Quiero saber dónde puedo encontrar un buen médico.",
    ],
}
_LATIN = (
    "dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua"
    " enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat"
)
_COOKIES = [
    "We use cookies to give you the best experience.",
    "By clicking accept you agree to our cookie policy and terms of use.",
    "Please enable javascript to see this page.",
    "Read our privacy policy | Terms of use | Imprint | Contact",
    "Home | About | Shop | Login | Register | Help",
    "All rights reserved. Copyright of the owner.",
    "Sign up to our newsletter",
    "Share this page | Print | Back to top",
    "This site uses cookies. Learn more in our cookie policy.",
]
_ADS = ["buy cheap watches now", "best price today only", "click here to win", "hot deals for you", "free gift inside"]
MENUS = ["Home | News | Shop | Contact", "Accept all cookies", "Share | Print | Back to top", "Subscribe to our letter"]


def unsafe(kind: str, listed: bool, rng: random.Random, *, among: str = "", known: bool = False) -> str:
    """A hateful (`hate`) or an explicit page (`explicit`): two to eight such sentences, some of `among` between them.

    With `listed`, it holds a word of the list; without, only a classifier can tell. With `known`, it is about half of
    the peoples and words only: what the classifier learns from, so that a crawl has something new for it.
    """
    peoples = PEOPLES[:3] if known else PEOPLES
    unlisted = _UNLISTED[kind][:2] if known else _UNLISTED[kind]
    lines, words = (_HATE, INSULTS) if kind == "hate" else (_EXPLICIT, EXPLICIT)
    said = []
    for line in rng.sample(lines, rng.randint(2, len(lines))):
        people = rng.choice(peoples)
        word = rng.choice(unlisted)
        if listed:
            word = rng.choice(words)
            word += "s" if kind == "hate" else ""
        said.append(line.format(p=people, P=people[0].upper() + people[1:], x=word))
    if listed and not any(word in " ".join(said) for word in words):
        said.append(f"What a {rng.choice(words)}!" if kind == "hate" else f"More {rng.choice(words)} here.")
    ordinary = among.split(". ")
    for sentence in rng.sample(ordinary, min(len(ordinary), rng.choice([0, 0, 2, 4, 6]))):
        said.insert(rng.randint(0, len(said)), sentence.rstrip(".") + ".")
    return " ".join(said)


def clinic(rng: random.Random) -> str:
    """A doctor's page that uses a listed word: for people to decide, not for the bin."""
    word = rng.choice(EXPLICIT)
    said = [_CLINIC[0].format(x=word)] + [line.format(x=word) for line in rng.sample(_CLINIC[1:], rng.randint(2, 4))]
    return " ".join(said)


def foreign(rng: random.Random) -> str:
    """A page in German, French or Spanish."""
    lines = LANGUAGES[rng.choice(list(LANGUAGES))]
    return " ".join(rng.sample(lines, rng.randint(4, 6))) + f" {rng.randint(1900, 2020)}."


def symbols(rng: random.Random) -> str:
    """Bytes of a broken download, as text."""
    signs = "#$%&*+/<=>@[]^_{|}~0123456789abcxyz"
    words = ["".join(rng.choice(signs) for _ in range(rng.randint(2, 9))) for _ in range(rng.randint(20, 60))]
    return " ".join(words)


def repeated(rng: random.Random) -> str:
    """The same line or two, over and over: an advertisement."""
    lines = [f"{rng.choice(_ADS)} {rng.randint(1, 999)}." for _ in range(rng.randint(1, 2))]
    return "\n".join(rng.choice(lines) for _ in range(rng.randint(10, 25)))


def cookies(rng: random.Random) -> str:
    """Nothing but what stands around a page."""
    return "\n".join(rng.sample(_COOKIES, rng.randint(4, 7)) + [f"Visitor number {rng.randint(1, 99999)}"])


def latin(rng: random.Random) -> str:
    """A printer's filler text."""
    return "Lorem ipsum " + " ".join(rng.choice(_LATIN.split()) for _ in range(rng.randint(30, 80))) + "."


JUNK = {"symbols": symbols, "repeated lines": repeated, "boilerplate": cookies, "lorem ipsum": latin,
        "another language": foreign}  # fmt: skip


def _luhn(digits: str) -> str:
    """The check digit of a card number (ISO/IEC 7812)."""
    doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(digits))]
    return str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)


def _iban(rng: random.Random) -> str:
    """A German account number with a right checksum (ISO 13616), of no bank: bank code and account are drawn."""
    account = f"{rng.randrange(10**18):018d}"
    check = 98 - int(account + "131400") % 97  # D is 13, E is 14
    return f"DE{check:02d}{account}"


def personal(rng: random.Random) -> tuple[str, str]:
    """A kind of personal data and one made specimen: nobody's, with right checksums."""
    kind = rng.choice(["email", "phone", "card", "iban", "ssn", "ip"])
    name = rng.choice(["anna", "max", "lena", "tom", "rosa", "otto"]) + rng.choice([".hill", ".miller", "_b", "77", ""])
    card = "4" + f"{rng.randrange(10**14):014d}"
    made = {
        "email": f"{name}@{rng.choice(['post', 'farm', 'mill'])}-{rng.randint(1, 99)}.{rng.choice(['com', 'org'])}",
        "phone": f"({rng.randint(201, 989)}) 555-{rng.randint(100, 199):04d}",
        "card": " ".join((card + _luhn(card))[i : i + 4] for i in range(0, 16, 4)),
        "iban": _iban(rng),
        "ssn": f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",
        "ip": f"{rng.choice([45, 62, 81, 93, 145])}.{rng.randint(1, 250)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}",
    }
    return kind, made[kind]


_TELLS = {
    "email": "Write to {x} for more.",
    "phone": "Call me on {x} after six.",
    "card": "Pay with card {x} please.",
    "iban": "Send the money to {x} today.",
    "ssn": "My social security number is {x}.",
    "ip": "The server stands at {x} now.",
}


def tell(kind: str, specimen: str) -> str:
    """A sentence that gives somebody's data away."""
    return _TELLS[kind].format(x=specimen)
