"""The cleaning engine's parts: expectations worked out by hand, and equality with what is replaced by something faster."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
from conftest import write_rows
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.c4_filters import POLICY_SUBSTRINGS
from datatrove.pipeline.formatters import FTFYFormatter

from align.clean import executors, tally, write
from align.clean.blocks import COLUMNS, DECISION, Largest, Sink
from align.clean.card import outcome
from align.clean.config import CleanConfig, RuleConfig
from align.clean.duplicates import copies, minhash
from align.clean.read import columnar, formats, inputs, intake, repair
from align.clean.review import collect
from align.clean.review.decisions import Decisions
from align.clean.review.overrule import Overrule
from align.clean.rules import apply, filters, gopher
from align.clean.rules.ruling import KEEP, Ruling
from align.clean.rules.words import FastWords, split
from align.run.errors import ConfigError, DataError

WORDS = FastWords("en")
# Pieces that the filters look at: stop words, symbols, list items, ellipses, repetitions, other scripts, no words at all
TEXTS = st.lists(
    st.sampled_from(
        ["the ", "of and ", "with", " be ", "a", "don't ", "#", "...", "…\n", "- ", "•", "\n", "\n\n", "12 ", "3.14 ",
         "the cat sat on the mat ", "é", "ñandú ", "。", "漢字 ", "x" * 15, "! ", "&amp;", "\t", "ab c", "a bc "]
    ),
    max_size=60,
).map("".join)  # fmt: skip


def documents_of(*texts: str) -> list[Document]:
    return [Document(text, intake.identify(text), metadata={"source": "s"}) for text in texts]


# ------------------------------------------------------------------------------------------------- words and sentences


def test_words_and_sentences_by_hand():
    assert WORDS.word_tokenize("Don't pay $3.50 -- ever... OK?") == [
        "Don", "'t", "pay", "$", "3.50", "--", "ever", "...", "OK", "?",
    ]  # fmt: skip
    text = 'He said "Stop." She did not. Why'
    assert [text[a:b] for a, b in WORDS.span_tokenize(text)] == ['He said "Stop."', " She did not.", " Why"]
    assert WORDS.span_tokenize("") == [] and len(WORDS.span_tokenize("no end mark")) == 1


def test_datatrove_keeps_one_split_for_all_filters():
    """The cache is by text and tokenizer; two instances must count as one, or every filter splits anew."""
    assert split("one two", FastWords("en")) is split("one two", FastWords("en"))


# ---------------------------------------------------------------------------------------- as datatrove's, only faster


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_gopher_filters_say_what_datatroves_say(text):
    doc = Document(text, "")
    assert gopher.Repetition(language=WORDS).filter(doc) == GopherRepetitionFilter(language=WORDS).filter(doc)
    ngrams = {f"dup_{what}_frac": None for what in ("line", "para", "line_char", "para_char")} | {"language": WORDS}
    for off in (ngrams, ngrams | {"top_n_grams": ()}):
        assert gopher.Repetition(**off).filter(doc) == GopherRepetitionFilter(**off).filter(doc)
    options = {"min_doc_words": 3, "language": WORDS}
    mine = gopher.Quality(**options).filter(doc)
    assert mine == GopherQualityFilter(**options).filter(doc)


@pytest.mark.parametrize("text", ["# # # # #", "...", "\n", "", "!?"])
def test_a_text_without_words_does_not_divide_by_zero(text):
    off = dict.fromkeys(("min_doc_words", "min_avg_word_length"))
    assert gopher.Quality(language=WORDS, **off).filter(Document(text, "")) is True
    assert gopher.Quality(language=WORDS).filter(Document(text, "")) == (False, "gopher_short_doc")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.lists(st.sampled_from(["â€™", "Ã©", "&lt;", "<b>", "\n", "\x1b[31m", "a b", "\x07"])))
def test_encoding_repair_is_ftfys(noise, pieces):
    text = noise.join(pieces) if pieces else noise
    assert repair.encoding(text) == FTFYFormatter().format(text)


def test_what_is_not_given_to_ftfy_is_what_it_would_not_change():
    """Its longest patterns are four characters; every string of four of these marks and kinds of ASCII."""
    fix = FTFYFormatter().format
    for made in itertools.product("‘’“”–—…aZ 1.", repeat=4):
        text = "".join(made)
        assert not repair._SUSPECT.search(text) and fix(text) == text, text


def test_repair_by_hand():
    made = "It\u00e2\u0080\u0099s caf\u00c3\u00a9\r\nnul\0 e\u0301"
    for _, change in repair.steps("NFC"):
        made = change(made)
    assert made == "It\u2019s caf\u00e9\nnul \u00e9"


def test_pages_end_with_a_line():
    """ftfy would take the vertical tab out and glue the words beside it; &#12; becomes a form feed in its hands."""
    made = "page one\x0cpage two\x0bits second line\x1ca file\u2028a line & more &#12;after"
    for _, change in repair.steps("NFC"):
        made = change(made)
    assert made.split("\n") == ["page one", "page two", "its second line", "a file", "a line & more ", "after"]


@pytest.mark.parametrize("words", [0, 4, 5, 6, 400, 3000])
def test_minhash_signatures_are_datatroves(words, tmp_path):
    """Bit by bit, for texts below one shingle, of several pieces, with accents and with punctuation."""
    draw = random.Random(words)
    text = " ".join(draw.choice(["Élan,", "the", "2.5", "dog", "(end)", "naïve", "x" * 9]) for _ in range(words))
    theirs = MinhashDedupSignature(str(tmp_path), language=WORDS)
    mine = minhash.Signatures(str(tmp_path), language=WORDS)
    shingles = theirs.get_shingles(text)
    assert len(shingles) == max(0, words - 4)
    if len(shingles):
        assert mine.get_signature(shingles) == theirs.get_signature(shingles)


# ---------------------------------------------------------------------------------------------------------- the rules


def rule(step: str, text: str, margin: float = 0.1, **config) -> Ruling:
    """The first ruling of a step that is not keep."""
    found = [twins.rule(Document(text, "")) for twins in filters.build(step, RuleConfig(**config), margin)]
    return next((ruling for ruling in found if ruling.action != "keep"), KEEP)


@pytest.mark.parametrize(("count", "action"), [(50, "keep"), (49, "review"), (45, "review"), (44, "drop")])
def test_just_below_a_threshold_is_for_people(count, action):
    """At least 50 words, a tenth looser is 45: 45 to 49 are reviewed."""
    ruling = rule("length", "word " * count)
    assert ruling.action == action
    if action != "keep":
        assert (ruling.reason, ruling.score) == ("gopher_short_doc", count)
        assert ruling.detail == f"{count} words; at least 50"
    assert rule("length", "word " * count, margin=0).action == ("keep" if count == 50 else "drop")
    assert rule("length", "word " * count, min_words=None).action == "keep"


PROSE = "The cat and the dog have to be with us. "


@pytest.mark.parametrize(
    ("step", "text", "reason", "marked"),
    [
        ("repetition", "same line here\n" * 4 + "another line\nand a third", "gopher_dup_line_frac", "same line here"),
        ("quality", "words # with # that # have # more # letters #", "gopher_too_many_hashes", "#"),
        ("quality", "\n".join(["- the item of and"] * 10), "gopher_too_many_bullets", "- the item of and"),
        ("quality", PROSE * 6 + "lorem ipsum dolor.", "c4_lorem_ipsum", "lorem ipsum"),
        ("quality", PROSE * 6 + "if (x) { return; }", "c4_curly_bracket", "{"),
        ("quality", PROSE * 3, "c4_too_few_sentences", None),
        ("quality", "the and of\n" * 5 + PROSE, "fineweb_short_line_ratio", "the and of"),
    ],
)
def test_a_refused_text_comes_with_the_place(step, text, reason, marked):
    found = [twins.rule(Document(text, "")) for twins in filters.build(step, RuleConfig(min_punctuated_lines=None), 0)]
    ruling = next(v for v in found if v.reason == reason)
    assert ruling.action == "drop" and ruling.detail
    assert ruling.spans == () if marked is None else text[slice(*ruling.spans[0])] == marked


def test_every_reason_of_the_filters_is_explained():
    """A key that datatrove adds or renames would reach the reviewer bare."""
    import inspect
    import re

    from datatrove.pipeline.filters import FineWebQualityFilter

    from align.clean.rules import explain

    for cls in (GopherQualityFilter, GopherRepetitionFilter, FineWebQualityFilter):
        for key in re.findall(r'return False, f?"([\w{}]+)"', inspect.getsource(cls)):
            assert explain._stem(key.replace("{n}", "4")) in {*explain._EXPLAIN, "empty"}, key


def test_language_is_identified_offline():
    german = "Der Hund und die Katze sitzen im Garten und warten darauf, dass es endlich zu regnen aufhört."
    ruling = rule("language", german)
    assert ruling.action == "drop" and ruling.reason == "language" and "de" in ruling.detail
    assert rule("language", german, languages=["de"], min_stop_words=None).action == "keep"
    assert rule("language", PROSE * 3).action == "keep"


def test_boilerplate_lines_go_and_the_rest_stays_as_it_was(tmp_path):
    text = "A heading\n\n  Kept, with its indent.\nThis site uses cookies to work.\nPlease enable JavaScript.\nEnd"
    doc = documents_of(text)[0]
    out = list(apply.Lines(tmp_path, RuleConfig()).run([doc]))
    assert out[0].text == "A heading\n\n  Kept, with its indent.\nEnd"
    kept = documents_of(text)[0]
    kept.metadata[DECISION] = "keep"  # of a page that people keep, too
    assert next(apply.Lines(tmp_path, RuleConfig()).run([kept])).text == "A heading\n\n  Kept, with its indent.\nEnd"


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029 \t")), max_size=60))
def test_a_text_without_boilerplate_is_not_touched(text):
    """Whatever ends its lines; without the step `repair` there are many kinds of ends."""
    assume(not any(words in text.lower() for words in ("javascript", *POLICY_SUBSTRINGS)))
    doc = Document(text, "")
    assert apply._without_boilerplate(doc, filters.boilerplate(RuleConfig())) == (text, "")


def test_of_a_text_with_form_feeds_only_the_boilerplate_goes(tmp_path):
    doc = documents_of("page one\x0cpage two\x0cThis site uses cookies.\npage three")[0]
    out = list(apply.Lines(tmp_path, RuleConfig()).run([doc]))
    assert out[0].text == "page one\x0cpage two\x0cpage three"


def test_what_is_only_boilerplate_is_kept_whole_among_the_dropped_and_people_see_some(tmp_path):
    """Three pages of nothing else; one that was decided on passes, and counts as flagged when rules are graded."""
    args = CleanConfig(audit=2)
    pages = documents_of(*(f"Please enable JavaScript {n}." for n in range(4)), "A page.")
    pages[3].metadata[DECISION] = "keep"
    out = list(apply.block("boilerplate", tmp_path, args, RuleConfig()).run(pages))
    assert [doc.text for doc in out] == ["Please enable JavaScript 3.", "A page."]
    with gzip.open(tmp_path / "dropped/boilerplate/00000.jsonl.gz") as stream:
        assert [json.loads(line)["text"] for line in stream] == [f"Please enable JavaScript {n}." for n in range(3)]
    samples = tally.merged(tmp_path / "work/counts", "boilerplate").samples["only_boilerplate"]
    assert all(sample["text"].startswith("Please enable") for sample in samples)
    rows = [json.loads(line) for line in collect.collect(tmp_path, 2).read_text().splitlines()]
    assert [(row["rule"], row["reason"], row["weight"], row["why"]) for row in rows] == [
        ("boilerplate", "only_boilerplate", 2.0, "audit")
    ] * 2
    assert all(row["text"] for row in rows)
    left = list(Overrule(tmp_path, 5).run(out))  # the sample of what is kept has none that a rule flagged
    sample = (tmp_path / "work/queue/kept/audit-00000.jsonl").read_text()
    assert len(left) == 2 and "A page." in sample and "JavaScript" not in sample


# ------------------------------------------------------------------------------------------------------------- applying


def run_rule(folder: Path, docs: list[Document], say, rank: int = 0, audit: int = 2) -> list[str]:
    block = apply.Apply("lists", folder, lambda: lambda batch: [say(doc) for doc in batch], audit, batch=2)
    return [doc.text for doc in block.run(docs, rank)]


def say(doc: Document) -> Ruling | None:
    kinds = {"b": Ruling("drop", "bad", "it is bad", ((0, 1),)), "u": Ruling("review", "unsure"), "f": None}
    return kinds.get(doc.text[0], KEEP)


def test_drop_review_keep_and_a_rule_that_fails_on_one(tmp_path):
    out = run_rule(tmp_path, documents_of("keep 1", "bad 1", "u 1", "f 1", "keep 2"), say)
    assert out == ["keep 1", "keep 2"]
    with gzip.open(tmp_path / "dropped/lists/00000.jsonl.gz") as stream:
        rows = [json.loads(line) for line in stream]
    assert [(r["text"], r["reason"], r["spans"]) for r in rows] == [("bad 1", "bad", [[0, 1]])]
    unsure = (tmp_path / "work/queue/lists/unsure-00000.jsonl").read_text().splitlines()
    assert [(json.loads(row)["text"], json.loads(row)["reason"]) for row in unsure] == [
        ("u 1", "unsure"), ("f 1", "lists_failed"),
    ]  # fmt: skip
    counts = tally.merged(tmp_path / "work/counts", "lists")
    assert counts.counts["documents_in"] == 5 and counts.counts["documents_out"] == 2
    assert counts.tables["dropped"] == {"bad": 1}
    assert counts.tables["review"] == {"unsure": 1, "lists_failed": 1}


def test_decisions_win_and_the_rule_is_still_asked(tmp_path):
    """So that a rule's precision can be measured on documents that were decided on."""
    docs = documents_of("bad kept", "bad dropped", "keep it", "keep but dropped")
    for doc, decision in zip(docs, ("keep", "drop", None, "drop"), strict=True):
        doc.metadata |= {DECISION: decision} if decision else {}
    block = apply.Apply("lists", tmp_path, lambda: lambda batch: [say(doc) for doc in batch], 5)
    out = Overrule(tmp_path, 5).run(block.run(docs))
    assert [doc.text for doc in out] == ["bad kept", "keep it"]
    assert tally.merged(tmp_path / "work/counts", "lists").tables == {}
    assert tally.merged(tmp_path / "work/counts", "decisions").tables["dropped"] == {"reviewer": 2}
    rows = [json.loads(line) for line in collect.collect(tmp_path, 5).read_text().splitlines()]
    assert sorted((row["text"], row["verdict"]) for row in rows) == [
        ("bad dropped", "drop"), ("bad kept", "drop"), ("keep but dropped", "keep"), ("keep it", "keep"),
    ]  # fmt: skip


def test_the_audit_sample_is_the_same_for_any_number_of_tasks(tmp_path):
    """10 of 100 drops: each stands for 10."""
    docs = documents_of(*[f"bad {i}" for i in range(100)])
    found = []
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        for rank in range(parts):
            run_rule(folder, docs[rank::parts], say, rank, audit=10)
        rows = [json.loads(line) for line in collect.collect(folder, 10).read_text().splitlines()]
        found.append(sorted((row["id"], row["weight"], row["why"]) for row in rows))
    assert found[0] == found[1] and len(found[0]) == 10
    assert {weight for _, weight, _ in found[0]} == {10.0}
    assert {key for key, _, _ in found[0]} == set(sorted(doc.id for doc in docs)[-10:])


def test_no_audit_is_possible(tmp_path):
    sample = Largest(0, tmp_path / "a.jsonl")
    sample.offer({"id": "00"})
    sample.save()
    assert (tmp_path / "a.jsonl").read_text() == '{"offered":1}\n'


def test_a_half_written_file_of_a_killed_task_is_not_added_to(tmp_path):
    for _ in range(2):
        run_rule(tmp_path, documents_of("bad 1"), say)
    with gzip.open(tmp_path / "dropped/lists/00000.jsonl.gz") as stream:
        assert len(stream.readlines()) == 1
    run_rule(tmp_path, documents_of("fine"), say)
    assert not (tmp_path / "dropped/lists/00000.jsonl.gz").exists()


def test_equal_rows_are_equal_bytes_when_compressed(tmp_path, monkeypatch):
    made = []
    for second in (1.0, 2e9):
        monkeypatch.setattr("time.time", lambda second=second: second)
        with Sink(tmp_path / "a.jsonl.gz") as sink:
            sink.write({"a": 1})
        made.append((tmp_path / "a.jsonl.gz").read_bytes())
    assert made[0] == made[1]


# ----------------------------------------------------------------------------------------------------- near-duplicates


def write_clusters(folder: Path, clusters: dict[int, list[tuple[int, int]]]) -> None:
    """Files as datatrove's cluster step leaves them: shard -> [(document, cluster)]."""
    folder.mkdir(parents=True)
    for shard, pairs in clusters.items():
        data = b"".join(struct.pack("<2I", *pair) for pair in pairs)
        (folder / f"{shard:06d}.clusters").write_bytes(data)


def removed(folder: Path) -> dict[int, list[int]]:
    files = sorted(folder.glob("*.remove"))
    return {int(f.stem): [n for (n,) in struct.iter_unpack("<I", f.read_bytes())] for f in files}


def choose(folder: Path, decided: dict[str, str] = {}, **kept: int) -> dict[int, list[int]]:  # noqa: B006
    """What is removed of shards of eight documents each, `a0` to `h0` in shard 0; `kept` by people are documents."""
    decisions = Decisions(folder / "decisions.jsonl")
    for pair, decision in decided.items():
        decisions.add(pair, decision, reviewer="ann", rule="near_duplicates")
    for shard in (0, 1):
        docs = [Document("", f"{letter}{shard}", metadata={}) for letter in "abcdefgh"]
        for doc in docs:
            doc.metadata |= {DECISION: "keep"} if kept.get(doc.id) else {}
        assert list(copies.Named(folder).run(docs, rank=shard)) == docs
    copies.Choose(folder).run()
    return removed(folder / "work/near/clusters")


def test_the_first_of_a_cluster_stays_unless_reviewers_kept_another(tmp_path):
    """Cluster 0: documents d0, b1 and h1. Cluster 1: f0 and c1."""
    write_clusters(tmp_path / "work/near/clusters", {0: [(3, 0), (5, 1)], 1: [(1, 0), (2, 1), (7, 0)]})
    assert choose(tmp_path) == {0: [], 1: [1, 2, 7]}
    assert tally.merged(tmp_path / "work/counts", "clusters").tables["sizes"] == {"3": 1, "2": 1}
    assert choose(tmp_path, h1=1, b1=1) == {0: [3], 1: [2]}  # both that were kept stay, in the place of the first


def test_no_copy_of_one_may_be_a_copy_of_another(tmp_path):
    """All of a0, b0, c0, a1, b1 are in one cluster. b0 and a1 are no copies of a0, nor is b1 of b0."""
    write_clusters(tmp_path / "work/near/clusters", {0: [(0, 7), (1, 7), (2, 7)], 1: [(0, 7), (1, 7)]})
    assert choose(tmp_path, {"b0-a0": "keep"}) == {0: [2], 1: [0, 1]}
    assert choose(tmp_path, {"a1-a0": "keep"}) == {0: [2], 1: [0, 1]}  # of b0, which stays, a1 may be one
    assert choose(tmp_path, {"a1-b0": "keep", "b1-b0": "keep"}) == {0: [2], 1: [1]}  # b1 of a0
    assert choose(tmp_path, {"c0-a0": "drop", "b0-a0": "drop", "a1-a0": None}) == {0: [1, 2], 1: [0, 1]}


def test_a_copy_by_peoples_word_goes_while_what_it_is_a_copy_of_stays(tmp_path):
    """The rule finds c0 and d0 only; f1 is a copy of b0, whichever comes first, and of h1, which is not in the input."""
    write_clusters(tmp_path / "work/near/clusters", {0: [(2, 0), (3, 0)]})
    assert choose(tmp_path, {"f1-b0": "drop", "f1-h9": "drop"}) == {0: [3], 1: [5]}
    assert choose(tmp_path, {"b0-f1": "drop", "d0-c0": "keep"}) == {0: [], 1: [5]}
    assert choose(tmp_path, {"c0-d0": "drop", "d0-c0": "drop"}) == {0: [3], 1: [5]}, "one of the two is left"
    assert choose(tmp_path, f1=1) == {0: [1, 3], 1: []}
    assert choose(tmp_path, f1=1, b0=1, d0=1) == {0: [2], 1: [5]}, "both are good pages, and copies"
    assert choose(tmp_path, c0=1, d0=1, e0=1) == {0: [3], 1: [5]}
    files = {path.name for path in (tmp_path / "work/near/clusters").glob("000001.*")}
    assert files == {"000001.clusters", "000001.sizes", "000001.remove"}


# -------------------------------------------------------------------------------------------------------------- inputs

ROWS = [{"text": f"document {i}", "n": i} for i in range(5)]


def read(path: Path, **config) -> list[formats.Row]:
    args = CleanConfig(input=[str(path)], output_dir="x", **config)
    sources, problems = inputs.find(args)
    assert not problems, problems
    return [row for source in sources for row in inputs.rows(source, args)]


def write_kind(folder: Path, kind: str) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.Table.from_pylist(ROWS).schema) as writer:
            writer.write_table(pa.Table.from_pylist(ROWS))
    elif kind == "csv":
        path.write_text("text,n\n" + "".join(f"document {i},{i}\n" for i in range(5)))
    elif kind == "jsonl.zst":
        import zstandard

        path.write_bytes(zstandard.compress(lines[:60]) + zstandard.compress(lines[60:]))
    else:
        pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.bz2": bz2.compress, "jsonl.xz": lzma.compress}
        path.write_bytes(pack[kind](lines))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zst", "parquet", "arrow", "csv"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    rows = read(write_kind(tmp_path, kind))
    assert [row.text for row in rows] == [row["text"] for row in ROWS]
    assert [int(row.metadata["n"]) for row in rows] == list(range(5))


def test_a_saved_data_set_and_a_mixed_folder(tmp_path):
    import datasets

    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:2])}
    ).save_to_disk(str(tmp_path / "saved"))
    assert len(read(tmp_path / "saved")) == 5 and len(read(tmp_path / "saved", split="test")) == 2
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    write_kind(folder, "jsonl.gz")
    write_kind(folder / "deep", "parquet")
    (folder / "a.txt").write_text("one\nparagraph\n\n\n  \nand another\n")
    (folder / "README").write_text("no documents")
    shutil.copytree(tmp_path / "saved" / "train", folder / "linked")
    os.symlink(folder, folder / "deep" / "again")  # a circle
    assert [row.text for row in read(folder)][:2] == ["one\nparagraph", "and another"] and len(read(folder)) == 17
    assert [row.text for row in read(folder / "a.txt", text_documents="line")] == ["one", "paragraph", "and another"]
    assert len(read(folder / "a.txt", text_documents="file")) == 1
    os.symlink(tmp_path / "saved", folder / "mine")  # whoever sends a folder could name any of the reader's
    with pytest.raises(DataError, match="mine leads out of .*mixed"):
        read(folder)


def test_undecodable_bytes_nul_and_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text":"bom"}\r\n'
        + '{"text":"caf\u00e9 '.encode() + "caf\u00e9 \u201cx\u201d".encode("cp1252") + b'"}\n'
        b'{"text":"raw\x00nul"}\nno json\n\n{"other":1}\n{"text":7}\n[1]\n{"text":"n","x":NaN}\n{"text":"\\ud83d"}\n'
    )  # fmt: skip
    rows = read(path)
    assert [row.text for row in rows if not row.problem] == [
        "bom",
        "caf\u00e9 caf\u00e9 \u201cx\u201d",
        "rawnul",
        "n",
        "\ufffd",
    ]
    assert [row.problem for row in rows if row.problem] == ["not_json", "no_text", "text_is_no_string", "not_json"]
    assert rows[1].repaired == ("undecodable_bytes",) and rows[2].repaired == ("nul",)


def test_a_first_row_without_a_text_is_no_missing_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "here"}\n')
    (tmp_path / "b.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n')
    args = [CleanConfig([str(tmp_path / name)], str(tmp_path / "run")) for name in ("a.jsonl", "b.jsonl")]
    assert inputs.find(args[0])[1] == []
    assert "no column text" in inputs.find(args[1])[1][0]


def test_an_input_folder_that_holds_the_output_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("some text")
    assert "outside of it" in inputs.find(CleanConfig([str(tmp_path / "raw")], str(tmp_path / "raw/run")))[1][0]
    assert inputs.find(CleanConfig([str(tmp_path / "raw")], str(tmp_path / "run")))[1] == []


def test_empty_and_long_texts_of_columns_are_counted(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["", "x" * 3000, "\u00e9" * 600, "ok"]}), tmp_path / "a.parquet")
    found = columnar.stored(tmp_path / "a.parquet", "parquet", "text", 1000)
    assert [row.problem for row in found] == ["empty", "too_long", "too_long", ""]


def test_columns_are_json_whatever_they_hold():
    from decimal import Decimal

    found = {"price": Decimal("1.5"), "n": 1 << 80, "bytes": [b"caf\xe9"], "none": [float("nan"), 2.0], "é": "\ud83d"}
    assert json.loads(intake._columns(found)) == {
        "price": "1.5", "n": 1 << 80, "bytes": ["café"], "none": [None, 2.0], "é": "\ud83d",
    }  # fmt: skip


def run_read(tmp_path, *names: str, **config) -> tuple[list[Document], dict]:
    """Files through the first block and datatrove's reader: the documents, and what was counted."""
    from align.clean.blocks import reader

    args = CleanConfig([str(tmp_path / name) for name in names], str(tmp_path / "run"), on_damaged="skip", **config)
    found, problems = inputs.find(args)
    assert not problems, problems
    intake.Read(tmp_path / "run", [found], args).run()
    shards = sorted(path.name for path in (tmp_path / "run/work/read").glob("*.jsonl"))
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in shards))
    docs = list(reader(tmp_path / "run/work/read", tmp_path / "names").run()) if shards else []
    return docs, tally.merged(tmp_path / "run/work/counts", "read")


def test_a_users_columns_come_through_every_block_as_they_were(tmp_path):
    row = {"id": "new", "original_id": "mine", "_id": "mongo", "_score": 3, "source": {"name": "wiki"},
           "n": 12345678901234567890123, "columns": [1], "duplicate_count": 2, "x": 0.1}  # fmt: skip
    write_rows(tmp_path / "in.jsonl", [{"text": "some text", **row}])
    docs, _ = run_read(tmp_path, "in.jsonl")
    docs = list(intake.Repair(tmp_path / "run", RuleConfig(), True).run(docs))
    write.Final(tmp_path / "run", CleanConfig()).run(write.Mask(tmp_path / "run", RuleConfig()).run(docs))
    (out,) = [json.loads(line) for line in (tmp_path / "run/data/train-00000.jsonl").read_text().splitlines()]
    assert json.loads(out.pop("metadata")) == row
    assert out == {"text": "some text", "id": intake.identify("some text"), "source": "in.jsonl"}


def test_files_of_one_name_in_two_inputs_are_two_sources(tmp_path):
    for name in ("one", "two"):
        write_rows(tmp_path / name / "x.jsonl", [{"text": name}])
        write_rows(tmp_path / name / f"{name}.jsonl", [{"text": name, "source": ""}])
    docs, _ = run_read(tmp_path, "one", "two")
    assert [doc.metadata["source"] for doc in docs] == [
        "one.jsonl", str(tmp_path / "one/x.jsonl"), "two.jsonl", str(tmp_path / "two/x.jsonl"),
    ]  # fmt: skip


def test_a_row_that_is_nested_too_deep_is_counted(tmp_path):
    deep = '{"text": "t", "a": ' + '{"a": ' * 1010 + "1" + "}" * 1011
    (tmp_path / "a.jsonl").write_text("\n".join(['{"text": "before"}', deep, '{"text": "after"}']))
    docs, counted = run_read(tmp_path, "a.jsonl")
    assert [doc.text for doc in docs] == ["before", "after"]
    assert counted.tables["dropped"] == {"nested_too_deep": 1}


def test_a_name_that_is_no_text_is_read_and_shown(tmp_path):
    folder = os.fsencode(tmp_path / "raw")
    os.mkdir(folder)
    with open(folder + b"/caf\xe9.jsonl", "w") as stream:
        stream.write('{"text": "here"}\n')
    docs, _ = run_read(tmp_path, "raw")
    assert [(doc.text, doc.metadata["source"]) for doc in docs] == [("here", "caf\\xe9.jsonl")]
    args = CleanConfig([str(tmp_path / "raw")], str(tmp_path / "run"))
    found, _ = inputs.find(args)
    assert len(inputs.parents(args, found)["data"]["hash"]) == 64
    json.dumps([source.path for source in found], ensure_ascii=False).encode()  # can be written down anywhere
    direct = CleanConfig([os.fsdecode(folder + b"/caf\xe9.jsonl")], str(tmp_path / "run"))
    assert "caf\\xe9.jsonl: a name that is not UTF-8; name the folder" in inputs.find(direct)[1][0]


def test_what_a_folder_holds_and_nobody_reads_is_named(tmp_path):
    raw = tmp_path / "raw"
    write_rows(raw / "a.jsonl", ROWS)
    for name in ("part-00000", "b.jsonl.lz4", "_c.jsonl", "d.html"):
        (raw / name).write_text("rows")
    _, counted = run_read(tmp_path, "raw")
    (note,) = outcome._notes({"read": counted})
    assert note == f"Not read in {raw}: 4 other files (b.jsonl.lz4, d.html, part-00000, _c.jsonl)"
    (raw / "a.jsonl").unlink()
    problems = inputs.find(CleanConfig([str(raw)], str(tmp_path / "run")))[1]
    assert len(problems) == 1 and "no file that can be read, but 4 other files (b.jsonl.lz4" in problems[0]


def test_one_line_that_is_no_json_does_not_cost_its_file_wherever_it_stands(tmp_path):
    rows = [json.dumps(row) for row in ROWS]
    (tmp_path / "first.jsonl").write_text("\n".join(["# a comment", *rows]))
    (tmp_path / "middle.jsonl").write_text("\n".join([*rows, "# a comment", *rows]))
    for name, count in (("first.jsonl", 5), ("middle.jsonl", 10)):
        assert inputs.find(CleanConfig([str(tmp_path / name)], "x"))[1] == []
        found = read(tmp_path / name)
        assert [row.problem for row in found if row.problem] == ["not_json"] and len(found) == count + 1
    (tmp_path / "body.jsonl").write_text('# a comment\n{"body": "x"}\n')
    assert "no column text" in inputs.find(CleanConfig([str(tmp_path / "body.jsonl")], "x"))[1][0]


def test_a_text_that_is_not_utf_8_costs_its_parquet_file_nothing(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"row {n}".encode() for n in range(600)]
    texts[300] = b"caf\xe9"
    strings = pa.array(texts, pa.binary()).view(pa.string())
    table = pa.table(
        {"text": strings, "kinds": strings.dictionary_encode(), "in": pa.StructArray.from_arrays([strings], ["x"])}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert len(found) == 600 and found[300] == formats.Row(
        "café", {"kinds": "café", "in": {"x": "café"}}, repaired=("undecodable_bytes",)
    )
    assert found[299].repaired == () and found[299].text == "row 299"
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)  # one batch, which is read in slices
    assert read(tmp_path / "a.arrow") == found


def test_a_stray_quote_merges_no_rows(tmp_path):
    """Tab-separated values have no quoting; in comma-separated ones the line is told where the open quote begins."""
    rows = [f"{n}\ttext {n}" for n in range(10)]
    rows[2], rows[5] = '2\t"Yes, he said', '5\t"No'
    (tmp_path / "a.tsv").write_text("\n".join(["n\ttext", *rows]))
    assert [row.text for row in read(tmp_path / "a.tsv")][2:6] == ['"Yes, he said', "text 3", "text 4", '"No']
    lines = [
        "n,text",
        *(f'{n},"text, {n}\nof two lines"' for n in range(30)),
        '30,"open',
        *(f"{n},t" for n in range(31, 40)),
    ]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    args = CleanConfig([str(tmp_path / "b.csv")], "x")
    found: list = []
    with pytest.raises(
        formats.Damaged, match="damaged in the row that begins in line 62: unexpected end of data; a field"
    ):
        found.extend(row.text for row in inputs.rows(inputs.find(args)[0][0], args) if found.append(row.text))
    assert len(found) == 30 and found[3] == "text, 3\nof two lines"


def test_a_small_file_that_unpacks_to_a_large_one_is_read_in_a_line_of_memory(tmp_path):
    """100 MB in 10 kB: no more than a block or two of it is held at once."""
    import tracemalloc

    import zstandard

    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress((b"x" * 199 + b"\n") * 500_000))
    tracemalloc.start()
    with formats.open_bytes(tmp_path / "a.jsonl.zst", "zst") as stream:
        assert sum(1 for _ in formats.lines(stream, 1000)) == 500_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50_000_000, most


def test_sources_beyond_a_thousand_are_counted_together_and_add_up(tmp_path, monkeypatch):
    """Two of three are named, in and out alike, also where a named one lost all its documents."""
    monkeypatch.setattr(tally, "SOURCES", 2)
    rows = [{"text": f"text {n}", "source": s} for n, s in enumerate(["b", "a", "jo@example.com", "c", "a", "c"])]
    write_rows(tmp_path / "in.jsonl", rows)
    docs, _ = run_read(tmp_path, "in.jsonl")
    run = tmp_path / "run"
    docs = [doc for doc in intake.Repair(run, RuleConfig(), True).run(docs) if doc.metadata["source"] != "b"]
    write.Final(run, CleanConfig()).run(docs)
    sources = outcome._sources({step: tally.merged(run / "work/counts", step) for step in ("repair", "write")})
    assert {name: (row["documents_in"], row["documents_out"]) for name, row in sources.items()} == {
        "b": (1, 0), "a": (2, 2), "all others": (3, 3),
    }  # fmt: skip


def test_a_source_in_the_card_shows_no_personal_data(tmp_path):
    write_rows(tmp_path / "in.jsonl", [{"text": "a text", "source": "mail of jo@example.com"}])
    docs, _ = run_read(tmp_path, "in.jsonl")
    list(intake.Repair(tmp_path / "run", RuleConfig(), True).run(docs))
    counted = tally.merged(tmp_path / "run/work/counts", "repair")
    assert list(counted.tables["sources_in"]) == ["mail of ••@•••••••.•••"]


def test_personal_data_are_masked_in_the_source_and_in_all_columns(tmp_path):
    row = {"author": "Jane <jane@example.com>", "raw": {"html": ["<p>jane@example.com</p>"]}, "n": 1 << 70,
           "metadata": json.dumps({"by": "J\u00fcrgen\njane@example.com"}), "source": "jane@example.com"}  # fmt: skip
    write_rows(tmp_path / "in.jsonl", [{"text": "Write to jane@example.com", **row}])
    docs, _ = run_read(tmp_path, "in.jsonl")
    docs = list(intake.Repair(tmp_path / "run", RuleConfig(), True).run(docs))
    (doc,) = write.Mask(tmp_path / "run", RuleConfig()).run(docs)
    assert (doc.text, doc.metadata["source"]) == ("Write to <email>", "<email>")
    columns = json.loads(doc.metadata[COLUMNS])
    assert columns["author"] == "Jane <<email>>" and columns["raw"] == {"html": ["<p><email></p>"]}
    assert json.loads(columns["metadata"]) == {"by": "Jürgen\n<email>"} and columns["n"] == 1 << 70
    changed = tally.merged(tmp_path / "run/work/counts", "personal").tables
    assert changed["changed"] == {"email": 1, "other_columns": 1} and changed["masked"] == {"email": 1}


def test_settings_that_would_do_nothing_are_refused():
    for wrong in ({"personal_kinds": ["mail"]}, {"minhash_hashes": 0}, {"decontaminate_ngram": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RuleConfig(**wrong)


@pytest.mark.parametrize(("keep", "alike"), [(False, True), (True, False)])
def test_numbers_are_one_for_minhash_unless_they_are_kept(tmp_path, keep, alike):
    signer = minhash.near_signatures(tmp_path, RuleConfig(minhash_keep_numbers=keep))
    one, other = (signer.get_shingles(f"in the year {year} the old mill burned").tolist() for year in (1905, 1911))
    assert (one == other) is alike


def test_a_line_of_100_megabytes_is_counted_and_never_held(tmp_path):
    """Memory is measured by the largest single allocation that is asked of the stream: never more than the limit."""

    class Watched(io.BytesIO):
        most = 0

        def readline(self, size=-1):
            assert 0 < size <= 16_000_001
            return super().readline(size)

    data = b'{"text":"before"}\n{"text":"' + b"x" * 100_000_000 + b'"}\n{"text":"after"}\n'
    rows = list(formats.jsonl(Watched(data), "text", 16_000_000))
    assert [(row.text[:6], row.problem) for row in rows] == [("before", ""), ('{"text', "too_long"), ("after", "")]
    assert len(rows[1].text) <= 1000
    long = b"a\n\n" + (b"y" * 99 + b"\n") * 50 + b"\nb\n"
    found = list(formats.paragraphs(io.BytesIO(long), 1000))
    assert [(row.text[:1], row.problem) for row in found] == [("a", ""), ("y", "too_long"), ("b", "")]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl.gz", b'{"text":"x"}\n', "not a gz file"),
        ("a.jsonl", gzip.compress(b"x", mtime=0), "is a gz file, not text"),
        ("a.parquet", b"PAR1 and no more", "is damaged"),
        ("a.parquet", b"text", "not a parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"text":"x"}\n' * 9, mtime=0)[:20], "is damaged"),
        ("a.json", b'[{"text": 1}]', "one JSON array"),
        ("a.jsonl", b"plain words\n", "not JSON Lines"),
        ("a.jsonl", b'{"body":"x"}\n', "no column text"),
        ("a.txt", "hello".encode("utf-16"), "UTF-16"),
        ("a.docx", b"PK\x03\x04", "of an unknown kind"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "unpack it first"),
        ("a.arrow.zst", b"\x28\xb5\x2f\xfd", "unpack it first"),
        ("a.jsonl", b"", "every file is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_any_work(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    _, problems = inputs.find(CleanConfig(input=[str(tmp_path / name)], output_dir="x"))
    assert len(problems) == 1 and told in problems[0] and name in problems[0]


def test_all_problems_at_once(tmp_path):
    for name in ("a.parquet", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(b"words")
    _, problems = inputs.find(CleanConfig(input=[str(tmp_path), str(tmp_path / "c.jsonl")], output_dir="x"))
    assert len(problems) == 3


def test_damage_in_the_middle_keeps_what_was_before(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    draw = random.Random(0)
    rows = [{"text": f"{i} {draw.random()}"} for i in range(20_000)]
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path.write_bytes(data[: len(data) // 2])
    found = []
    with pytest.raises(formats.Damaged, match="is damaged"):
        args = CleanConfig(input=[str(path)], output_dir="x")
        for row in inputs.rows(inputs.find(args)[0][0], args):
            found.append(row.text)
    assert 9_000 < len(found) < 11_000 and found == [row["text"] for row in rows[: len(found)]]
    import zstandard

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(data)[:-100])
    with pytest.raises(EOFError):
        formats.open_bytes(path, "zst").read()


@pytest.mark.parametrize("latin", [False, True], ids=["utf-8", "latin-1"])
@pytest.mark.parametrize("kind", ["timestamp", "date32", "nested", "zone"])
def test_times_that_python_has_no_word_for_are_numbers(tmp_path, kind, latin):
    """Infinity in a dump of Postgres or Java; a time zone that this machine does not know."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    far, near = pa.array([0, 2**63 - 1], pa.timestamp("us")), pa.array([b"good", b"caf\xe9" if latin else b"fine"])
    column = {
        "timestamp": far, "date32": pa.array([0, 2**31 - 1], pa.date32()), "nested": pa.StructArray.from_arrays([far], ["at"]),
        "zone": pa.array([0, 1], pa.timestamp("us", "Nowhere/Town")),
    }[kind]  # fmt: skip
    texts = pa.StringArray.from_buffers(2, near.buffers()[1], near.buffers()[2])
    pq.write_table(pa.table({"text": texts, "when": column}), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row.text for row in rows] == ["good", "caf\xe9" if latin else "fine"]
    last = rows[1].metadata["when"]
    assert last == {"timestamp": 2**63 - 1, "date32": 2**31 - 1, "nested": {"at": 2**63 - 1}, "zone": 1}[kind]


def test_hub_names_are_streamed_and_a_wrong_one_is_told(monkeypatch):
    asked = []

    def load(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        if name == "no/such":
            raise ConnectionError("offline")
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load)
    args = CleanConfig(input=["user/corpus", "no/such"], output_dir="x", hub_config="en", split="validation")
    sources, problems = inputs.find(args)
    assert not problems and [source.kind for source in sources] == ["hub", "hub"]
    assert [row.text for row in inputs.rows(sources[0], args)] == [row["text"] for row in ROWS]
    assert asked == [("user/corpus", "en", "validation", True)]
    with pytest.raises(formats.Damaged, match="hub: offline"):
        next(inputs.rows(sources[1], args))


def test_small_files_share_a_task_and_order_is_kept():
    sources = [inputs.Input(str(i), "jsonl", bytes=size) for i, size in enumerate([4, 4, 4, 20, 1, 1])]
    groups = inputs.tasks(sources, 10)
    assert [[int(s.path) for s in group] for group in groups] == [[0, 1], [2], [3], [4, 5]]


# ------------------------------------------------------------------------------------------------ settings and helpers


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError) as told:
        CleanConfig(skip=["lenght"], text_documents="page", test_split_size=2, executor_options={"time": 1})
    assert all(word in str(told.value) for word in ("lenght", "text_documents", "test_split_size", "executor_options"))
    with pytest.raises(ConfigError, match="word_tokenizer datatrove"):
        RuleConfig(languages=["en", "zh"])


def test_every_setting_is_read():
    root = Path(inputs.__file__).parent.parent
    text = "".join(path.read_text() for path in root.rglob("*.py")) + "resume_from_checkpoint title"
    for name in (*CleanConfig.__dataclass_fields__, *RuleConfig.__dataclass_fields__):
        assert f".{name}" in text or name in ("resume_from_checkpoint",), name


@pytest.mark.parametrize(("kind", "options"), [("slurm", {"time": "1:00:00", "partition": "cpu"}), ("ray", {})])
def test_cluster_executors_are_datatroves_own(tmp_path, kind, options):
    """Construction only: running them needs a cluster."""
    args = CleanConfig(executor=kind, executor_options=options, workers=3)
    made = executors.executor(args, [], 7, tmp_path)
    assert type(made).__module__ == f"datatrove.executor.{kind}" and (made.tasks, made.workers) == (7, 3)
    with pytest.raises(ConfigError, match="partitions"):
        executors.executor(CleanConfig(executor=kind, executor_options={"partitions": 1}), [], 7, tmp_path)


def test_an_excerpt_holds_the_first_span():
    text = "a" * 5000 + "BAD" + "a" * 500
    part, spans = tally.excerpt(text, ((5000, 5003), (5499, 5503)))
    assert len(part) == 600 and [part[a:b] for a, b in spans][0] == "BAD"
    assert tally.excerpt("short", ((0, 2),)) == ("short", [[0, 2]])


def test_ids_are_of_the_text_and_lengths_fall_into_their_edges(tmp_path):
    """BLAKE2b-64 of "a", computed by another program: `b2sum -l 64`."""
    assert intake.identify("a") == "40f89e395b66422f"
    count = tally.Tally("s")
    for words in (0, 9, 10, 99_999, 100_000, 10**7):
        count.length("lengths", words)
    assert count.tables["lengths"] == {"0": 2, "1": 1, "12": 1, "13": 2}


def test_rows_of_a_run_are_its_training_split(tmp_path):
    write_rows(tmp_path / "run/data/train-00000.jsonl", ROWS)
    write_rows(tmp_path / "run/data/test-00000.jsonl", ROWS[:1])
    (tmp_path / "run/run.json").write_text('{"status": "complete", "recipe": "clean"}')
    assert len(read(tmp_path / "run")) == 5
    (tmp_path / "run/run.json").write_text('{"status": "running", "recipe": "clean"}')
    _, problems = inputs.find(CleanConfig(input=[str(tmp_path / "run")], output_dir="x"))
    assert len(problems) == 1
