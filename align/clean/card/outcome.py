"""What came of a run: the tasks' tallies as the data card's numbers, and a table for the terminal."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.clean import write
from align.clean.card import page
from align.clean.config import CleanConfig, RuleConfig
from align.clean.review import collect, grades, queue
from align.clean.review.decisions import Decisions
from align.clean.tally import EDGES, OTHERS, Tally, merged

SOURCES = 40  # named in the card; the rest are counted together
WHAT = {
    "read": ("files into documents", ""),
    "repair": ("encoding repaired, line ends and Unicode normalised", "ftfy with datatrove's settings"),
    "length": ("too few or too many words", "Gopher (arXiv:2112.11446)"),
    "language": ("another language", "lid.176 (arXiv:1612.03651)"),
    "repetition": ("lines, paragraphs or n-grams that repeat", "Gopher (arXiv:2112.11446)"),
    "quality": (
        "symbols, odd words, lists, short lines, code",
        "Gopher (arXiv:2112.11446), FineWeb (arXiv:2406.17557), C4 (JMLR 21, 2020)",
    ),
    "boilerplate": ("cookie, policy and JavaScript lines removed", "C4 (JMLR 21, 2020)"),
    "lists": ("terms of a list of unwanted words", ""),
    "classifier": ("a classifier's label", ""),
    "decontamination": ("words in common with evaluation sets", ""),
    "decisions": ("what reviewers decided", ""),
    "exact": ("the same text again", ""),
    "near": ("almost the same text again", ""),
    "personal": ("personal data masked", ""),
    "write": ("the corpus", ""),
}
WEB = "The thresholds are for web pages: lower those that do not fit (--min_words 10), or --skip a step"
NAMES = {"exact": "exact duplicates", "near": "near-duplicates", "personal": "personal data"}


def card(args: CleanConfig, rules: RuleConfig, run: Any, seconds: float) -> dict[str, Any]:
    """Put the tallies together, write the review queue, `card.json` and `report.html`; the card is returned."""
    folder: Path = run.folder
    tallies = {step: merged(folder / "work/counts", step) for step in WHAT}
    found = {step: tally for step, tally in tallies.items() if tally is not None}
    prints = write.fingerprint(folder)
    file = collect.collect(folder, args.audit)
    decisions = Decisions(folder / "decisions.jsonl")
    clusters = merged(folder / "work/counts", "clusters")
    entered, left = found["read"].counts, found["write"].counts
    totals = dict(found["write"].table("totals")) | {
        "documents_in": entered["documents_in"], "bytes_in": entered["bytes_in"],
        "documents_out": left["documents_out"], "bytes_out": left["bytes_out"],
    }  # fmt: skip
    totals["unsure"], sampled, decided = queue.counts(file, decisions)
    totals["waiting"] = totals["unsure"] + sampled
    peak = max(tally.peak for tally in found.values())
    repaired = found["repair"].counts
    speed = {"seconds": round(seconds, 2), "megabytes_per_second": round(repaired["bytes_in"] / 1e6 / seconds, 3)}
    made = page.build(
        title=args.title,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=prints.get("train", {}).get("fingerprint", ""),
        settings={k: v for k, v in (asdict(args) | asdict(rules)).items() if k != "executor_options"},
        steps=[_step(name, tally, rules, folder) for name, tally in found.items()],
        totals=totals,
        duplicates={
            "exact": _clusters(found.get("exact"), found.get("exact")), "near": _clusters(found.get("near"), clusters)
        },
        lengths={
            "edges": EDGES, "before": _histogram(found["repair"], "in"), "after": _histogram(found["write"], "out")
        },
        sources=_sources(found),
        changes=_changes(found),
        decontamination=run.record.get("decontamination"),
        review={
            "waiting": totals["waiting"], "unsure": totals["unsure"], "decided": decided,
            "decisions": run.record["decisions"], "rules": _grades(file, decisions),
        },
        speed=speed | {"workers": args.processes(), "peak_memory_bytes": peak},
        command=run.record["command"],
        versions=run.record["versions"],
        notes=_notes(found),
    )  # fmt: skip
    page.write(folder, made)
    run.note(data=prints)
    return made


def _step(name: str, tally: Tally, rules: RuleConfig, folder: Path) -> dict[str, Any]:
    what, cites = WHAT[name][0], _cites(name, rules)
    samples = [sample for reason in sorted(tally.samples) for sample in tally.samples[reason]]
    if name == "near":
        _name_the_kept(samples, folder)
    tables = {key: dict(sorted(tally.table(key).items())) for key in ("dropped", "review", "changed")}
    head = {"name": NAMES.get(name, name), "what": what, "cites": cites, **tally.counts, **tables}
    return head | {"seconds": round(tally.seconds, 3), "samples": samples}


def _cites(name: str, rules: RuleConfig) -> str:
    """Where a step's rule comes from; with its setting, where it has one that a paper gives."""
    usual = RuleConfig()
    if name == "language":
        whose = "FineWeb's" if rules.min_language_score == usual.min_language_score else "a"
        return f"{WHAT[name][1]}, {whose} threshold of {rules.min_language_score:g}"
    if name == "decontamination":
        same = rules.decontaminate_ngram == usual.decontaminate_ngram
        return f"{rules.decontaminate_ngram} words in a row{', GPT-3 (arXiv:2005.14165)' if same else ''}"
    if name == "near":
        keys = ("minhash_ngram", "minhash_buckets", "minhash_hashes")
        n, buckets, hashes = (getattr(rules, key) for key in keys)
        same = (n, buckets, hashes) == tuple(getattr(usual, key) for key in keys)
        whose = "FineWeb's setting (arXiv:2406.17557): " if same else ""
        return f"MinHash, {whose}{n}-grams, {buckets} buckets of {hashes} hashes"
    return WHAT[name][1]


def _name_the_kept(samples: list[dict[str, Any]], folder: Path) -> None:
    """Say of each sample of a near-duplicate which document was kept in its place."""
    kept = collect.kept(folder, {sample.get("cluster", -1) for sample in samples})
    for sample in samples:
        stayed = kept.get(sample.pop("cluster", -1), ())
        sample["detail"] += "".join(f"; kept: {row['id']}" for row in stayed[:1])


def _clusters(removed: Tally | None, sizes: Tally | None) -> dict[str, Any] | None:
    if removed is None:
        return None
    counted = {int(size): count for size, count in (sizes.table("sizes") if sizes else Counter[str]()).items()}
    return {
        "clusters": sum(counted.values()),
        "removed": removed.counts["documents_in"] - removed.counts["documents_out"],
        "largest": max(counted, default=0),
        "sizes": {str(size): counted[size] for size in sorted(counted)},
    }


def _histogram(tally: Tally, which: str) -> list[int]:
    counts = tally.table(f"lengths_{which}")
    return [counts.get(str(edge), 0) for edge in range(len(EDGES))]


def _sources(found: dict[str, Tally]) -> dict[str, Any]:
    """Documents and bytes in and out for each source, the largest by themselves."""
    first, last = found["repair"], found["write"]
    entered, size = first.table("sources_in"), first.table("source_bytes_in")
    largest = sorted(entered, key=lambda name: (name == OTHERS, -size[name], name))
    others = "all others" if OTHERS in entered else f"{len(largest) - SOURCES:,} others"  # some are not told apart
    rows: dict[str, dict[str, int]] = {}
    for number, name in enumerate(largest):
        row = rows.setdefault(name if number < SOURCES and name != OTHERS else others, {})
        for key, table in (
            ("documents_in", entered), ("documents_out", last.table("sources_out")),
            ("bytes_in", size), ("bytes_out", last.table("source_bytes_out")),
        ):  # fmt: skip
            row[key] = row.get(key, 0) + table.get(name, 0)
    return rows


def _changes(found: dict[str, Tally]) -> list[dict[str, Any]]:
    return [change for tally in found.values() for kind in sorted(tally.changes) for change in tally.changes[kind]]


def _grades(file: Path, decisions: Decisions) -> list[dict[str, Any]]:
    """Precision and recall of each rule against the reviewers' decisions; nothing before there are any."""
    return grades.quality(queue.rows(file), decisions) if len(decisions) and file.stat().st_size else []


def _notes(found: dict[str, Tally]) -> list[str]:
    read = found["read"]
    return [*(f"Not used to the end: {name}" for name in read.table("files")), *read.table("others")]


def table(card: dict[str, Any], folder: str) -> str:
    """The run as a table for the terminal: step, documents in, dropped, to review, why."""
    lines = [f"{'step':<18}{'in':>10}{'dropped':>10}{'review':>8}  why"]
    for step in card["steps"]:
        dropped, review = sum(step["dropped"].values()), sum(step["review"].values())
        why = _why(step)
        lines.append(f"{step['name']:<18}{step['documents_in']:>10,}{dropped:>10,}{review:>8,}  {why}".rstrip())
    totals = card["totals"]
    share = totals["documents_out"] / max(1, totals["documents_in"])
    lines.append(
        f"{totals['documents_in']:,} documents in, {totals['documents_out']:,} out ({share:.1%}); "
        f"{_megabytes(totals['bytes_in'])} in, {_megabytes(totals['bytes_out'])} out, "
        f"{card['speed']['megabytes_per_second']:.2f} MB/s with {card['speed']['workers']} worker(s)"
    )
    if totals["waiting"]:
        lines.append(
            f"for people to decide: {totals['unsure']:,} documents that rules were unsure of, and a sample of "
            f"{totals['waiting'] - totals['unsure']:,} others to grade the rules by: align review {folder}"
        )
    if not totals["documents_out"]:
        lines.append(f"No document is left before people have decided. {WEB}")
    return "\n".join([*lines, *card.get("notes", []), f"report: {folder}/report.html"])


def _why(step: dict[str, Any]) -> str:
    counts = {**step["dropped"]}
    for reason, count in step["review"].items():
        counts[reason] = counts.get(reason, 0) + count
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    changed = (
        [f"{count:,} {kind} mended" for kind, count in step["changed"].items()] if step["name"] == "repair" else []
    )
    changed += [f"{count:,} {kind}" for kind, count in step["changed"].items()] if step["name"] != "repair" else []
    parts = [f"{reason} {count:,}" for reason, count in shown[:4]] + changed[:4]
    more = len(shown) - 4
    return ", ".join(parts) + (f", {more} more" if more > 0 else "")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
