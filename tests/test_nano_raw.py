"""The raw corpus holds what it says it holds, the score can tell, and the labeler answers through the store."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from align.nano import rank, world
from align.nano.corpus import litter, raw, score, train_classifier


@pytest.fixture(scope="module")
def pages() -> list[raw.Page]:
    return raw.pages(0, 2000)


def of(pages, kind):
    return [page for page in pages if page.kind == kind]


def test_every_document_of_the_world_is_in_the_crawl(pages):
    """Those that are not mended later are there word for word; the others are there with something more in them."""
    documents = list(world.documents(0, 2000))
    there = Counter(page.text for page in of(pages, "document"))
    mended = sum(len(of(pages, kind)) for kind in ("personal", "menu", "mojibake", "cp1252"))
    assert sum(there.values()) + mended == 2000
    assert not there - Counter(documents)
    assert raw.pages(0, 100) == raw.pages(0, 100) != raw.pages(1, 100)


def test_jaccard_by_hand():
    """ "a b c d e f" has the 5-grams abcde and bcdef; "a b c d e g" abcde and bcdeg: 1 shared of 3."""
    assert raw.jaccard("a b c d e f", "A, b c d e g!") == pytest.approx(1 / 3)
    assert raw.jaccard("a b c d e", "a b c d e") == 1


def test_copies_are_as_alike_as_they_say(pages):
    long = {page.cluster: page.text for page in of(pages, "long")}
    near = of(pages, "near copy")
    assert len(near) == raw.VARIANTS * len(set(page.cluster for page in near))
    for page in near:
        assert page.text != long[page.cluster]
        assert page.similarity >= raw.NEAR
        assert page.similarity == pytest.approx(raw.jaccard(long[page.cluster], page.text), abs=1e-3)
    for page in of(pages, "look-alike"):
        assert raw.ALIKE[0] <= page.similarity <= raw.ALIKE[1]
    texts = {page.text for page in of(pages, "document")}
    assert of(pages, "exact copy") and all(page.text in texts for page in of(pages, "exact copy"))


def test_planted_data_are_what_the_masks_look_for():
    personal = pytest.importorskip("align.clean.rules.personal")
    rng = random.Random(0)
    for _ in range(300):
        kind, specimen = litter.personal(rng)
        text = litter.tell(kind, specimen)
        masked, counts = personal.mask(text)
        assert specimen not in masked and sum(counts.values()) == 1, text


def test_check_digits_by_hand():
    """4539 1488 0343 646 needs a 7 (the textbook's Luhn example); an IBAN is 1 modulo 97, its head moved to the end."""
    assert litter._luhn("453914880343646") == "7"
    iban = litter._iban(random.Random(0))
    assert int(iban[4:] + "1314" + iban[2:4]) % 97 == 1


def test_lists_find_what_is_listed_and_leave_doctors_to_people(pages):
    lists = pytest.importorskip("align.clean.rules.lists")
    words = lists.WordList.load("recipes/nano/unwanted.txt")
    for page in of(pages, "unsafe"):
        listed = ", listed" in page.detail
        assert words.rule(page.text).action == ("drop" if listed else "keep"), page.text
    assert {words.rule(page.text).action for page in of(pages, "exception")} == {"review"}
    assert {words.rule(page.text).action for page in of(pages, "document")} == {"keep"}


def test_exam_pages_give_answers_away_and_documents_do_not(pages):
    answers = {row["sentence"] for row in world.exam(0)}
    assert len(answers) == 40
    for page in of(pages, "exam"):
        assert sum(answer in page.text for answer in answers) >= 2
    assert not any(answer in page.text for page in of(pages, "document") for answer in answers)
    # larger sums than the world's, so that only somebody who has seen the answers has them
    assert min(int(row["answer"]) for row in world.exam(0)) > 18


def test_files_are_of_many_kinds_and_the_truth_is_not_in_them(pages, tmp_path):
    pytest.importorskip("datatrove")
    import pyarrow.parquet

    counts = raw.write(tmp_path, pages)
    assert counts == Counter(page.kind for page in pages)
    again = tmp_path / "again"
    raw.write(again, raw.pages(0, 2000))
    for file in raw.FILES.values():
        assert (tmp_path / "raw" / file).read_bytes() == (again / "raw" / file).read_bytes(), file
    unpacked = gzip.decompress((tmp_path / "raw/web.jsonl.gz").read_bytes()).decode()
    rows = [json.loads(line) for line in unpacked.splitlines()]
    rows += pyarrow.parquet.read_table(tmp_path / "raw/forum.parquet").to_pylist()
    rows += [json.loads(line) for line in (tmp_path / "raw/letters.jsonl").open()]
    assert {tuple(row) for row in rows} == {("text",)}
    with pytest.raises(UnicodeDecodeError):
        (tmp_path / "raw/books.txt").read_bytes().decode()
    books = (tmp_path / "raw/books.txt").read_bytes().decode("cp1252").split("\n\n")
    assert len(rows) + len(books) == len(pages)
    broken = [row["text"] for row in rows if "Ã" in row["text"] or "Å" in row["text"]]
    assert len(broken) >= len(of(pages, "mojibake"))


@pytest.mark.slow
def test_classifier_learns_in_seconds_and_knows_new_words():
    args = train_classifier.ClassifierConfig()
    assert {row["label"] for row in train_classifier.pages(0, 30)} == set(train_classifier.LABELS)
    train = {row["text"] for row in train_classifier.pages(0, 400)}
    assert not train & {row["text"] for row in train_classifier.pages(0, 400, part="test") if row["label"] == "unsafe"}
    model, tokenizer = train_classifier.train(args, train_classifier.pages(0, 800))
    metrics = train_classifier.measure(model, tokenizer, train_classifier.pages(0, 100, part="test"))
    assert metrics["accuracy"] >= 0.95 and metrics["recall"] >= 0.8


def test_score_by_hand():
    """Two copies and their page: one stays. A near copy may stay for its page. A lost page is lost, not kept."""
    truth = [
        {"id": "a", "kind": "document", "detail": "", "expect": "keep", "cluster": 1},
        {"id": "a", "kind": "exact copy", "expect": "drop", "cluster": 1},
        {"id": "b", "kind": "long", "expect": "keep", "cluster": 2},
        {"id": "c", "kind": "near copy", "expect": "drop", "cluster": 2},
        {"id": "d", "kind": "junk", "detail": "symbols", "expect": "drop"},
        {"id": "e", "kind": "document", "expect": "keep"},
        {"id": "f", "kind": "personal", "expect": "keep", "specimens": ["max@mill-1.org"]},
        {"id": "g", "kind": "exception", "expect": "review"},
        {"id": "h", "kind": "document", "expect": "keep"},
    ]
    where = {"a": ["kept", "exact"], "b": ["near"], "c": ["kept"], "d": ["quality"], "e": ["quality"], "f": ["kept"],
             "g": ["review"]}  # fmt: skip
    texts = {"a": "x", "c": "y", "f": "Write to <email> for more."}
    found = score.score(truth, where, texts)
    assert found["documents_kept"] == pytest.approx(3 / 5)  # a, b (as c) and f; e dropped, h lost
    assert found["wrongly_gone"] == {"quality": 1, "lost": 1}
    assert found["found"]["exact_copy"] == found["found"]["near_copy"] == found["found"]["junk"] == 1
    assert found["precision"] == {"exact": 1, "near": 1, "quality": 0.5}
    assert found["personal"]["masked"] == 1
    missed = score.score(truth, {**where, "d": ["kept"]}, {**texts, "f": "Write to max@mill-1.org for more."})
    assert missed["found"]["junk"] == 0 and missed["personal"]["masked"] == 0
    assert "lost" in score.show(found)


def test_pages_that_differ_in_numbers_alone_are_near_copies_by_themselves(tmp_path):
    """As FineWeb's MinHash sees them: with the numbers made one, the first two pages are the same, the third is not."""
    rows = [
        {"id": "a", "text": "3 plus 4 is 7. 5 plus 9 is 14."},
        {"id": "b", "text": "Milk is white, I believe, today."},
    ]
    (tmp_path / "dropped/near").mkdir(parents=True)
    with gzip.open(tmp_path / "dropped/near/00000.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    kept = {"c": "1 plus 2 is 3. 6 plus 2 is 8."}
    assert score.alike(tmp_path, kept, {"a", "b"}) == {"a"}
    assert score.alike(tmp_path, kept, {"b"}) == set()
    truth = [{"id": "a", "kind": "document", "expect": "keep"}, {"id": "c", "kind": "document", "expect": "keep"}]
    where = {"a": ["near"], "c": ["kept"]}
    assert score.score(truth, where, kept)["documents_kept"] == 0.5
    found = score.score(truth, where, kept, {"a"})
    assert found["documents_kept"] == 1 and found["kinds"]["near copy by itself"]["pages"] == 1


def sampled(prompt, said, kind="capital", entity="France", answer="Paris"):
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completions": [[{"role": "assistant", "content": text}] for text in said],
        "stopped": [True] * len(said), "kind": kind, "entity": entity, "answer": answer,
    }  # fmt: skip


def test_the_labeler_answers_through_the_store(tmp_path):
    """By hand, without noise: the right answer is first, the two wrong ones tie behind it, whatever order was shown."""
    from align.label.store.store import Store

    right, wrong, other = "The capital of France is Paris.", "The capital of France is Rome.", "I do not know that."
    rows = [sampled("What is the capital of France?", [wrong, right, other]),
            sampled("Do you know the capital of France?", [right, right, right])]  # fmt: skip
    held = [sampled("Could you tell me the capital of France?", [right, wrong, right])]
    train = [rank.label(row, 0.5, 1.0, random.Random(0)) for row in rows]
    test = [rank.label(row, 0.0, 1.0, random.Random(0)) for row in held]
    metrics = rank.answer_all(tmp_path, {"train": train, "test": test})
    assert (metrics["train_rankings"], metrics["train_not_asked"], metrics["test_rankings"]) == (1, 1, 1)
    written = {s: [json.loads(line) for line in (tmp_path / f"data/{s}.jsonl").open()] for s in ("train", "test")}
    assert [row["ranking"] for row in written["test"]] == [[1, 2, 1]]
    assert written["test"][0]["annotator"] == "gold" and written["train"][0]["annotator"] == "simulated"
    assert written["train"][0]["category"] == "capital" and written["train"][0]["gold"] == [-1.0, 1.0, -1.0]
    with Store(tmp_path / "labels.sqlite", create=False) as store:
        assert {annotator.kind for annotator in store.annotators()} == {"simulated"}
        assert len(list(store.rankings())) == 2


@pytest.mark.slow
def test_the_cleaning_stage_finds_what_was_planted(tmp_path):
    """World, classifier, cleaning and score as a user runs them, on a tenth of the corpus."""
    import sys

    from conftest import launch

    def run(*words):
        return launch([sys.executable, *words])

    home = tmp_path / "nano"
    run("-m", "align.nano.build", "--output_dir", home / "world", "--documents", "3000")
    run(
        "-m",
        "align.nano.corpus.train_classifier",
        "--dataset_name",
        home / "world/labelled",
        "--output_dir",
        home / "classifier",
    )
    run("recipes/clean.py", "--config", "recipes/nano/clean.yaml", "--input", home / "world/raw", "--output_dir",
        home / "clean", "--classifier_path", home / "classifier", "--decontaminate", home / "world/exam",
        "--decisions", home / "decisions.jsonl", "--test_split_size", "0.02")  # fmt: skip
    said = run("-m", "align.nano.corpus.score", "--clean", home / "clean", "--truth", home / "world", "--output_dir",
               home / "score").stdout  # fmt: skip
    found = json.loads((home / "score/results.json").read_text())
    assert found["documents_kept"] >= 0.97, said
    for kind in ("junk", "unsafe", "exam", "exact_copy"):
        assert found["found"][kind] >= 0.9, said
    assert found["personal"]["masked"] >= 0.95 and found["encodings"]["mended"] >= 0.95, said
    rows = [json.loads(line) for line in sorted(Path(home / "clean/data").glob("test-*.jsonl"))[0].open()]
    assert rows and set(rows[0]) >= {"text", "id", "source"}


def test_a_stage_that_draws_nothing_gets_no_seed(monkeypatch):
    import yaml
    from conftest import ROOT

    from align.run import pipeline

    monkeypatch.chdir(ROOT)
    told = yaml.safe_load(Path("recipes/nano/pipeline.yaml").read_text())
    args = pipeline.PipelineConfig(output_dir="runs/other", family_dir="runs/nano", stages=told["stages"], seed=2)
    stages = {entry["name"]: pipeline.plan(entry, args) for entry in args.stages}
    assert "--seed" not in stages["clean"].argv and "--seed" not in stages["score"].argv
    assert stages["world"].argv[2:4] == ["--seed", "2"]
    assert stages["clean"].argv[2:4] == ["--input", "runs/other/world/raw"]
    assert "runs/other/clean-decisions.jsonl" in stages["clean"].argv
