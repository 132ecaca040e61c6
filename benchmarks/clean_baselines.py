"""The same cleaning as one would write it without this project: the two sides that benchmarks/clean.py compares with.

    python benchmarks/clean_baselines.py datatrove corpus.jsonl folder

datatrove  Its own pipeline: the same filters with the same thresholds, exact and MinHash deduplication, its formatter
           for personal data, words by spaCy as it ships.
datasets   What one writes first: `map` and `filter` over the same filters, a set of hashes, a dict of MinHash bands.
-fast      Either with our word tokenizer, to tell its part from ours.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def filters(tokenizer: str) -> list[Any]:
    """The filters with our thresholds, as datatrove has them, in our order."""
    from align.clean.config import RuleConfig
    from align.clean.rules import filters

    config = RuleConfig(word_tokenizer=tokenizer)
    steps = ("length", "repetition", "quality", "language")
    found = [twins.strict for step in steps for twins in filters.build(step, config, 0.0)]
    return [*found, filters.boilerplate(config)]


def words(tokenizer: str) -> Any:
    """What datatrove takes as a language."""
    from align.clean.rules.words import tokenizer as load

    return load(tokenizer, ["en"])


def with_datatrove(source: Path, out: Path, tokenizer: str) -> None:
    """datatrove's own blocks and local executor, one task and one worker a stage."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import exact_dedup, minhash
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    def text(doc: Any) -> str:
        return doc.text

    text.__annotations__["return"] = str  # the block reads the type from the signature
    work = out / "work"
    exact = exact_dedup.ExactDedupConfig(content_getter=text)
    near, language = minhash.MinhashConfig(), words(tokenizer)

    def stage(number: int, *blocks: Any, tasks: int = 1) -> None:
        LocalPipelineExecutor(list(blocks), tasks=tasks, workers=1, logging_dir=str(work / f"log-{number}")).run()

    def read(folder: Path) -> JsonlReader:
        return JsonlReader(str(folder), compression=None)

    def write(folder: Path) -> JsonlWriter:
        return JsonlWriter(str(folder), compression=None)

    first = JsonlReader(str(source.parent), glob_pattern=source.name, compression=None)
    stage(0, first, FTFYFormatter(), *filters(tokenizer), write(work / "0"))
    stage(1, read(work / "0"), exact_dedup.ExactDedupSignature(str(work / "e1"), exact))
    stage(2, exact_dedup.ExactFindDedups(str(work / "e1"), str(work / "e2"), exact))
    stage(3, read(work / "0"), exact_dedup.ExactDedupFilter(str(work / "e2"), exact), write(work / "1"))
    stage(4, read(work / "1"), minhash.MinhashDedupSignature(str(work / "m1"), near, language=language))
    stage(5, minhash.MinhashDedupBuckets(str(work / "m1"), str(work / "m2"), config=near), tasks=near.num_buckets)
    stage(6, minhash.MinhashDedupCluster(str(work / "m2"), str(work / "m3"), config=near))
    stage(7, read(work / "1"), minhash.MinhashDedupFilter(str(work / "m3")), PIIFormatter(), write(out / "data"))


def with_datasets(source: Path, out: Path, tokenizer: str) -> None:
    """`datasets.map` and `filter` row by row; hashes in a set, bands of MinHash in a dict."""
    from datasets import load_dataset
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.pipeline.filters.base_filter import get_filter_result
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter

    repair, personal, rules = FTFYFormatter(), PIIFormatter(), filters(tokenizer)
    signer = MinhashDedupSignature(str(out / "unused"), language=words(tokenizer))
    data = load_dataset("json", data_files=str(source), split="train", cache_dir=str(out / "cache"))

    def filtered(row: dict[str, Any]) -> dict[str, Any]:
        doc = Document(repair.format(row["text"]), "")
        passed = all(get_filter_result(rule.filter(doc))[0] for rule in rules)
        return {"text": doc.text, "passed": passed}

    def sign(row: dict[str, Any]) -> dict[str, Any]:
        found = signer.get_shingles(row["text"])
        return {"bands": [repr(band) for band in signer.get_signature(found)] if found.size else []}

    seen: set[bytes] = set()

    def new(row: dict[str, Any]) -> bool:
        key = hashlib.sha1(row["text"].encode()).digest()
        return not (key in seen or seen.add(key))  # type: ignore[func-returns-value]

    data = data.map(filtered).filter(lambda row: row["passed"]).filter(new)
    bands: dict[tuple[int, str], int] = {}
    parent = list(range(len(data)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for at, row in enumerate(signed := data.map(sign)):
        for pair in enumerate(row["bands"]):
            parent[root(at)] = root(bands.setdefault(pair, at))
    kept = signed.select([at for at in range(len(data)) if root(at) == at]).remove_columns(["bands", "passed"])
    (out / "data").mkdir(parents=True)
    kept.map(lambda row: {"text": personal.format(row["text"])}).to_json(str(out / "data" / "0.jsonl"))


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} datatrove[-fast]|datasets[-fast] SOURCE OUT")
    side, source, out = sys.argv[1:]
    method, _, tokenizer = side.partition("-")
    run = with_datatrove if method == "datatrove" else with_datasets
    run(Path(source), Path(out), tokenizer or "datatrove")


if __name__ == "__main__":
    main()
