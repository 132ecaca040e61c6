"""Sentences of reviews as demonstrations, and their openings as prompts."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from align.data.overlap import ngrams

TAGS = re.compile(r"<[^>]*>")
BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
WHOLE = re.compile(r"[A-Z][^<>{}|*_=~]*[a-z)\"'][.!?]")  # a sentence: no heading, no fragment, nothing drawn with marks
LEAST, MOST = 2, 8  # tokens of an opening (Rafailov et al. 2023, section 6)


def cut(review: str) -> list[str]:
    """The sentences of a review, without tags and line breaks."""
    text = " ".join(TAGS.sub(" ", review).split())
    return [found for found in BREAK.split(text) if WHOLE.fullmatch(found)]


def opened(sentence: str, ends: list[int], rng: random.Random) -> tuple[str, str]:
    """A sentence as an opening of 2 to 8 tokens, ended where a word ends, and what follows it.

    Args:
        ends: where each token of the sentence ends, in characters.
    """
    at = ends[min(rng.randint(LEAST, MOST), len(ends) - 1) - 1]
    at += len(re.match(r"\S*", sentence[at:])[0])  # type: ignore[index]
    return sentence[:at], sentence[at:]


def opening_key(prompt: str) -> tuple[str, ...]:
    """What two openings have in common that are no two: their words (`It is` and `It -is-` are one)."""
    return tuple(ngrams.words(prompt))


def demonstrations(
    reviews: Iterable[str], tokenizer: Any, rng: random.Random, longest: int
) -> Iterator[dict[str, str]]:
    """`prompt` and `completion` of every sentence whose rest has 4 to `longest` - 1 tokens, one opening once."""
    seen = set()
    for review in reviews:
        for sentence in cut(review):
            offsets = tokenizer(sentence, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
            if len(offsets) < MOST:
                continue
            prompt, rest = opened(sentence, [end for _, end in offsets], rng)
            size = sum(1 for begin, _ in offsets if begin >= len(prompt))
            if 4 <= size < longest and (key := opening_key(prompt)) not in seen:
                seen.add(key)
                yield {"prompt": prompt, "completion": rest}


SUBJECTS = """This film|The film|This movie|The whole movie|The plot|The story|The acting|The lead actor
The leading lady|The supporting cast|The direction|The director's work|The script|The dialogue|The music|The soundtrack
The photography|The cast
The ending|The first half|The second half|The final scene|The opening scene|Every scene|The humour|The romance
The villain|The pace|The editing|The set design|The costumes|The idea behind it|The remake|The sequel|The original
The book it comes from|The performance of the child|The chemistry between the two|What happens next|The twist
The camera work""".replace("\n", "|").split("|")
VERBS = ["is", "was", "seems", "felt", "turned out to be", "remains", "I thought, was", "to my mind is"]
LIKED = """a joy from start to finish|warm, funny and beautifully made|the best thing I have seen this year
moving without ever being sweet|clever and full of surprises|a delight for the whole family|nothing short of brilliant
honest, brave and well told|so good that I watched it twice|charming in its own quiet way|a wonderful surprise
gripping until the very last minute|a great success with everybody I know""".replace("\n", "|").split("|")
DISLIKED = """dull from start to finish|flat, noisy and badly made|the worst thing I have seen this year
a waste of a good idea|predictable and far too long|an insult to anybody who can think|nothing short of awful
lazy, cold and poorly told|so bad that I left early|annoying in every way|a terrible disappointment
boring until the very last minute|a failure that nobody should pay for""".replace("\n", "|").split("|")


def our_own(rng: random.Random) -> list[dict[str, Any]]:
    """Demonstrations without any review: sentences made of parts, as many that like a film (`label` 1) as do not."""
    made: list[dict[str, Any]] = []
    for subject in SUBJECTS:
        for verb in VERBS:
            for label, ends in ((1, LIKED), (0, DISLIKED)):
                opening = f"{subject} {verb}"
                made += [{"prompt": opening, "completion": f" {end}.", "label": label} for end in rng.sample(ends, 3)]
    rng.shuffle(made)
    return made
