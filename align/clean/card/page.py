"""The data card of a clean run: what came in, what went out and why, as `card.json` and one self-contained page.

The page is made from the card alone, with no scripts and nothing loaded from elsewhere; the same card gives the same
bytes. Parts that the card does not have leave themselves out. The texts in it are untrusted (`align.report.untrusted`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align.clean.card import figures, tables
from align.clean.card.tables import plural, words
from align.report import markup
from align.report.markup import Section
from align.report.untrusted import difference, encodable, marked, safe, shown, through
from align.run.record import write_json

PARTS = (
    "decontamination", "duplicates", "lengths", "sources", "changes", "review", "speed", "command", "versions", "notes",
)  # fmt: skip
SHOWN = 4  # samples of one reason on the page; the card has all, the folder `dropped/` every document


def build(
    *,
    title: str,
    steps: list[dict[str, Any]],
    made: str = "",
    fingerprint: str = "",
    settings: dict[str, Any] | None = None,
    totals: dict[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """The card of a run from its parts, in the order in which they are written.

    Args:
        steps: One mapping a step, in order: `name`, `what`, `cites`, `documents_in`, `documents_out`, `bytes_in`,
            `bytes_out`, `dropped`, `review` and `changed` (counts by reason), `seconds`, `samples`.
        totals: `tokens_out`, `test_documents`, `waiting`, `unsure`, and whatever shall replace what is read off the
            first and the last step: documents and bytes in and out.
        parts: those in `PARTS`; one that is None or empty is left out.
    """
    known = set(PARTS)
    assert set(parts) <= known, sorted(set(parts) - known)
    counted: dict[str, Any] = {}
    if steps:
        counted = {key: steps[0].get(key) for key in ("documents_in", "bytes_in")}
        counted |= {key: steps[-1].get(key) for key in ("documents_out", "bytes_out")}
    card = {"title": title, "made": made, "fingerprint": fingerprint, "settings": settings or {}, "steps": steps}
    card["totals"] = counted | {key: value for key, value in (totals or {}).items() if value is not None}
    return card | {key: parts[key] for key in sorted(parts) if parts[key]}


def _lead(card: dict[str, Any]) -> Section:
    body = f'<p class="headline">{safe(tables.headline(card["totals"]))}</p>\n'
    return Section("verdict", "In short", body + markup.paragraphs(tables.sentences(card)))


def _steps(card: dict[str, Any]) -> Section | None:
    if not card["steps"]:
        return None
    plot = figures.taken(card)
    parts = [markup.table(tables.steps(card)), markup.figures([plot] if plot else [])]
    return Section("steps", "Steps", "\n".join([*parts, markup.table(tables.what(card))]))


def _reasons(card: dict[str, Any]) -> Section | None:
    table = tables.reasons(card)
    return Section("reasons", "Reasons", markup.table(table)) if table else None


def _decontamination(card: dict[str, Any]) -> Section | None:
    table = tables.evaluation(card) if card.get("decontamination") else None
    return Section("decontamination", "Evaluation sets", markup.table(table)) if table else None


def _duplicates(card: dict[str, Any]) -> Section | None:
    found = tables.duplicates(card) if card.get("duplicates") else []
    return Section("duplicates", "Duplicates", "\n".join(map(markup.table, found))) if found else None


def _lengths(card: dict[str, Any]) -> Section | None:
    plot = figures.lengths(card) if card.get("lengths") else None
    return Section("lengths", "Lengths", markup.figures([plot])) if plot else None


def _sources(card: dict[str, Any]) -> Section | None:
    if not card.get("sources"):
        return None
    return Section("sources", "Sources", markup.table(tables.sources(card)))


def _review(card: dict[str, Any]) -> Section | None:
    found = card.get("review")
    if not found:
        return None
    table = tables.review(card)
    said = markup.paragraphs(tables.queue(found))
    return Section("review", "Review by people", said + (markup.table(table) if table else ""))


def _sample(sample: dict[str, Any], count: int) -> str:
    named = ", ".join(safe(sample[key]) for key in ("id", "source") if sample.get(key))
    detail = f'<p class="aside">{safe(sample["detail"])}</p>\n' if sample.get("detail") else ""
    text = marked(sample.get("text") or "", sample.get("spans") or ()) or "<i>(empty)</i>"
    return (
        f'<article class="sample">\n<h4>Document {count}{": " if named else ""}{named}</h4>\n{detail}'
        f'<p class="prompt" dir="auto">{text}</p>\n</article>'
    )


def _samples(card: dict[str, Any]) -> Section | None:
    parts, count = [], 0
    for step in card["steps"]:
        by_reason: dict[str, list[dict[str, Any]]] = {}
        for sample in step.get("samples") or []:
            by_reason.setdefault(sample.get("reason") or "", []).append(sample)
        inner = []
        for reason, found in by_reason.items():
            inner.append(f"<h3>{safe(words(reason) or 'no reason given')}</h3>")
            for sample in found[:SHOWN]:
                count += 1
                inner.append(_sample(sample, count))
        if inner:
            said = f"{words(step['name'])}: {plural(sum(map(len, by_reason.values())), 'sample')}"
            body = "\n".join(inner)
            parts.append(f'<details class="texts">\n<summary>{safe(said)}</summary>\n{body}\n</details>')
    if not parts:
        return None
    intro = (
        "Texts as they were, cut short; what a rule saw is marked. Some are what nobody should have to read, so they "
        f"open on demand. At most {SHOWN} a reason are shown."
    )
    return Section("samples", "Samples of what was taken out", "\n".join([f"<p>{intro}</p>", *parts]))


def _change(change: dict[str, Any], count: int) -> str:
    before, after = difference(change.get("before") or "", change.get("after") or "")
    named = f": {safe(change['id'])}" if change.get("id") else ""
    sides = "\n".join(
        f'<div><dt>{name}</dt><dd dir="auto">{text or "<i>(empty)</i>"}</dd></div>'
        for name, text in (("before", before), ("after", after))
    )
    return f'<article class="sample">\n<h3>Change {count}{named}</h3>\n<dl class="answers">\n{sides}\n</dl>\n</article>'


def _changes(card: dict[str, Any]) -> Section | None:
    if not card.get("changes"):
        return None
    kinds: dict[str, list[dict[str, Any]]] = {}
    for change in card["changes"]:
        kinds.setdefault(str(change.get("what") or "changed"), []).append(change)
    intro = (
        f"Documents that were kept and changed. Struck out: what left. Underlined: what came. At most {SHOWN} a kind."
    )
    parts, count = [f"<p>{intro}</p>"], 0
    for kind, found in kinds.items():
        inner = [_change(change, count + i) for i, change in enumerate(found[:SHOWN], 1)]
        count += len(inner)
        said, body = f"{words(kind)}: {plural(len(found), 'sample')}", "\n".join(inner)
        parts.append(f'<details class="texts">\n<summary>{safe(said)}</summary>\n{body}\n</details>')
    return Section("changes", "Before and after", "\n".join(parts))


def _settings(card: dict[str, Any]) -> Section | None:
    return Section("settings", "Settings", markup.table(tables.settings(card))) if card.get("settings") else None


def _origin(card: dict[str, Any]) -> Section | None:
    parts = [markup.command(card["command"])] if card.get("command") else []
    parts.append(markup.facts(tables.made(card)))
    if versions := card.get("versions"):
        rows = [[name, str(version)] for name, version in versions.items()]
        parts.append(markup.table(markup.Table("Versions", ["package", "version"], rows)))
    body = "\n".join(filter(None, parts))
    return Section("origin", "How it was made", body) if body else None


def _notes(card: dict[str, Any]) -> Section | None:
    return Section("notes", "Notes", markup.paragraphs(card["notes"])) if card.get("notes") else None


SECTIONS = (
    _steps, _reasons, _decontamination, _duplicates, _lengths, _sources, _review, _samples, _changes, _settings,
    _origin, _notes,
)  # fmt: skip


def render(card: dict[str, Any]) -> str:
    """The card as one HTML page. What the card does not have, the page does not have."""
    card = {"steps": [], "totals": {}} | json.loads(json.dumps(encodable(card), default=str))
    texts = {"samples", "changes"}  # theirs are made legible where they are marked: spans count characters as given
    card = {key: value if key in {"steps", *texts} else through(shown, value) for key, value in card.items()}
    card["steps"] = [{k: v if k in texts else through(shown, v) for k, v in step.items()} for step in card["steps"]]
    found = [section for part in SECTIONS if (section := part(card))]
    return markup.document(card.get("title") or "Data card", card.get("made") or "", _lead(card), found)


def write(folder: Path, card: dict[str, Any]) -> None:
    """Write `card.json` and `report.html` into `folder`, each in one step."""
    card = encodable(card)
    write_json(folder / "card.json", card)
    part = folder / "report.html.part"
    part.write_text(render(card), encoding="utf-8")
    part.replace(folder / "report.html")
