"""`recipes/clean.py` really launched: any number of workers, kills, full disks, reviewers, broken files."""

from __future__ import annotations

import gzip
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_recipe, write_rows

from align.data import prepare
from align.run.arguments import DataArguments

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")

SUBJECTS = ["gardener", "teacher", "captain", "farmer", "doctor", "painter", "miller", "sailor", "baker", "weaver"]
VERBS = ["finds", "keeps", "paints", "mends", "carries", "watches", "sells", "borrows", "measures", "counts"]
THINGS = ["baskets", "lanterns", "bridges", "kettles", "ladders", "wagons", "letters", "blankets", "mirrors", "barrels"]
PLACES = ["harbour", "valley", "orchard", "market", "castle", "meadow", "forest", "village", "station", "island"]
SHAPES = [
    "The {0} of house {4} {1} {2} near the {3}.",
    "In the {3}, {4} {2} were left behind by a {0} who {1} nothing that anyone needs.",
    "Nobody at the {3} remembers how the {0} came to have {4} {2}.",
    "{4} times a year a {0} {1} old {2} and gives them to the {3}.",
    "With {2} on her cart, our {0} leaves for the {3} on day {4}.",
    "What a {0} {1} is written in book {4} of the {3}, beside the {2}.",
    "My friend, a {0}, {1} {2} until the bells of the {3} ring at {4}.",
    "Is it true that {4} {2} can be found below the {3}, as every {0} says?",
]
JUNK = "win # now # click # here # free # "


def page(seed: int) -> str:
    """English enough for every rule; two seeds share no line, and hardly a 5-gram."""
    draw = random.Random(seed)
    lines = []
    for shape in draw.sample(SHAPES, len(SHAPES)):
        who, does, what, where = (draw.choice(words) for words in (SUBJECTS, VERBS, THINGS, PLACES))
        number = draw.randrange(10**6)
        lines.append(shape.format(who, does, what, where, number))
    return " ".join(lines)


def alike(text: str) -> str:
    """The same page but for one word near its end: five of some 100 shingles differ, Jaccard 0.9."""
    head, _, tail = text.rpartition(" the ")
    return f"{head} this {tail}"


def corpus(folder: Path) -> list[str]:
    """200 pages in two files: 150 good ones, 20 exact copies, 20 near ones, 10 of junk. The good ones are returned."""
    good = [page(seed) for seed in range(150)]
    copies = good[:20]
    near = [alike(text) for text in good[20:40]]
    rows = [
        {"text": text, "id": n, "source": f"site{n % 3}"}
        for n, text in enumerate(good + copies + near + [JUNK * 20] * 10)
    ]
    write_rows(folder / "a.jsonl", rows[:90])
    with gzip.open(folder / "b.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows[90:])
    return good


SMALL = ["--shard_megabytes", "0.03", "--test_split_size", "0.1", "--keep_work"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    corpus(folder / "raw")
    return folder


@pytest.fixture(scope="module")
def done(world) -> Path:
    """A run straight through with one worker."""
    run_recipe("clean", "--input", world / "raw", "--output_dir", world / "one", "--workers", "1", *SMALL)
    return world / "one"


def content(run: Path) -> dict[str, bytes]:
    """All that a run made, without what holds times."""
    kept = ("data", "dropped", "review")
    return {
        str(f.relative_to(run)): f.read_bytes() for name in kept for f in sorted((run / name).rglob("*")) if f.is_file()
    }


def rows(run: Path, split: str = "train") -> list[dict]:
    return [json.loads(line) for f in sorted((run / "data").glob(f"{split}-*")) for line in f.read_text().splitlines()]


def step(run: Path, name: str) -> dict:
    card = json.loads((run / "card.json").read_text())
    return next(step for step in card["steps"] if step["name"] == name)


@pytest.mark.slow
def test_what_comes_out(done, world):
    """150 pages stay: 20 copies, 20 near-copies and the junk go, the first of each stays in its place."""
    out = rows(done) + rows(done, "test")
    good = [page(seed) for seed in range(150)]
    assert sorted(row["text"] for row in out) == sorted(good)
    assert [row["text"] for row in rows(done)] == [text for text in good if text in {row["text"] for row in rows(done)}]
    assert all("id" in json.loads(row["metadata"]) for row in out)  # one column, whatever the sources had
    assert {"text", "id", "source", "metadata"} == set(out[0]) and {row["source"] for row in out} == {
        "site0",
        "site1",
        "site2",
    }
    assert 4 <= len(rows(done, "test")) <= 30
    assert step(done, "exact duplicates")["dropped"] == {"exact_duplicate": 20}
    assert step(done, "near-duplicates")["dropped"] == {"near_duplicate": 20}
    assert sum(step(done, "repetition")["dropped"].values()) == 10
    card, record = json.loads((done / "card.json").read_text()), json.loads((done / "run.json").read_text())
    assert card["totals"]["documents_in"] == 200 and card["totals"]["documents_out"] == 150
    assert card["duplicates"]["exact"]["sizes"] == card["duplicates"]["near"]["sizes"] == {"2": 20}
    assert card["fingerprint"] == record["data"]["train"]["fingerprint"] and record["status"] == "complete"
    read = prepare.texts(DataArguments(dataset_name=str(done)), seed=0)  # what a training run reads and records
    assert (
        card["fingerprint"] == read.reports["train"].fingerprint
        and len(read.train) == record["data"]["train"]["rows_out"]
    )
    queue = [json.loads(line) for line in (done / "review/queue.jsonl").read_text().splitlines()]
    kept = {row["id"] for row in queue if row["why"] == "audit" and row["verdict"] == "keep"}
    assert kept and not kept & {row["id"] for row in rows(done, "test")}  # people look at no text that is held out
    sample = step(done, "near-duplicates")["samples"][0]
    assert sample["detail"].rpartition("kept: ")[2] in {row["id"] for row in out}
    assert sum(card["lengths"]["before"]) == 200 and sum(card["lengths"]["after"]) == 150
    assert (done / "report.html").stat().st_size > 1000 and not list((done / "data").glob(".*"))


@pytest.mark.slow
def test_two_workers_make_the_same_bytes_and_say_so_to_a_newcomer(done, world):
    told = run_recipe("clean", "--input", world / "raw", "--output_dir", world / "two", "--workers", "2", *SMALL)
    assert content(world / "two") == content(done)
    assert "near_duplicate 20" in told.stdout and "200 documents in, 150 out (75.0%)" in told.stdout
    assert str(world / "two/report.html") in told.stdout and "INFO" not in told.stderr + told.stdout


def start(world: Path, name: str, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "recipes/clean.py",
        "--input",
        world / "raw",
        "--output_dir",
        world / name,
        "--workers",
        "2",
    ]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*map(str, command), *SMALL, *more], cwd=ROOT, stdout=quiet, stderr=quiet)


def wait_for(condition, seconds: float = 300) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came"
        time.sleep(0.02)


def family(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read", "rules", "signatures", "write"])
def test_killed_and_resumed_gives_the_same_bytes(done, world, stage):
    import psutil

    name = f"killed-{stage}"
    process = start(world, name)
    completions = world / name / "work/logs" / stage / "completions"
    wait_for(lambda: process.poll() is not None or (completions.is_dir() and any(completions.iterdir())))
    assert process.poll() is None, "it ended before it could be killed"
    children = family(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in children), 20)  # nobody goes on writing
    arguments = ["--input", world / "raw", "--output_dir", world / name, "--workers", "2", *SMALL]
    refused = run_recipe("clean", *arguments, check=False)
    assert refused.returncode == 1 and "--resume_from_checkpoint last" in refused.stderr
    other = run_recipe("clean", *arguments, "--resume_from_checkpoint", "last", "--min_words", "40", check=False)
    assert other.returncode == 1 and "other settings (min_words)" in other.stderr
    before = {file: file.stat().st_mtime_ns for file in completions.iterdir()}
    run_recipe("clean", *arguments, "--resume_from_checkpoint", "last")
    assert content(world / name) == content(done)
    assert before.items() <= {file: file.stat().st_mtime_ns for file in completions.iterdir()}.items()  # not done twice


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_afterwards(done, world):
    """A limit of the size of files stands for the disk: the same error from the same calls."""
    command = [
        sys.executable,
        "recipes/clean.py",
        "--input",
        world / "raw",
        "--output_dir",
        world / "full",
        "--workers",
        "2",
    ]
    told = subprocess.run(
        [*map(str, command), *SMALL], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)),
    )  # fmt: skip
    assert told.returncode == 1 and "Traceback" not in told.stderr
    assert told.stderr.strip().count("\n") == 0 and "File too large" in told.stderr and "free space" in told.stderr
    run_recipe(
        "clean", "--input", world / "raw", "--output_dir", world / "full", *SMALL, "--resume_from_checkpoint", "last"
    )
    assert content(world / "full") == content(done)


@pytest.mark.slow
def test_reviewers_decisions_win_on_the_next_run(world, tmp_path):
    """A short page that was to be reviewed is kept, a good one dropped; copies of both are duplicates or dropped."""
    from align.clean.review.decisions import Decisions

    short, good = " ".join(page(1000).split()[:47]), page(1001)
    near = alike(good)
    write_rows(tmp_path / "a.jsonl", [{"text": text} for text in (short, short, near, good, page(1002), page(1003))])
    arguments = [
        "--input",
        tmp_path / "a.jsonl",
        "--output_dir",
        tmp_path / "run",
        "--workers",
        "1",
        "--min_sentences",
        "2",
    ]
    run_recipe("clean", *arguments)
    assert [row["text"] for row in rows(tmp_path / "run")] == [near, page(1002), page(1003)]
    queue = [json.loads(line) for line in (tmp_path / "run/review/queue.jsonl").read_text().splitlines()]
    waits = [row for row in queue if row["why"] == "unsure"]
    assert [(row["text"], row["rule"], row["reason"]) for row in waits] == [(short, "length", "gopher_short_doc")]
    ids = {row["text"]: row["id"] for row in queue}
    decisions = Decisions(tmp_path / "run-decisions.jsonl")
    for text, decision in ((short, "keep"), (good, "keep"), (page(1002), "drop")):
        decisions.add(ids[text], decision, reviewer="ann")
    run_recipe("clean", *arguments, "--overwrite")
    out = [row["text"] for row in rows(tmp_path / "run")]
    assert out == [short, good, page(1003)]  # of the near-duplicates now the one that was kept, not the first
    card = json.loads((tmp_path / "run/card.json").read_text())
    assert card["review"]["decided"] == 3 and card["review"]["waiting"] == len(queue) - 3
    length = next(rule for rule in card["review"]["rules"] if rule["rule"] == "length")
    assert length["reviewed"] == 1


@pytest.mark.slow
def test_people_say_which_near_duplicates_are_copies(tmp_path):
    """Each is shown beside what was kept; no copy: neither goes for the other. A copy goes as long as the other one stays,
    whatever the setting. Other rules rule on both as ever, and are not graded by it."""
    from align.clean.review.queue import Queue

    ones = [page(seed) for seed in range(4)]
    others = [alike(text) for text in ones]
    raw = [{"text": f"{text} Write to ann@x.org."} for pair in zip(ones, others, strict=True) for text in pair]
    write_rows(tmp_path / "a.jsonl", raw)
    arguments = ["--input", tmp_path / "a.jsonl", "--output_dir", tmp_path / "run", "--workers", "1"]

    def clean(*more) -> list[str]:
        run_recipe("clean", *arguments, *more)
        return [row["text"].removesuffix(" Write to <email>.") for row in rows(tmp_path / "run")]

    assert clean() == ones
    queue, pairs = Queue(tmp_path / "run"), {}
    for pair in queue.ids("near_duplicates"):
        removed = queue.text(pair).removesuffix(" Write to ann@x.org.")
        pairs[removed] = pair
        beside = "".join(piece["text"] for piece in queue.show(pair)["beside"]["pieces"])
        assert beside == f"{ones[others.index(removed)]} Write to <email>."  # as it is in the corpus
    assert sorted(pairs) == sorted(others)
    decisions = queue.decisions()
    for text, decision in zip(others, ("keep", "drop", "drop"), strict=False):
        decisions.add(pairs[text], decision, reviewer="ann", rule="near_duplicates")
    assert clean("--overwrite") == [ones[0], others[0], *ones[1:]]
    card = json.loads((tmp_path / "run/card.json").read_text())
    near = next(rule for rule in card["review"]["rules"] if rule["rule"] == "near_duplicates")
    assert (near["flagged"], near["reviewed"], near["recall"]) == (4, 3, None)
    assert near["precision"]["value"] == pytest.approx(2 / 3)
    assert card["review"]["decided"] == 3 and step(tmp_path / "run", "near-duplicates")["dropped"] == {
        "near_duplicate": 3
    }
    # a setting that finds none of them
    blind = ["--overwrite", "--minhash_buckets", "1", "--minhash_hashes", "100"]
    assert clean(*blind) == [ones[0], others[0], ones[1], ones[2], ones[3], others[3]]
    assert step(tmp_path / "run", "near-duplicates")["dropped"] == {"reviewer": 2}
    assert clean("--overwrite", "--skip", "near") == [row["text"].removesuffix(" Write to ann@x.org.") for row in raw]
    # what the copy is a copy of is not there any more
    write_rows(tmp_path / "a.jsonl", [row for row in raw if row != raw[2]])
    assert clean("--overwrite") == [ones[0], others[0], others[1], ones[2], ones[3]]
    write_rows(tmp_path / "a.jsonl", [raw[0], raw[0], raw[1]])
    clean("--overwrite", "--skip", "exact")
    assert Queue(tmp_path / "run").ids("near_duplicates") == [pairs[others[0]]]  # and no text beside itself


@pytest.mark.slow
def test_broken_files_stop_or_are_counted(world, tmp_path):
    data = gzip.compress("".join(json.dumps({"text": page(n)}) + "\n" for n in range(2000, 2200)).encode(), 1)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/cut.jsonl.gz").write_bytes(data[: len(data) * 3 // 4])
    (tmp_path / "raw/empty.jsonl").touch()
    lines = [json.dumps({"text": page(3000)}), "no json", '{"text": "%s"}' % ("x" * 50_000)]
    (tmp_path / "raw/odd.jsonl").write_text("\n".join(lines))
    arguments = [
        "--input",
        tmp_path / "raw",
        "--output_dir",
        tmp_path / "run",
        "--workers",
        "2",
        "--max_line_bytes",
        "20000",
    ]
    stopped = run_recipe("clean", *arguments, check=False)
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr
    assert "cut.jsonl.gz is damaged" in stopped.stderr and "--on_damaged skip" in stopped.stderr
    told = run_recipe("clean", *arguments, "--on_damaged", "skip", "--overwrite")
    assert "cut.jsonl.gz is damaged" in told.stdout and "documents read before" in told.stdout
    assert step(tmp_path / "run", "read")["dropped"] == {"not_json": 1, "too_long": 1}
    assert 100 < len(rows(tmp_path / "run")) < 180


def test_nothing_to_read_and_a_wrong_setting_are_told_at_once(tmp_path):
    told = run_recipe(
        "clean", "--input", tmp_path / "none.jsonl", "--output_dir", tmp_path / "run", "--lists", "nowhere", check=False
    )
    assert told.returncode == 1 and "none.jsonl" in told.stderr and "nowhere" in told.stderr
    assert not (tmp_path / "run").exists()


def test_nothing_is_lost_where_a_finished_run_is_made_again_with_a_slip(tmp_path):
    """All of it is told at once, and --overwrite has not emptied the folder by then."""
    write_rows(tmp_path / "a.jsonl", [{"text": page(1)}])
    write_rows(tmp_path / "exam.jsonl", [{"text": "too short"}])
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": "clean", "status": "complete"}))
    write_rows(run / "data/train.jsonl", [{"text": page(2)}])
    write_rows(run / "list.jsonl", [{"text": page(3)}])
    (tmp_path / "decisions.jsonl").write_text("<<<<<<< ours\n")
    arguments = ["--output_dir", run, "--overwrite", "--decisions", tmp_path / "decisions.jsonl"]
    slips = ["--input", tmp_path / "a.jsonl", "nobody/nothing", run / "data/train.jsonl", "--decontaminate",
             tmp_path / "exam.jsonl", "--executor", "slurm"]  # fmt: skip
    told = run_recipe("clean", *arguments, *slips, check=False)
    assert told.returncode == 1 and "Traceback" not in told.stderr
    assert "nobody/nothing is neither here nor to be had from the hub" in told.stderr
    assert "train.jsonl lies in the output_dir" in told.stderr and "no text of 8 words or more" in told.stderr
    assert "there is no sbatch here" in told.stderr and "missing 2 required positional arguments" in told.stderr
    assert "a merge left its marks there" in told.stderr
    told = run_recipe("clean", *arguments, "--input", tmp_path / "a.jsonl", "--decontaminate", "no/such", check=False)
    assert told.returncode == 1 and "decontaminate: no/such is neither here" in told.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "complete" and (run / "data/train.jsonl").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min_language_score": 7}, "min_language_score=7: from 0 to 1"),
        ({"max_top_ngrams": [0.2, 18]}, "max_top_ngrams=18: from 0 to 1"),
        ({"classifier_review": [0.3, 70]}, "classifier_review=70"),
        ({"min_words": 90, "max_words": 80}, "nothing would be left"),
        ({"resume_from_checkpoint": "banana"}, "resume_from_checkpoint=banana: last"),
    ],
)
def test_settings_that_cannot_be_meant(wrong, told):
    from align.clean.config import CleanConfig, RuleConfig
    from align.run.errors import ConfigError

    with pytest.raises(ConfigError, match=told):
        (CleanConfig if "resume_from_checkpoint" in wrong else RuleConfig)(**wrong)
    CleanConfig(resume_from_checkpoint="last")
    RuleConfig(max_duplicate_lines=None, min_words=None, max_words=5)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_in_a_sentence(done, world):
    """As the system does it where the memory runs out; the run goes on afterwards."""
    import psutil

    command = [sys.executable, "recipes/clean.py", "--input", world / "raw", "--output_dir", world / "oom"]
    process = subprocess.Popen(
        [*map(str, command), *SMALL, "--workers", "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    wait_for(lambda: process.poll() is not None or (world / "oom/work/logs/rules/completions").is_dir())
    found = [child for pid in family(process.pid) for child in [psutil.Process(pid)]]
    workers = [child for child in found if "forkserver" in " ".join(child.cmdline()) and not child.children()]
    workers[0].kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in told
    assert "a worker was killed by signal 9 (out of memory?)" in told and "fewer --workers" in told
    assert json.loads((world / "oom/run.json").read_text())["status"] == "failed"
    arguments = ["--input", world / "raw", "--output_dir", world / "oom", *SMALL, "--workers", "1"]
    run_recipe("clean", *arguments, "--resume_from_checkpoint", "last")
    assert content(world / "oom") == content(done)


@pytest.mark.slow
def test_interrupted_it_says_how_it_goes_on(world):
    command = [sys.executable, "recipes/clean.py", "--input", world / "raw", "--output_dir", world / "stopped"]
    process = subprocess.Popen(
        [*map(str, command), *SMALL, "--workers", "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    wait_for(lambda: process.poll() is not None or (world / "stopped/work/logs/read").is_dir())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip() == "interrupted; go on with the same command and --resume_from_checkpoint last"


@pytest.mark.slow
def test_a_run_killed_while_it_tidies_up_is_complete(tmp_path):
    """Here the process ends at the first file that is deleted: all that is left over is work/."""
    write_rows(tmp_path / "a.jsonl", [{"text": page(seed)} for seed in range(5)])
    arguments = ["--input", str(tmp_path / "a.jsonl"), "--output_dir", str(tmp_path / "run"), "--workers", "1"]
    code = (
        "import os, runpy, sys\nfrom align.clean import program\nfree = program._free\n"
        "program._free = lambda folder, args: os._exit(9) if folder.name == 'work' else free(folder, args)\n"
        f"sys.argv = ['recipes/clean.py', *{arguments!r}]\nrunpy.run_path('recipes/clean.py', run_name='__main__')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 9
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "complete"
    assert (tmp_path / "run/work").is_dir()
    told = run_recipe("clean", *arguments, "--resume_from_checkpoint", "last", check=False)
    assert "holds a finished run" in told.stderr and len(rows(tmp_path / "run")) == 5


@pytest.mark.slow
def test_people_can_review_what_is_left_where_all_of_it_waits(tmp_path):
    """Three short pages, one of them with two copies: three wait, nothing is out, and the run is finished."""
    from align.clean.review.queue import Queue

    short = [" ".join(page(seed).split()[:47]) for seed in range(3)]
    write_rows(tmp_path / "a.jsonl", [{"text": text} for text in [*short, short[0], short[0]]])
    arguments = ["--input", tmp_path / "a.jsonl", "--output_dir", tmp_path / "run", "--min_sentences", "2"]
    told = run_recipe("clean", *arguments, "--workers", "1")
    assert "5 documents in, 0 out" in told.stdout
    assert "3 documents that rules were unsure of, and a sample of 0 others" in told.stdout
    assert len(Queue(tmp_path / "run")) == 3
    read = json.loads((tmp_path / "run/card.json").read_text())
    assert (read["totals"]["unsure"], read["totals"]["waiting"], read["review"]["unsure"]) == (3, 3, 3)
    text = (tmp_path / "run/report.html").read_text()
    assert "3 documents wait for a person to decide and are not in the output, with 2 copies of them." in text
    assert "No document is left before people have decided. The thresholds are for web pages" in told.stdout
    told = run_recipe("clean", *arguments, "--overwrite", "--min_words", "60", check=False)  # the rules are sure
    assert told.returncode == 1 and "no document is left of 5" in told.stderr
    told = run_recipe("clean", *arguments, "--min_words", "60", check=False)  # there was nothing to go on with
    assert told.returncode == 1 and "no document is left of 5" in told.stderr


@pytest.mark.slow
def test_a_run_says_what_it_compared_its_documents_with(tmp_path, monkeypatch):
    """Decisions given by a relative path, an evaluation set of which most is too short, near-duplicates by our setting."""
    from align.clean.review.decisions import Decisions
    from align.clean.review.queue import Queue
    from align.run.errors import RunError

    write_rows(tmp_path / "a.jsonl", [{"text": page(seed)} for seed in range(6)])
    asked = " ".join(page(3).split()[:20])
    write_rows(tmp_path / "exam.jsonl", [{"ctx": asked, "ending": "no"}, {"ctx": "Is it?", "ending": "yes"}])
    local = ROOT / "runs" / f"test-{tmp_path.parent.name}-{tmp_path.name}.jsonl"  # the recipe runs in the repository
    try:
        first = Decisions(local)
        first.add("0" * 16, "drop", reviewer="ann")
        told = run_recipe(
            "clean", "--input", tmp_path / "a.jsonl", "--output_dir", tmp_path / "run", "--workers", "1",
            "--decisions", local.relative_to(ROOT), "--decontaminate", tmp_path / "exam.jsonl",
            "--decontaminate_columns", "ctx", "ending", "--minhash_ngram", "8",
        )  # fmt: skip
        line = f"{tmp_path / 'exam.jsonl'} (train; ctx, ending): 2 of 6 texts are looked for, 4 have fewer than 8 words"
        assert f"decontamination: {line}; a document that repeats only those is not found" in told.stdout
        assert page(3) not in [row["text"] for row in rows(tmp_path / "run")] and len(rows(tmp_path / "run")) == 5
        read, record = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("card", "run"))
        assert read["decontamination"] == record["decontamination"]
        assert "4" in (text := (tmp_path / "run/report.html").read_text()) and "What was looked for" in text
        assert record["config"]["decisions"] == str(local) and record["decisions"]["version"] == first.version
        assert record["parents"]["decisions"] == {"path": str(local), "hash": first.version} and first.version in text
        assert read["versions"] == record["versions"] and "data" in record["parents"]
        near = step(tmp_path / "run", "near-duplicates")
        assert near["cites"] == "MinHash, 8-grams, 14 buckets of 8 hashes"
        monkeypatch.chdir(tmp_path)
        assert Queue("run").elsewhere == str(local) and Queue("run").decisions(str(local)).version == first.version
        with pytest.raises(RunError, match="lacks 1 of the decisions"):  # what the record names is never opened
            Queue("run").decisions()
    finally:
        local.unlink(missing_ok=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"lacks 1 of the decisions that moved was made with.*cp moved/decisions\.jsonl"):
        Queue("moved").decisions()
    copy = tmp_path / "moved-decisions.jsonl"  # the two moved together
    copy.write_bytes((tmp_path / "moved/decisions.jsonl").read_bytes())
    assert Queue("moved").decisions().path == copy
    Decisions(copy).undo("0" * 16, reviewer="ann")  # taken back is not lacking
    assert Queue("moved").decisions().path == copy


def test_papers_are_cited_for_their_own_settings_only():
    from align.clean.card.outcome import _cites
    from align.clean.config import RuleConfig

    usual, own = RuleConfig(), RuleConfig(minhash_hashes=9, min_language_score=0.8, decontaminate_ngram=9)
    assert _cites("near", usual) == "MinHash, FineWeb's setting (arXiv:2406.17557): 5-grams, 14 buckets of 8 hashes"
    assert _cites("near", own) == "MinHash, 5-grams, 14 buckets of 9 hashes"
    assert _cites("language", usual).endswith("FineWeb's threshold of 0.65")
    assert _cites("language", own).endswith("a threshold of 0.8")
    assert "GPT-3" in _cites("decontamination", usual) and _cites("decontamination", own) == "9 words in a row"
