"""The planted corpus: its truth is true, and the grades are what one would count by hand."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest
from conftest import ROOT
from planted import corpus, prose, scores, specimens


@pytest.fixture(scope="module")
def planted():
    return corpus.plant(0, 1000)


def test_shingles_and_jaccard_by_hand():
    """Seven words have three 5-grams, six have two; a word replaced at the end of seven leaves two of three: 2 / 4."""
    assert corpus.shingles("One two, THREE four-five!") == {("one", "two", "three", "four", "five")}
    a, b = corpus.shingles("a b c d e f g"), corpus.shingles("a b c d e f h")
    assert len(a) == 3 and corpus.jaccard(a, b) == 0.5
    assert corpus.shingles("in 1914 and 3.5 of") == {("in", "0", "and", "0", "of")}
    assert corpus.shingles("too few words") == set() and corpus.jaccard(set(), set()) == 1.0


def test_unrelated_documents_share_next_to_nothing():
    rng = random.Random(5)
    sets = [corpus.shingles(prose.document(rng)) for _ in range(150)]
    worst = max(corpus.jaccard(a, b) for a, b in combinations(sets, 2))
    assert worst < 0.05
    shared = sum(len(a & b) for a, b in combinations(sets, 2)) / math.comb(150, 2)
    assert shared < 2


def test_no_pattern_has_five_words_of_its_own_in_a_row():
    for form, letters in prose.FORMS:
        assert form.count("%s") == len(letters) >= 3
        assert not re.search(r"(?:\b[A-Za-z]+[^\w%]+){5}", form.replace("%s", "%")), form


def test_prose_reads_as_english():
    text = prose.join(prose.paragraphs(random.Random(1), 400))
    assert not re.search(r"\b[aA] [aeiou]|\ban [^aeiou]|%s|\b[NVWPHDY]\b", text)
    assert all(line.endswith(".") for line in text.split("\n"))
    words = text.split()
    assert 4 < sum(map(len, words)) / len(words) < 7  # Gopher: 3 to 10 characters


def test_the_truth_is_true(planted):
    rows, truth = planted
    texts = {row["planted"]: row["text"] for row in rows}
    assert len(rows) == len(texts) == 1000 and list(texts) == [f"d{i:06d}" for i in range(1000)]
    counts = Counter(fact["kind"] for fact in truth["documents"].values())
    for kind, share in corpus.SHARES.items():
        assert counts[kind] == round(1000 * share), kind
    near = 0
    for name, fact in truth["documents"].items():
        if fact["kind"] == "near":
            near += 1
            again = corpus.jaccard(corpus.shingles(texts[name]), corpus.shingles(texts[fact["of"]]))
            assert again == fact["jaccard"] and 0.5 < again < 1
            assert truth["documents"][fact["of"]]["kind"] == "good"
        if fact["kind"] == "exact":
            assert texts[name] == texts[fact["of"]]
        if fact["kind"] == "personal":
            assert fact["gone"] and all(part in texts[name] for part in fact["gone"] + fact["stays"])
        if fact["kind"] == "boilerplate":
            assert all(line in texts[name].split("\n") for line in fact["gone"])
        if fact["kind"] == "mojibake":
            assert all(part in texts[name] for part in fact["gone"])
            mended = texts[name].encode("cp1252").decode()
            assert all(part in mended for part in fact["stays"])
        if fact["kind"] == "contaminated":
            assert any(line in text for line in texts[name].split("\n") for text in truth["evaluation"])
    assert near == 100
    for cluster in truth["clusters"]:
        assert len(cluster["pairs"]) == math.comb(len(cluster["members"]), 2)
    counted = Counter(min(7, int((f["jaccard"] - 0.6) / 0.05)) for f in truth["documents"].values() if "jaccard" in f)
    assert all(counted[band] >= 3 for band in range(8)), counted


def test_checksums_by_hand():
    """Luhn's own example 7992739871 takes a 3; the registry's example of a German IBAN is DE89 3704 0044 0532 0130 00."""
    assert specimens.luhn("7992739871") == "79927398713"
    assert specimens.iban("DE", "370400440532013000") == "DE89370400440532013000"


def test_the_same_seed_gives_the_same_corpus(planted, tmp_path):
    """In another process as well, whose sets have another order."""
    code = (
        "import json, sys; from pathlib import Path; from planted import corpus; "
        "rows, truth = corpus.plant(0, 1000); corpus.write(rows, truth, Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        check=True,
        cwd=ROOT / "benchmarks",
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    corpus.write(*planted, tmp_path / "a")
    for name in ("raw/planted.jsonl", "raw/cp1252.jsonl", "evaluation.jsonl", "truth.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert corpus.plant(1, 200)[0] != corpus.plant(2, 200)[0]
    with pytest.raises(UnicodeDecodeError):
        (tmp_path / "a/raw/cp1252.jsonl").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a/truth.json").read_text()) == planted[1]


def test_the_s_curve_by_hand():
    """0.5^8 = 1/256; 1 - (255/256)^14 = 0.0533. FineWeb gives 0.924 at 0.8 and its half point near 0.72."""
    assert scores.s_curve(0.5) == pytest.approx(0.0533, abs=1e-4)
    assert scores.s_curve(0.8) == pytest.approx(0.924, abs=1e-3)
    assert scores.s_curve(0.707) == pytest.approx(0.5, abs=0.1)
    assert scores.s_curve(0.0) == 0 and scores.s_curve(1.0) == 1


def truth_by_hand():
    """Two pairs at 0.9, one at 0.75, one at 0.62, three at 0.85 in a chain, and two good documents."""
    pairs = [("a", "b", 0.9), ("c", "d", 0.9), ("e", "f", 0.75), ("g", "h", 0.62)]
    clusters = [{"members": [a, b], "pairs": [[a, b, j]]} for a, b, j in pairs]
    clusters.append({"members": ["x", "y", "z"], "pairs": [["x", "y", 0.85], ["y", "z", 0.85], ["x", "z", 0.7]]})
    names = "abcdefghxyz"
    documents = {name: {"kind": "near" if name in "bdfhyz" else "good"} for name in names} | {
        "good1": {"kind": "good"},
        "good2": {"kind": "good"},
    }
    return {"documents": documents, "clusters": clusters}


def test_near_duplicate_scores_by_hand():
    """Removed: b (0.9 with a), f (0.75 with e), x and z (0.85 with y), good1. d is left.

    At 0.8, components a-b, c-d, x-y-z: 1 + 1 + 2 to remove, one left over: recall 3/4. Of five removed, strict b, x, z;
    half f too; good1 is like nothing. Pairs alone: a-b found, c-d not (both 0.9), e-f found, g-h not.
    """
    truth = truth_by_hand()
    found = scores.near_duplicate_scores(set("acdeghy") | {"good2"}, truth)
    assert found["recall"]["value"] == 0.75 and found["recall"]["n"] == 4
    assert {k: v["value"] for k, v in found["precision"].items()} == {
        "planted": 0.8,
        "half": 0.8,
        "strict": 0.6,
        "linked": 0.6,
    }
    assert found["removed"] == 5 and found["unlike_anything_left"] == 1 and found["clusters_left_empty"] == 0
    bands = {round(band["from"], 2): band["found"] for band in found["bands"]}
    assert bands[0.9]["value"] == 0.5 and bands[0.75]["value"] == 1 and bands[0.6]["value"] == 0
    p = [scores.s_curve(j) for j in (0.9, 0.9, 0.75, 0.62)]
    assert found["linked_expected"] == pytest.approx((p[0] + p[1]) / sum(p))


def test_a_chain_is_linked_but_its_ends_are_not_alike():
    """x is left of x-y-z: y has 0.85 with x; z only 0.7, but 0.85 with y: strict 1/2, linked 2/2."""
    truth = truth_by_hand()
    found = scores.near_duplicate_scores(set(truth["documents"]) - {"y", "z"}, truth)
    assert {k: v["value"] for k, v in found["precision"].items()} == {
        "planted": 1,
        "half": 0.5,
        "strict": 0.5,
        "linked": 1,
    }


def test_scores_see_what_goes_wrong():
    truth = truth_by_hand()
    everything = scores.near_duplicate_scores(set(truth["documents"]), truth)
    assert everything["recall"]["value"] == 0 and everything["precision"]["strict"] is None
    nothing = scores.near_duplicate_scores(set(), truth)
    assert (
        nothing["recall"]["value"] == 1
        and nothing["precision"]["planted"]["value"] == 0
        and nothing["clusters_left_empty"] == 5
    )
    # what another step took is not graded: b's pair is no pair any more, good1 is nobody's fault
    kept = set("acdeghy") | {"good2"}
    taken = {"b": "quality", "good1": "length", "f": "near", "x": "near-duplicates", "z": "near"}
    found = scores.near_duplicate_scores(kept, truth, taken)
    assert found["expected"] == 3 and found["removed"] == 3 and found["not_graded"] == 2
    assert found["precision"]["planted"]["value"] == 1


def test_rule_scores_by_hand():
    """Two of three short ones gone; one good document taken with them: the length step is right in 2 of 3."""
    documents = {f"s{i}": {"kind": "short"} for i in range(3)} | {f"g{i}": {"kind": "good"} for i in range(4)}
    documents |= {
        "p": {"kind": "personal", "gone": ["x@y.org", "555"], "stays": ["192.168.0.1"]}, "e": {"kind": "excused"},
        "d1": {"kind": "exact", "of": "g0"}, "d2": {"kind": "exact", "of": "g0"},
    }  # fmt: skip
    kept = {"s2": "t", "g0": "t", "g1": "t", "g2": "t", "p": "write <email> or 555 from 192.168.0.1", "d1": "t"}
    taken = {"s0": "length", "s1": "length", "g3": "length", "d2": "exact"}
    kinds, steps = scores.rule_scores(kept, taken, {"documents": documents})
    assert kinds["short"]["recall"]["value"] == pytest.approx(2 / 3) and kinds["short"]["steps"] == {"length": 2}
    assert kinds["personal"]["recall"]["value"] == 0.5 and kinds["personal"]["spared"]["value"] == 1
    assert kinds["excused"]["waiting"] == 1 and kinds["excused"]["recall"]["value"] == 1
    assert kinds["exact"]["recall"]["value"] == 0.5  # g0 and d1 are both left
    assert steps["length"]["precision"]["value"] == pytest.approx(2 / 3) and steps["exact"]["precision"] is None


def test_an_outcome_is_read_from_a_run(tmp_path):
    import gzip

    (tmp_path / "data").mkdir()
    (tmp_path / "dropped/near").mkdir(parents=True)
    (tmp_path / "data/train-00000.jsonl").write_text('{"text": "a", "planted": "d1"}\n{"text": "no name"}\n')
    with gzip.open(tmp_path / "dropped/near/00000.jsonl.gz", "wt") as stream:
        stream.write('{"text": "b", "id": "1", "metadata": {"planted": "d2"}}\n')
        stream.write('{"text": "a"}\n{"text": "c"}\n{"text": "nobody\'s"}\n{"text": "c"}\n')
    rows = [{"text": text, "planted": f"d{i}"} for i, text in enumerate("cabacd")]
    assert scores.outcome(tmp_path, rows) == ({"d1": "a"}, {"d2": "near", "d3": "near", "d0": "near", "d4": "near"})


@pytest.mark.slow
def test_datatroves_own_minhash_follows_the_curve():
    """Its signatures on planted pairs, 14 x 8 by hand: each band within four standard errors of the S-curve."""
    dedup = pytest.importorskip("datatrove.pipeline.dedup.minhash")
    from datatrove.utils.hashing import HashConfig

    class Words:
        def word_tokenize(self, text):
            return text.split()

    signer = dedup.MinhashDedupSignature.__new__(dedup.MinhashDedupSignature)
    signer.config = dedup.MinhashConfig(hash_config=HashConfig(precision=64))
    signer.num_hashes, signer._parameters, signer.word_tokenizer = 112, None, Words()
    signer._hash_func = dedup.create_hash_func(signer.config.hash_config)
    rows, truth = corpus.plant(3, 3000)
    texts = {row["planted"]: row["text"] for row in rows}
    sums = {}
    for cluster in truth["clusters"]:
        for a, b, j in cluster["pairs"]:
            one, other = (signer.get_signature(signer.get_shingles(texts[name])) for name in (a, b))
            hit = any(x == y for x, y in zip(one, other, strict=True))
            sums.setdefault(int(20 * j), []).append((hit, scores.s_curve(j)))
    for band, found in sums.items():
        expected = sum(p for _, p in found)
        spread = math.sqrt(sum(p * (1 - p) for _, p in found)) + 0.5
        assert abs(sum(hit for hit, _ in found) - expected) < 4 * spread, (band / 20, len(found))
