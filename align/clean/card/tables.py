"""The tables and words of a data card."""

from __future__ import annotations

from typing import Any

from align import stats
from align.report.markup import Table
from align.report.numerals import ABSENT, estimate, number, percent

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
SOURCES = 40  # rows; the rest is summed in one


def unit(largest: int, least: int = 10) -> tuple[str, float]:
    """The unit in which a table's largest size is at least `least`, and what to divide by."""
    return next(((name, by) for name, by in UNITS if largest >= least * by), UNITS[-1])


def size(count: int | None) -> str:
    """A number of bytes in words: `31.2 MB`."""
    if count is None:
        return ABSENT
    name, by = unit(count, 1)
    return f"{number(int(count) if by == 1 else count / by)} {name}"


def share(part: float | None, whole: float | None) -> str:
    """Part of a whole as a percentage; a dash where there is no whole."""
    return percent(part / whole) if whole and part is not None else ABSENT


def words(name: str) -> str:
    """A key in words: `gopher_dup_line_frac` -> `gopher dup line frac`."""
    return str(name).replace("_", " ")


def plural(count: int, one: str, more: str = "") -> str:
    """`1 document`, `2 documents`."""
    return f"{number(count)} {one if count == 1 else more or one + 's'}"


def headline(totals: dict[str, Any]) -> str:
    """The card in one sentence."""
    given, kept = totals.get("documents_in", 0), totals.get("documents_out", 0)
    return f"{plural(given, 'document')} in, {number(kept)} out."


def sentences(card: dict[str, Any]) -> list[str]:
    """What a reader should know first, one fact a sentence."""
    totals = card["totals"]
    given, kept, bytes_in, bytes_out = (
        totals.get(k) for k in ("documents_in", "documents_out", "bytes_in", "bytes_out")
    )
    said = []
    if given:
        loss = f"{percent(1 - kept / given)} of the documents"
        if bytes_in:
            loss += f" and {percent(1 - bytes_out / bytes_in)} of the bytes"
        said.append(f"{loss} did not come through: {size(bytes_in)} in, {size(bytes_out)} out.")
    by_step = sorted(((sum(step.get("dropped", {}).values()), step["name"]) for step in card["steps"]), reverse=True)
    most = [f"{words(name)} ({number(count)})" for count, name in by_step[:3] if count]
    if most:
        said.append(f"Most were dropped by: {', '.join(most)}.")
    unsure = totals.get("unsure") or 0
    if unsure:
        copies = sum(sum((step.get("review") or {}).values()) for step in card["steps"]) - unsure
        more = f", with {plural(copies, 'copy', 'copies')} of {'it' if unsure == 1 else 'them'}" if copies > 0 else ""
        verb, be = ("waits", "is") if unsure == 1 else ("wait", "are")
        said.append(f"{plural(unsure, 'document')} {verb} for a person to decide and {be} not in the output{more}.")
    if (totals.get("waiting") or 0) > unsure:
        more = plural(totals["waiting"] - unsure, "other document")
        said.append(f"The review queue holds {more}: a sample of what was kept and dropped, to grade the rules by.")
    if totals.get("tokens_out") is not None:
        counted = "tokens" if card.get("settings", {}).get("tokenizer") else "words"
        said.append(f"{number(totals['tokens_out'])} {counted} are left.")
    if totals.get("test_documents"):
        said.append(f"{number(totals['test_documents'])} of the documents out are the test split.")
    return said


def steps(card: dict[str, Any]) -> Table:
    """Documents and bytes into and out of each step."""
    rows = card["steps"]
    name, by = unit(max((step.get("bytes_in") or 0 for step in rows), default=0))
    body = []
    for step in rows:
        given, kept = step.get("documents_in"), step.get("documents_out")
        review = sum(step.get("review", {}).values())
        cells = [number(given), number(kept), number(sum(step.get("dropped", {}).values())), number(review)]
        cells.append(share(given - kept, given) if given is not None and kept is not None else ABSENT)
        cells += [
            number(step[key] / by, 1) if step.get(key) is not None else ABSENT for key in ("bytes_in", "bytes_out")
        ]
        cells.append(number(sum(step.get("changed", {}).values())))
        cells.append(number(float(step["seconds"]), 1) if step.get("seconds") is not None else ABSENT)
        body.append([words(step["name"]), *cells])
    head = ["step", "documents in", "documents out", "dropped", "to review", "share taken out", f"{name} in",
            f"{name} out", "changed", "seconds"]  # fmt: skip
    note = "In the order in which they ran. A document that is kept may have been changed: repaired, cut or masked."
    return Table("Step by step", head, body, note)


def what(card: dict[str, Any]) -> Table:
    """What each step does, in a sentence, and where its rule comes from."""
    body = [[words(step["name"]), step.get("what") or ABSENT, step.get("cites") or ABSENT] for step in card["steps"]]
    return Table("What each step does", ["step", "what it does", "source of the rule"], body)


def reasons(card: dict[str, Any]) -> Table | None:
    """Why documents were dropped, sent to review or changed, grouped by step."""
    body: list[list[str]] = []
    for step in card["steps"]:
        found = [
            [words(reason), kind, number(count), share(count, step.get("documents_in"))]
            for kind, key in (("dropped", "dropped"), ("to review", "review"), ("changed", "changed"))
            for reason, count in sorted((step.get(key) or {}).items(), key=lambda pair: (-pair[1], pair[0]))
            if count
        ]
        if found:
            body += [[words(step["name"])], *found]
    if not body:
        return None
    note = "The share is of the documents that came into the step. Changes may count several a document."
    return Table("Why, step by step", ["reason", "what followed", "count", "share"], body, note)


def evaluation(card: dict[str, Any]) -> Table | None:
    """What of each evaluation set was looked for in the documents."""
    found = card["decontamination"]
    body = [
        [source, row["split"], ", ".join(found["columns"][source]), number(row["texts"]),
         number(row["texts"] - row["short"]), number(row["short"])]
        for source, row in found["sets"].items()
    ]  # fmt: skip
    head = ["set", "split", "columns", "texts", "looked for", "too short"]
    note = (
        f"A document with {number(found['n'])} words in a row of a text, or with the whole of a shorter one, was taken "
        f"out. Texts of fewer than {number(found['shortest'])} words were not looked for: clean documents have them by "
        "chance."
    )
    return Table("What was looked for", head, body, note) if body else None


def queue(found: dict[str, Any]) -> list[str]:
    """What waits for people, what they have decided, and which decisions those are."""
    waiting, unsure = found.get("waiting") or 0, found.get("unsure") or 0
    said = [
        f"{plural(waiting, 'document')} in the queue without a decision: {number(unsure)} that rules were unsure of, "
        f"and a sample of {plural(waiting - unsure, 'other')}. {number(found.get('decided') or 0)} in it were decided."
    ]
    held = found.get("decisions") or {}
    if held.get("count"):
        said.append(
            f"The run was made with {plural(held['count'], 'decision')} of {held['path']}, version {held['version']}."
        )
    return said


def duplicates(card: dict[str, Any]) -> list[Table]:
    """Clusters of duplicates: how many, how large."""
    kinds = {
        k: v for k, v in (("exact", card["duplicates"].get("exact")), ("near", card["duplicates"].get("near"))) if v
    }
    body = [
        [
            f"{kind} duplicates",
            number(found.get("clusters")),
            number(found.get("removed")),
            number(found.get("largest")),
        ]
        for kind, found in kinds.items()
    ]
    tables = [
        Table("Clusters of duplicates", ["kind", "clusters", "documents removed", "largest cluster"], body,
              "One document of every cluster is kept.")
    ] if body else []  # fmt: skip
    sizes = sorted({int(size) for found in kinds.values() for size in found.get("sizes", {})})
    if sizes:
        counted = {kind: {int(k): v for k, v in found.get("sizes", {}).items()} for kind, found in kinds.items()}
        rows = [[plural(size, "document"), *(number(counted[kind].get(size, 0)) for kind in kinds)] for size in sizes]
        tables.append(
            Table("Sizes of clusters", ["size of the cluster", *(f"{kind} duplicates" for kind in kinds)], rows)
        )
    return tables


def sources(card: dict[str, Any]) -> Table:
    """Where documents came from and how many of each source are left, the largest first."""
    found = sorted(card["sources"].items(), key=lambda pair: (-(pair[1].get("documents_in") or 0), pair[0]))
    if len(found) > SOURCES:
        keys = ("documents_in", "documents_out", "bytes_in", "bytes_out")
        rest = {key: sum(row.get(key) or 0 for _, row in found[SOURCES:]) for key in keys}
        found = [*found[:SOURCES], (f"{number(len(found) - SOURCES)} more", rest)]
    name, by = unit(max((row.get("bytes_in") or 0 for _, row in found), default=0))
    left = sum(row.get("documents_out") or 0 for _, row in found)
    body = []
    for source, row in found:
        given, kept = row.get("documents_in"), row.get("documents_out")
        cells = [number(given), number(kept), share(kept, given)]
        cells += [number(row[key] / by, 1) if row.get(key) is not None else ABSENT for key in ("bytes_in", "bytes_out")]
        body.append([source, *cells, share(kept, left)])
    head = ["source", "documents in", "documents out", "kept", f"{name} in", f"{name} out", "share of the output"]
    return Table("Kept by source", head, body)


def review(card: dict[str, Any]) -> Table | None:
    """Precision and recall of each rule against the reviewers' decisions."""
    rules = card["review"].get("rules") or []
    body = [
        [words(row["rule"]), number(row.get("flagged")), number(row.get("reviewed")),
         *(estimate(stats.Estimate(**found) if found else None, share=True)
           for found in (row.get("precision"), row.get("recall")))]
        for row in rules
    ]  # fmt: skip
    note = (
        "Precision: of what the rule flagged, the share that reviewers dropped. Recall: of what reviewers dropped, the "
        "share that the rule flagged. A dash: too few decisions to say."
    )
    return (
        Table("Rules against reviewers", ["rule", "flagged", "reviewed", "precision", "recall"], body, note)
        if body
        else None
    )


def settings(card: dict[str, Any]) -> Table:
    """Every setting, those of a group under their group's name."""
    body = []

    def add(prefix: str, found: dict[str, Any]) -> None:
        for key, value in found.items():
            if isinstance(value, dict) and value:
                add(f"{prefix}{key}.", value)
            else:
                text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
                body.append([f"{prefix}{key}", text if text and value is not None else ABSENT])

    add("", card["settings"])
    return Table("Every setting", ["setting", "value"], body)


def made(card: dict[str, Any]) -> list[tuple[str, str]]:
    """Short facts: fingerprint, time, speed, memory."""
    speed, found = card.get("speed") or {}, []
    if card.get("fingerprint"):
        found.append(("fingerprint", str(card["fingerprint"])))
    if speed.get("seconds") is not None:
        found.append(("time in all", f"{number(float(speed['seconds']))} seconds"))
    if speed.get("megabytes_per_second") is not None:
        found.append(("speed", f"{number(float(speed['megabytes_per_second']))} MB a second"))
    if speed.get("workers") is not None:
        found.append(("workers", number(speed["workers"])))
    if speed.get("peak_memory_bytes") is not None:
        found.append(("peak memory", size(speed["peak_memory_bytes"])))
    return found
