"""How well the nano corpus was cleaned, against what was put into it: every rule's precision, every kind's recall.

    python -m align.nano.corpus.score --config recipes/nano/score.yaml

A page is found where it was dropped or waits for a reviewer. A step's precision is the share of its drops that were
put in to be dropped; of exact and near copies one page of each cluster has to stay. Documents of the world that are
near copies of each other by themselves (numbers made one, as FineWeb's setting does) are counted apart.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.nano.corpus import litter, raw
from align.run import errors, launch, lineage, record
from align.run.arguments import RunArguments
from align.run.parse import parse, resolved

KEPT, WAITING = "kept", "review"
GONE = ("exact copy", "near copy", "junk", "unsafe", "exam")  # put in to be dropped


@dataclass
class ScoreConfig:
    """Which cleaned run to compare with which raw corpus."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the score."})
    clean: str | None = field(default=None, metadata={"help": "The run of the clean recipe."})
    truth: str | None = field(default=None, metadata={"help": "The run that wrote the raw corpus."})


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.name.endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8") as packed:
            yield from map(json.loads, packed)
    else:
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def fates(clean: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Where every page of a cleaned run is: by id, `kept`, `review` or the step that dropped it; and texts kept."""
    found: dict[str, list[str]] = defaultdict(list)
    texts = {}
    for file in sorted((clean / "data").glob("*.jsonl*")):
        for row in _lines(file):
            found[row["id"]].append(KEPT)
            texts[row["id"]] = row["text"]
    for file in sorted((clean / "dropped").glob("*/*.jsonl*")):
        for row in _lines(file):
            found[row["id"]].append(file.parent.name)
    for file in sorted((clean / "review").glob("*.jsonl*")):
        for row in _lines(file):
            if row["why"] == "unsure":  # an audit row is a page that went or stayed all the same
                found[row["id"]].append(WAITING)
    return found, texts


def alike(clean: Path, texts: dict[str, str], wanted: set[str]) -> set[str]:
    """Which of the pages dropped as near copies have a page like them: Jaccard >= 0.8 of 5-grams, numbers made one.

    Args:
        texts: the pages kept.
        wanted: ids of the pages that are asked about.
    """
    rows = (row for file in (clean / "dropped/near").glob("*.jsonl*") for row in _lines(file))
    gone = {row["id"]: row["text"] for row in rows if row["id"] in wanted}
    grams = {key: raw.shingles(re.sub(r"\d+", "0", text)) for key, text in {**texts, **gone}.items()}
    asked = set().union(*(grams[key] for key in gone)) if gone else set()
    holding: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, held in grams.items():
        for gram in held & asked:
            holding[gram].append(key)
    found = set()
    for key in gone:
        shared = Counter(other for gram in grams[key] for other in holding[gram] if other != key)
        likest = (n / (len(grams[key]) + len(grams[other]) - n) for other, n in shared.items())
        if max(likest, default=0.0) >= raw.NEAR:
            found.add(key)
    return found


def matched(truth: list[dict[str, Any]], where: dict[str, list[str]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each page that was put in with its fate: what was to stay is matched with what stayed first.

    A near copy may stay in its page's place: then the page counts as the copy that went.
    """
    clusters: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(truth):
        clusters[row.get("cluster", f"alone {number}")].append(row)
    for rows in clusters.values():
        held = [fate for key in dict.fromkeys(row["id"] for row in rows) for fate in where.get(key, ())]
        held.sort(key=lambda fate: fate != KEPT)
        wanted = sorted(rows, key=lambda row: row["expect"] != "keep")
        yield from zip(wanted, held + ["lost"] * (len(wanted) - len(held)), strict=False)


def score(
    truth: list[dict[str, Any]],
    where: dict[str, list[str]],
    texts: dict[str, str],
    near: set[str] = frozenset(),  # type: ignore[assignment]
) -> dict[str, Any]:
    """Compare: `kinds` (put in, kept, where they went), `steps` (what each dropped), `precision`, `found`, …"""
    went: dict[str, Counter[str]] = defaultdict(Counter)
    steps: dict[str, Counter[str]] = defaultdict(Counter)
    for row, fate in matched(truth, where):
        if fate == "near" and row["expect"] == "keep" and row["id"] in near:
            row = {**row, "kind": "near copy by itself", "expect": "drop"}
        kind = f"{row['kind']}: {row['detail']}" if row["kind"] in ("junk", "unsafe") else row["kind"]
        went[kind][fate] += 1
        if fate != KEPT:
            steps[fate][row["expect"] if row["expect"] != "keep" else f"keep: {row['kind']}"] += 1
    stay = Counter[str]()
    for kind, counts in went.items():
        if kind.split(":")[0] not in (*GONE, "exception", "near copy by itself"):
            stay.update(counts)
    kinds = {}
    for kind, counts in sorted(went.items()):
        total = sum(counts.values())
        kinds[kind] = {"pages": total, "kept": counts[KEPT], "fates": dict(counts), "found": 1 - counts[KEPT] / total}
    found = {name: _share_gone(went, name) for name in (*GONE, "exception")}
    return {
        "documents_kept": stay[KEPT] / max(sum(stay.values()), 1),
        "wrongly_gone": {fate: n for fate, n in stay.items() if fate != KEPT},
        "found": {name.replace(" ", "_"): share for name, share in found.items()},
        "precision": {step: c["drop"] / sum(c.values()) for step, c in steps.items() if step not in (WAITING, "lost")},
        "steps": {step: dict(counts) for step, counts in steps.items()},
        "kinds": kinds,
        **mending(truth, where, texts),
    }


def _share_gone(went: dict[str, Counter[str]], name: str) -> float:
    """Share of a kind of litter that did not stay."""
    counts = sum((counts for kind, counts in went.items() if kind.split(":")[0] == name), Counter[str]())
    return 1 - counts[KEPT] / max(sum(counts.values()), 1)


def mending(truth: list[dict[str, Any]], where: dict[str, list[str]], texts: dict[str, str]) -> dict[str, Any]:
    """What was to be mended in pages that stayed: personal data masked, encodings repaired, a site's lines removed."""
    specimens = left = menus = lines = false = 0
    repaired: Counter[str] = Counter()
    for row in truth:
        text = texts.get(row["id"])
        for specimen in row.get("specimens", ()) if text is not None else ():
            specimens += 1
            left += specimen in str(text)
        if row["kind"] in ("mojibake", "cp1252"):
            repaired["pages"] += 1
            repaired["mended"] += row["id"] in where  # the id is a hash of the text as it should read
        if row["kind"] == "menu" and text is not None:
            menus += 1
            lines += any(line in text for line in litter.MENUS)
        if row["kind"] in ("document", "long") and text is not None:
            false += any(f"<{kind}>" in text for kind in ("email", "ip", "phone", "card", "iban", "ssn"))
    return {
        "personal": {"specimens": specimens, "masked": 1 - left / max(specimens, 1), "pages_masked_for_nothing": false},
        "encodings": {"pages": repaired["pages"], "mended": repaired["mended"] / max(repaired["pages"], 1)},
        "menus": {"pages": menus, "removed": 1 - lines / max(menus, 1)},
    }


def show(found: dict[str, Any]) -> str:
    """The two tables, and what was lost."""
    lines = [f"{'put in':<38}{'pages':>7}{'gone':>8}  where"]
    for kind, row in found["kinds"].items():
        where = ", ".join(f"{n} {fate}" for fate, n in sorted(row["fates"].items(), key=lambda pair: -pair[1]))
        lines.append(f"{kind:<38}{row['pages']:>7,}{row['found']:>8.1%}  {where}")
    lines.append(f"\n{'step':<20}{'dropped':>9}{'precision':>11}  dropped wrongly")
    for step, share in found["precision"].items():
        counts = found["steps"][step]
        wrong = ", ".join(f"{n} {why}" for why, n in counts.items() if why != "drop") or "-"
        lines.append(f"{step:<20}{sum(counts.values()):>9,}{share:>11.1%}  {wrong}")
    lines.append(
        f"\nof the documents to keep {found['documents_kept']:.2%} stayed; personal data masked "
        f"{found['personal']['masked']:.1%} of {found['personal']['specimens']:,}; encodings mended "
        f"{found['encodings']['mended']:.1%} of {found['encodings']['pages']:,}; menus removed from "
        f"{found['menus']['removed']:.1%} of {found['menus']['pages']:,} pages"
    )
    return "\n".join(lines)


def main() -> None:
    run_args, args = parse(RunArguments, ScoreConfig, nano="recipes/nano/score.yaml")
    with record.start("score", args.output_dir, resolved(run_args, args), overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({"clean": args.clean, "truth": args.truth}))
        file = Path(str(args.truth)) / "raw-truth.jsonl"
        if not file.is_file():
            raise errors.RunError(f"{file} is not there; make the raw corpus with: python -m align.nano.build")
        where, texts = fates(Path(str(args.clean)))
        truth = list(_lines(file))
        wanted = {row["id"] for row in truth if row["expect"] == "keep"}
        found = score(truth, where, texts, alike(Path(str(args.clean)), texts, wanted))
        record.write_json(Path(str(args.output_dir)) / "results.json", found)
        run.finish("complete", metrics={key: value for key, value in found.items() if key not in ("kinds", "steps")})
    print(show(found))


if __name__ == "__main__":
    launch.run(main)
