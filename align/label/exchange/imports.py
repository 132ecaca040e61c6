"""Rankings made elsewhere, brought into the `rankings` schema: TRL, HH transcripts, Argilla and Label Studio exports.

    align import their_export.json --output_dir runs/mine/imported

What comes out is a data set for the reward recipe, and its prompts and completions can be ranked again with
`align label`. Formats, as their makers document them:
    trl           prompt, chosen, rejected (also without prompt): TRL, "Dataset formats", preference
    hh            chosen and rejected as `\\n\\nHuman: … \\n\\nAssistant: …` (Bai et al. 2022, anthropics/hh-rlhf)
    argilla       records with a ranking question: 1.x `responses: [{user_id, status, values: {question: {value: [{rank,
                  value}]}}}]` and its `datasets` export; 2.x `responses: {question: [{value, user_id}]}` and flattened
                  (`question.responses`, `.responses.users`, `.responses.status`)
    label_studio  JSON tasks whose `annotations[].result[]` is of type `ranker`, `pairwise` or `rating`
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.data import load, pairs
from align.data.forms import schemas
from align.label.exchange import export
from align.label.exchange.argilla import from_argilla, is_answers
from align.label.exchange.foreign import ImportConfig, ranking_row
from align.label.exchange.label_studio import from_label_studio
from align.label.store import items
from align.run import lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.errors import ConfigError, DataError
from align.run.parse import parse, resolved
from align.run.received import files

LINE = 1 << 26  # bytes of a line, which is one row: conversations have thousands
WHOLE = 1 << 28  # bytes of a file that is one value, and takes five times as much in memory
Reader = Callable[[dict, str, ImportConfig, Counter[str]], Iterator[dict]]


def from_pairs(row: dict, where: str, args: ImportConfig, counts: Counter[str]) -> Iterator[dict]:
    """TRL's preference rows and HH transcripts: a ranking of two, the chosen one first."""
    pair = schemas.preference(row, where)
    if pair["drop"]:
        counts[pair["drop"]] += 1
        return
    extra = {key: row[key] for key in ("category", "split", "annotator") if row.get(key) is not None}
    extra |= {name: pair[name] for name in ("tools", "chat_template_kwargs") if name in pair}
    yield ranking_row(pair["prompt"], [pair["chosen"], pair["rejected"]], [1, 2], **extra)


READERS: dict[str, Reader] = {
    "trl": from_pairs, "hh": from_pairs, "argilla": from_argilla, "label_studio": from_label_studio,
}  # fmt: skip


def detect(row: dict) -> str | None:
    """Which program's export a row is of; None where that cannot be told."""
    if "data" in row and ("annotations" in row or "predictions" in row):
        return "label_studio"
    if "chosen" in row and "rejected" in row:
        return "hh" if str(row["chosen"]).startswith("\n\nHuman:") else "trl"
    if ("fields" in row and "responses" in row) or any(name.endswith(".responses") for name in row):
        return "argilla"
    return "argilla" if any(map(is_answers, row.values())) else None


def read(path: str) -> list[dict[str, Any]]:
    """The rows of a file: JSON Lines, a JSON list, Argilla's dictionaries of records or columns, or what `data` reads.

    Raises:
        DataError: with the line, where it is no JSON, or longer than `LINE`; for one value of more than `WHOLE`.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"{path} does not exist")
    if not file.name.removesuffix(".gz").endswith((".json", ".jsonl")):
        return list(load.load(DataArguments(dataset_name=path), "train", seed=0))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            rows = _lines(stream, path)
            if rows is None:
                stream.seek(0)
                rows = _whole(stream, path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if bad := [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]:
        raise DataError(f"{path}, row {bad[0]}: expected an object, got {str(rows[bad[0] - 1])[:60]!r}")
    return rows


def _lines(stream: Any, path: str) -> list[Any] | None:
    """The rows of JSON Lines, a line at a time; None where the first line is no object, or the only one."""
    rows: list[Any] = []
    number = 0
    while line := stream.readline(LINE + 1):  # other ends of lines may stand inside a text
        number += 1
        if len(line) > LINE and rows:
            raise DataError(
                f"{path}, line {number}: over {LINE >> 20} MiB long, and a line of an import is at most that"
            )
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "strict" if rows else "replace")
        if not text.strip():
            continue
        try:
            rows.append(_value(text))
        except ValueError as error:
            if not rows:
                return None
            raise DataError(f"{path}, line {number}: not JSON ({error}): {text[:60]!r}") from error
        if not isinstance(rows[0], dict):
            return None
    return rows if len(rows) != 1 else None


def _whole(stream: Any, path: str) -> list[Any]:
    """The rows of a file that holds one JSON value."""
    held = stream.read(WHOLE + 1)
    if len(held) > WHOLE:
        raise DataError(
            f"{path}: neither one object a line of at most {LINE >> 20} MiB, nor one JSON value of at most "
            f"{WHOLE >> 20} MiB; write an object a line (jq -c '.[]')"
        )
    try:
        whole = _value(held.decode("utf-8-sig"))
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        at = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        line = held.split(b"\n", at)[at - 1][:60].decode("utf-8", "replace")
        raise DataError(f"{path}, line {at}: not JSON ({error}): {line!r}") from error
    if isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        return list(whole.values())  # Argilla's to_dict(orient="index")
    if isinstance(whole, dict) and isinstance(whole.get("fields"), list):  # and orient="names"
        if len({len(values) if isinstance(values, list) else -1 for values in whole.values()}) != 1:
            raise DataError(f"{path}: its columns are not of one length")
        return [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    return whole if isinstance(whole, list) else [whole]


def _value(text: str) -> Any:
    """A value from JSON, without the half characters that an escape in it may stand for."""
    value = files.parsed(text)
    halves = re.search(r"\\u[dD][89a-fA-F]", text)
    return json.loads(items.whole(json.dumps(value, ensure_ascii=False))) if halves else value


def convert(rows: list[dict[str, Any]], where: str, args: ImportConfig) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows of an export to `rankings` rows, and counts of what was read and what gave none, by reason.

    Raises:
        DataError: nothing there, an unknown format, and the first malformed row, named with its field.
    """
    if not rows:
        raise DataError(f"{where}: the file is empty")
    kind = detect(rows[0]) if args.format == "auto" else args.format
    if kind is None:
        raise ConfigError(
            f"{where}: has the columns {', '.join(rows[0])}, which no known export has; name it: --format "
            f"{' | '.join(READERS)}"
        )
    counts: Counter[str] = Counter({"rows": len(rows)})
    out: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        try:
            found = list(READERS[kind](row, f"{where}, row {number}", args, counts))
        except KeyError as error:
            raise DataError(f"{where}, row {number}: no field {error}; it has {', '.join(row)}") from error
        except DataError:
            raise
        except (
            AttributeError,
            IndexError,
            TypeError,
            ValueError,
            ArithmeticError,
            RecursionError,
        ) as error:  # text for a list, a number for a record …
            raise DataError(
                f"{where}, row {number}: not built as the exports of {kind} are ({error}): {str(row)[:120]}"
            ) from error
        for one in found:
            pairs.check(one, f"{where}, row {number}")
        out += [{**one, "kind": args.kind} for one in found]
    counts["rankings"] = len(out)
    if not out:
        raise DataError(f"{where}: no ranking in it ({pairs.describe(counts)})")
    names = list(dict.fromkeys(name for row in out for name in row))  # every row has every column
    return [{name: row.get(name) for name in names} for row in out], counts


def main(argv: list[str]) -> None:
    """`align import FILE --output_dir …`."""
    run_args, args = parse(RunArguments, ImportConfig, nano=None, required=("source", "output_dir"), argv=argv)
    rows, counts = convert(read(args.source), args.source, args)
    with record.start("rankings", args.output_dir, resolved(run_args, args), overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({"import": args.source}), imported=dict(counts))
        metrics = export.write(
            rows, args.output_dir, title=f"Rankings: {Path(args.source).name}",
            test_split_size=args.test_split_size, seed=args.seed,
        )  # fmt: skip
        run.finish("complete", metrics=metrics)
    print(f"{args.source}: {pairs.describe(counts)}; train with --dataset_name {args.output_dir}")
