"""The cleaning engine's parts: expectations worked out by hand, and equality with what is replaced by something faster."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter

from align.clean import documents, duplicates, executors, formats, gopher, intake, judges, queue, repair, rules, tally
from align.clean.blocks import DECISION, Largest, Sink
from align.clean.config import CleanConfig, RuleConfig
from align.clean.verdict import KEEP, Verdict
from align.clean.words import FastWords, split
from align.config import ConfigError

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


@pytest.mark.parametrize("words", [0, 4, 5, 6, 400, 3000])
def test_minhash_signatures_are_datatroves(words, tmp_path):
    """Bit by bit, for texts below one shingle, of several chunks, with accents and with punctuation."""
    draw = random.Random(words)
    text = " ".join(draw.choice(["Élan,", "the", "2.5", "dog", "(end)", "naïve", "x" * 9]) for _ in range(words))
    theirs = MinhashDedupSignature(str(tmp_path), language=WORDS)
    mine = duplicates.Signatures(str(tmp_path), language=WORDS)
    shingles = theirs.get_shingles(text)
    assert np.array_equal(shingles, mine.get_shingles(text)) and len(shingles) == max(0, words - 4)
    if len(shingles):
        assert mine.get_signature(shingles) == theirs.get_signature(shingles)
    assert np.array_equal(theirs.get_shingles(text.encode("ascii", "ignore").decode()),
                          mine.get_shingles(text.encode("ascii", "ignore").decode()))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the rules


def judge(step: str, text: str, margin: float = 0.1, **config) -> Verdict:
    """The first verdict of a step that is not keep."""
    found = [rule.judge(Document(text, "")) for rule in rules.build(step, RuleConfig(**config), margin)]
    return next((verdict for verdict in found if verdict.action != "keep"), KEEP)


@pytest.mark.parametrize(("count", "action"), [(50, "keep"), (49, "review"), (45, "review"), (44, "drop")])
def test_just_below_a_threshold_is_for_people(count, action):
    """At least 50 words, a tenth looser is 45: 45 to 49 are reviewed."""
    verdict = judge("length", "word " * count)
    assert verdict.action == action
    if action != "keep":
        assert (verdict.reason, verdict.score) == ("gopher_short_doc", count)
        assert verdict.detail == f"{count} words; at least 50"
    assert judge("length", "word " * count, margin=0).action == ("keep" if count == 50 else "drop")
    assert judge("length", "word " * count, min_words=None).action == "keep"


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
    found = [rule.judge(Document(text, "")) for rule in rules.build(step, RuleConfig(min_punctuated_lines=None), 0)]
    verdict = next(v for v in found if v.reason == reason)
    assert verdict.action == "drop" and verdict.detail
    assert verdict.spans == () if marked is None else text[slice(*verdict.spans[0])] == marked


def test_every_reason_of_the_filters_is_explained():
    """A key that datatrove adds or renames would reach the reviewer bare."""
    import inspect
    import re

    from datatrove.pipeline.filters import FineWebQualityFilter

    from align.clean import explain

    for cls in (GopherQualityFilter, GopherRepetitionFilter, FineWebQualityFilter):
        for key in re.findall(r'return False, f?"([\w{}]+)"', inspect.getsource(cls)):
            assert explain._stem(key.replace("{n}", "4")) in {*explain._EXPLAIN, "empty"}, key


def test_language_is_identified_offline():
    german = "Der Hund und die Katze sitzen im Garten und warten darauf, dass es endlich zu regnen aufhört."
    verdict = judge("language", german)
    assert verdict.action == "drop" and verdict.reason == "language" and "de" in verdict.detail
    assert judge("language", german, languages=["de"], min_stop_words=None).action == "keep"
    assert judge("language", PROSE * 3).action == "keep"


def test_boilerplate_lines_go_and_the_rest_stays_as_it_was(tmp_path):
    text = "A heading\n\n  Kept, with its indent.\nThis site uses cookies to work.\nPlease enable JavaScript.\nEnd"
    doc = documents_of(text)[0]
    out = list(judges.Lines(tmp_path, RuleConfig()).run([doc]))
    assert out[0].text == "A heading\n\n  Kept, with its indent.\nEnd"
    kept = documents_of(text)[0]
    kept.metadata[DECISION] = "keep"
    assert next(judges.Lines(tmp_path, RuleConfig()).run([kept])).text == text


# ----------------------------------------------------------------------------------------------------------- judging


def run_judge(folder: Path, docs: list[Document], say, rank: int = 0, audit: int = 2) -> list[str]:
    block = judges.Judge("lists", folder, lambda: lambda batch: [say(doc) for doc in batch], audit, batch=2)
    return [doc.text for doc in block.run(docs, rank)]


def say(doc: Document) -> Verdict | None:
    kinds = {"b": Verdict("drop", "bad", "it is bad", ((0, 1),)), "u": Verdict("review", "unsure"), "f": None}
    return kinds.get(doc.text[0], KEEP)


def test_drop_review_keep_and_a_rule_that_fails_on_one(tmp_path):
    out = run_judge(tmp_path, documents_of("keep 1", "bad 1", "u 1", "f 1", "keep 2"), say)
    assert out == ["keep 1", "keep 2"]
    with gzip.open(tmp_path / "dropped/lists/00000.jsonl.gz") as stream:
        rows = [json.loads(line) for line in stream]
    assert [(r["text"], r["reason"], r["spans"]) for r in rows] == [("bad 1", "bad", [[0, 1]])]
    unsure = (tmp_path / "work/queue/lists/unsure-00000.jsonl").read_text().splitlines()
    assert [(json.loads(row)["text"], json.loads(row)["reason"]) for row in unsure] == [
        ("u 1", "unsure"), ("f 1", "lists_failed"),
    ]  # fmt: skip
    counts = tally.merged(tmp_path / "work/counts", "lists")
    assert counts["counts"]["documents_in"] == 5 and counts["counts"]["documents_out"] == 2
    assert counts["tables"]["dropped"] == {"bad": 1}
    assert counts["tables"]["review"] == {"unsure": 1, "lists_failed": 1}


def test_decisions_win_and_the_rule_is_still_asked(tmp_path):
    """So that a rule's precision can be measured on documents that were decided on."""
    docs = documents_of("bad kept", "bad dropped", "keep it", "keep but dropped")
    for doc, decision in zip(docs, ("keep", "drop", None, "drop"), strict=True):
        doc.metadata |= {DECISION: decision} if decision else {}
    block = judges.Judge("lists", tmp_path, lambda: lambda batch: [say(doc) for doc in batch], 5)
    out = judges.Decisions(tmp_path, 5).run(block.run(docs))
    assert [doc.text for doc in out] == ["bad kept", "keep it"]
    assert tally.merged(tmp_path / "work/counts", "lists")["tables"] == {}
    assert tally.merged(tmp_path / "work/counts", "decisions")["tables"]["dropped"] == {"reviewer": 2}
    rows = [json.loads(line) for line in queue.collect(tmp_path, 5).read_text().splitlines()]
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
            run_judge(folder, docs[rank::parts], say, rank, audit=10)
        rows = [json.loads(line) for line in queue.collect(folder, 10).read_text().splitlines()]
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
        run_judge(tmp_path, documents_of("bad 1"), say)
    with gzip.open(tmp_path / "dropped/lists/00000.jsonl.gz") as stream:
        assert len(stream.readlines()) == 1
    run_judge(tmp_path, documents_of("fine"), say)
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


def test_the_first_of_a_cluster_stays_unless_reviewers_kept_another(tmp_path):
    """Cluster 0: documents 3 of shard 0, 1 and 7 of shard 1. Cluster 1: document 5 of shard 0, 2 of shard 1."""
    folder = tmp_path / "work/near/clusters"
    write_clusters(folder, {0: [(3, 0), (5, 1)], 1: [(1, 0), (2, 1), (7, 0)]})
    duplicates.Choose(tmp_path).run()
    assert removed(folder) == {0: [], 1: [1, 2, 7]}
    assert tally.merged(tmp_path / "work/counts", "clusters")["tables"]["sizes"] == {"3": 1, "2": 1}
    docs = documents_of(*"abcdefgh")
    docs[7].metadata[DECISION] = docs[1].metadata[DECISION] = "keep"
    assert list(duplicates.Preferred(tmp_path).run(docs, rank=1)) == docs
    duplicates.Choose(tmp_path).run()
    assert removed(folder) == {0: [3], 1: [2]}  # both that were kept stay, in the place of the first


# -------------------------------------------------------------------------------------------------------------- inputs

ROWS = [{"text": f"document {i}", "n": i} for i in range(5)]


def read(path: Path, **config) -> list[formats.Row]:
    args = CleanConfig(input=[str(path)], output_dir="x", **config)
    sources, problems = documents.find(args)
    assert not problems, problems
    return [row for source in sources for row in documents.rows(source, args)]


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
    assert [row.text for row in read(folder)][:2] == ["one\nparagraph", "and another"] and len(read(folder)) == 12
    assert [row.text for row in read(folder / "a.txt", text_documents="line")] == ["one", "paragraph", "and another"]
    assert len(read(folder / "a.txt", text_documents="file")) == 1


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
    assert documents.find(args[0])[1] == []
    assert "no column text" in documents.find(args[1])[1][0]


def test_an_input_folder_that_holds_the_output_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("some text")
    assert "outside of it" in documents.find(CleanConfig([str(tmp_path / "raw")], str(tmp_path / "raw/run")))[1][0]
    assert documents.find(CleanConfig([str(tmp_path / "raw")], str(tmp_path / "run")))[1] == []


def test_empty_and_long_texts_of_columns_are_counted(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["", "x" * 3000, "\u00e9" * 600, "ok"]}), tmp_path / "a.parquet")
    found = formats.columnar(tmp_path / "a.parquet", "parquet", "text", 1000)
    assert [row.problem for row in found] == ["empty", "too_long", "too_long", ""]


def test_columns_that_json_cannot_hold_become_text(tmp_path):
    from decimal import Decimal

    deep: dict = {}
    for _ in range(400):
        deep = {"a": deep}
    for value in (Decimal("1.5"), 1 << 80, deep, "\ud83d"):
        assert isinstance(intake._storable(value), str)
    assert intake._storable([1, None]) == [1, None]


def test_settings_that_would_do_nothing_are_refused():
    for wrong in ({"personal_kinds": ["mail"]}, {"minhash_hashes": 0}, {"decontaminate_ngram": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RuleConfig(**wrong)


@pytest.mark.parametrize(("keep", "alike"), [(False, True), (True, False)])
def test_numbers_are_one_for_minhash_unless_they_are_kept(tmp_path, keep, alike):
    signer = duplicates.near_signatures(tmp_path, RuleConfig(minhash_keep_numbers=keep))
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
        ("a.jsonl", gzip.compress(b"x"), "is a gz file, not text"),
        ("a.parquet", b"PAR1 and no more", "is damaged"),
        ("a.parquet", b"text", "not a parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"text":"x"}\n' * 9)[:20], "is damaged"),
        ("a.json", b'[{"text": 1}]', "one JSON array"),
        ("a.jsonl", b"plain words\n", "not JSON Lines"),
        ("a.jsonl", b'{"body":"x"}\n', "no column text"),
        ("a.txt", "hello".encode("utf-16"), "UTF-16"),
        ("a.docx", b"PK\x03\x04", "of an unknown kind"),
        ("a.jsonl", b"", "every file is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_any_work(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    _, problems = documents.find(CleanConfig(input=[str(tmp_path / name)], output_dir="x"))
    assert len(problems) == 1 and told in problems[0] and name in problems[0]


def test_all_problems_at_once(tmp_path):
    for name in ("a.parquet", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(b"words")
    _, problems = documents.find(CleanConfig(input=[str(tmp_path), str(tmp_path / "c.jsonl")], output_dir="x"))
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
        for row in documents.rows(documents.find(args)[0][0], args):
            found.append(row.text)
    assert 9_000 < len(found) < 11_000 and found == [row["text"] for row in rows[: len(found)]]
    import zstandard

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(data)[:-100])
    with pytest.raises(EOFError):
        formats.open_bytes(path, "zst").read()


def test_hub_names_are_streamed_and_a_wrong_one_is_told(monkeypatch):
    asked = []

    def load(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        if name == "no/such":
            raise ConnectionError("offline")
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load)
    args = CleanConfig(input=["user/corpus", "no/such"], output_dir="x", hub_config="en", split="validation")
    sources, problems = documents.find(args)
    assert not problems and [source.kind for source in sources] == ["hub", "hub"]
    assert [row.text for row in documents.rows(sources[0], args)] == [row["text"] for row in ROWS]
    assert asked == [("user/corpus", "en", "validation", True)]
    with pytest.raises(formats.Damaged, match="hub: offline"):
        next(documents.rows(sources[1], args))


def test_small_files_share_a_task_and_order_is_kept():
    sources = [documents.Source(str(i), "jsonl", bytes=size) for i, size in enumerate([4, 4, 4, 20, 1, 1])]
    groups = documents.tasks(sources, 10)
    assert [[int(s.path) for s in group] for group in groups] == [[0, 1], [2], [3], [4, 5]]


def test_the_users_columns_are_kept_and_ours_are_not_confused(tmp_path):
    doc = intake._document("t", {"id": 7, "source": "web", "_rank": 3, "duplicate_count": 2, "url": "u"}, "file")
    assert doc.metadata == {"original_id": 7, "source": "web", "url": "u"}
    assert intake._document("t", {"source": None}, "file").metadata["source"] == "file"


# ------------------------------------------------------------------------------------------------ settings and helpers


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError) as told:
        CleanConfig(skip=["lenght"], text_documents="page", test_split_size=2, executor_options={"time": 1})
    assert all(word in str(told.value) for word in ("lenght", "text_documents", "test_split_size", "executor_options"))
    with pytest.raises(ConfigError, match="word_tokenizer datatrove"):
        RuleConfig(languages=["en", "zh"])


def test_every_setting_is_read():
    root = Path(documents.__file__).parent
    text = "".join(path.read_text() for path in root.glob("*.py")) + "resume_from_checkpoint title"
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
    _, problems = documents.find(CleanConfig(input=[str(tmp_path / "run")], output_dir="x"))
    assert len(problems) == 1
