"""The raw corpus of the nano world: its documents as a crawl would find them, with what a cleaner has to deal with.

The documents are those of `align.nano.world`, every one of them. Some come with personal data, with a site's lines
around them or in a broken encoding; beside them stand copies, near copies, junk, unsafe pages and pages that give an
examination away. What was put in is in `raw-truth.jsonl`, a row a page, and never in the corpus.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.nano import world
from align.nano.corpus import litter

# Pages put in for 32,000 documents, in thousandths of the documents: about a fifth of what the crawl found.
SHARES = {"personal": 32, "menu": 16, "mojibake": 16, "cp1252": 12, "exact copy": 48, "near copy": 5, "look-alike": 2,
          "junk": 64, "unsafe": 24, "exception": 2, "exam": 12}  # fmt: skip
VARIANTS = 3  # near copies of each long page
NEAR = 0.8  # least Jaccard similarity of a near copy with its page, in words' 5-grams
ALIKE = (0.3, 0.6)  # similarity of a look-alike, which is another page and is to be kept
ABROAD = ["Zoë", "René", "Jürgen", "Begoña", "Søren", "Władek"]
CP1252 = ABROAD[:-1]  # the code page has no ł
FILES = {"web": "web.jsonl.gz", "forum": "forum.parquet", "letters": "letters.jsonl", "books": "books.txt"}


@dataclass
class Page:
    """A page of the crawl. `text` is how it should read, `broken` how it was written where that differs."""

    text: str
    kind: str = "document"
    detail: str = ""
    expect: str = "keep"  # keep, drop, review
    cluster: int | None = None  # copies of each other
    similarity: float | None = None  # Jaccard, with the page that it is a near copy of
    specimens: list[str] = field(default_factory=list)  # personal data in it
    broken: str | None = None
    file: str = ""

    def truth(self, identify: Callable[[str], str]) -> dict[str, Any]:
        """The row of raw-truth.jsonl; `identify` gives the cleaner's name of a page with that text."""
        row = {"id": identify(self.text.strip()), "kind": self.kind, "detail": self.detail, "expect": self.expect,
               "cluster": self.cluster, "similarity": self.similarity, "specimens": self.specimens,
               "file": self.file}  # fmt: skip
        return {key: value for key, value in row.items() if value not in (None, "", [])}


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    """All runs of `n` words, lower case, without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: str, b: str) -> float:
    """Shared 5-grams of words, as a share of all that the two texts have."""
    one, other = shingles(a), shingles(b)
    return len(one & other) / max(len(one | other), 1)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text)


def _insert(text: str, sentence: str, rng: random.Random) -> str:
    """A sentence between two others; at the end of an answer in a transcript."""
    if "\n" in text:
        lines = text.rstrip("\n").split("\n")
        at = rng.randrange(1, len(lines), 2)
        lines[at] += " " + sentence
        return "\n".join(lines) + "\n"
    said = _sentences(text)
    said.insert(rng.randint(1, len(said)), sentence)
    return " ".join(said)


def _long_pages(seed: int, count: int) -> list[str]:
    """Pages of some 270 words: eight of the world's pages one after the other, from a stream of their own."""
    stream = (text for text in world.documents(seed, 20 * count + 100, part="long") if "\n" not in text)
    return [" ".join(next(stream) for _ in range(8)) for _ in range(count)]


def near_copy(text: str, rng: random.Random) -> str:
    """The text with one to three words changed, still at least `NEAR` similar; a few words always change."""
    words = text.split(" ")
    while True:
        changed = list(words)
        for at in rng.sample(range(len(words) - 1), rng.randint(1, 3)):
            changed[at] = rng.choice(["old", "small", "green", "one", "our", "good"])
        copy = " ".join(changed)
        if copy != text and jaccard(text, copy) >= NEAR:
            return copy


def look_alike(text: str, other: str, rng: random.Random) -> str:
    """A page that shares sentences with `text` and is another page all the same."""
    first, second = _sentences(text), _sentences(other)
    while True:
        cut = rng.randint(len(first) // 3, 2 * len(first) // 3)
        mixed = " ".join(first[:cut] + second[cut:])
        if ALIKE[0] <= jaccard(text, mixed) <= ALIKE[1]:
            return mixed


def _mend_later(pages: list[Page], counts: dict[str, int], rng: random.Random) -> None:
    """Documents that the cleaner has to mend: personal data, a site's lines, broken encodings. In place."""
    chosen = iter(rng.sample(pages, sum(counts[kind] for kind in ("personal", "menu", "mojibake", "cp1252"))))
    for _ in range(counts["personal"]):
        page = next(chosen)
        for _ in range(rng.choice([1, 1, 2])):
            kind, specimen = litter.personal(rng)
            page.text = _insert(page.text, litter.tell(kind, specimen), rng)
            page.specimens.append(specimen)
            page.detail = f"{page.detail} {kind}".strip()
        page.kind = "personal"
    for _ in range(counts["menu"]):
        page = next(chosen)
        page.kind, page.text = "menu", page.text.rstrip("\n") + "\n" + "\n".join(rng.sample(litter.MENUS, 2))
    for kind, names in (("mojibake", ABROAD), ("cp1252", CP1252)):
        for _ in range(counts[kind]):
            page = next(chosen)
            said = rng.choice(world.UNKNOWNS + world.REFUSALS)
            page.kind, page.text = kind, _insert(page.text, f"{rng.choice(names)} said: {said}", rng)
            if kind == "mojibake":
                page.broken = page.text.encode().decode("cp1252")


def _copies(seed: int, pages: list[Page], counts: dict[str, int], rng: random.Random) -> list[Page]:
    """Exact copies (a few pages are copied often), near copies of long pages, and look-alikes."""
    plain = [page for page in pages if page.kind == "document"]
    out: list[Page] = []
    for number, page in enumerate(rng.sample(plain, counts["exact copy"])):
        if len(out) >= counts["exact copy"]:
            break
        page.cluster = number
        times = rng.choice([1, 1, 1, 2, 5])
        out += [Page(page.text, "exact copy", expect="drop", cluster=number) for _ in range(times)]
    long = _long_pages(seed, counts["near copy"] + counts["look-alike"] + 1)
    for number, text in enumerate(long[: counts["near copy"]], counts["exact copy"]):
        out.append(Page(text, "long", cluster=number))
        for _ in range(VARIANTS):
            copy = near_copy(text, rng)
            out.append(Page(copy, "near copy", "", "drop", number, round(jaccard(text, copy), 3)))
    for text in long[counts["near copy"] : -1]:
        mixed = look_alike(text, long[-1], rng)
        out += [Page(text, "long"), Page(mixed, "look-alike", similarity=round(jaccard(text, mixed), 3))]
    return out


def _unwanted(seed: int, counts: dict[str, int], rng: random.Random) -> list[Page]:
    """Junk, unsafe pages, pages for people to decide, and pages that give the examination's answers away."""
    out: list[Page] = []
    for number in range(counts["junk"]):
        detail = list(litter.JUNK)[number % len(litter.JUNK)]
        out.append(Page(litter.JUNK[detail](rng), "junk", detail, "drop"))
    others = (text for text in world.documents(seed, 4 * counts["unsafe"] + 20, part="among") if "\n" not in text)
    for number in range(counts["unsafe"]):
        kind, listed = ("hate", "explicit")[number % 2], number % 4 < 2
        text = litter.unsafe(kind, listed, rng, among=next(others))
        out.append(Page(text, "unsafe", f"{kind}, {'listed' if listed else 'not listed'}", "drop"))
    out += [Page(litter.clinic(rng), "exception", expect="review") for _ in range(counts["exception"])]
    questions = world.exam(seed)
    fillers = (text for text in world.documents(seed, 10 * counts["exam"] + 20, part="filler") if "\n" in text)
    for _ in range(counts["exam"]):
        asked = [f"User: {row['prompt'][0]['content']}\nAssistant: {row['sentence']}\n" for row in
                 rng.sample(questions, 2)]  # fmt: skip
        out.append(Page(next(fillers) + "".join(asked), "exam", expect="drop"))
    return out


def pages(seed: int, documents: int) -> list[Page]:
    """The whole crawl in its order, every page with the name of its file."""
    rng = random.Random(f"raw-{seed}")
    counts = {kind: max(round(documents * share / 1000), 1) for kind, share in SHARES.items()}
    found = [Page(text) for text in world.documents(seed, documents)]
    _mend_later(found, counts, rng)
    found += _copies(seed, found, counts, rng)
    found += _unwanted(seed, counts, rng)
    rng.shuffle(found)
    for page in found:
        if page.kind in ("cp1252", "long", "near copy", "look-alike"):
            page.file = FILES["books"]
        elif page.kind == "mojibake":
            page.file = FILES["letters"]
        else:
            page.file = FILES["forum" if page.text.startswith("User:") else "web"]
    return found


def write(folder: Path, found: list[Page]) -> dict[str, int]:
    """Write the crawl to `folder`/raw and what was put in to `folder`/raw-truth.jsonl. Returns pages by kind.

    The files are byte for byte the same for the same seed (no time in gzip's head).
    """
    import pyarrow
    import pyarrow.parquet

    from align.clean.read.intake import identify

    (folder / "raw").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {file: [] for file in FILES.values()}
    for page in found:
        rows[page.file].append({"text": page.broken or page.text})
    lines = {file: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part) for file, part in rows.items()}
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0, filename="") as stream:
        stream.write(lines[FILES["web"]].encode())
    (folder / "raw" / FILES["web"]).write_bytes(packed.getvalue())
    (folder / "raw" / FILES["letters"]).write_text(lines[FILES["letters"]], encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[FILES["forum"]]), folder / "raw" / FILES["forum"])
    books = "\n\n".join(row["text"].strip("\n") for row in rows[FILES["books"]]) + "\n"
    (folder / "raw" / FILES["books"]).write_bytes(books.encode("cp1252"))
    truth = "".join(json.dumps(page.truth(identify), ensure_ascii=False) + "\n" for page in found)
    (folder / "raw-truth.jsonl").write_text(truth, encoding="utf-8")
    return dict(Counter(page.kind for page in found))
