"""The review queue: what is shown of a document, how rules are graded, and the page in a real browser."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, write_rows
from hypothesis import given
from hypothesis import strategies as st

from align.clean.review.decisions import Decisions
from align.clean.review.grades import quality
from align.clean.review.queue import AROUND, LEAD, STEP, WHOLE, Queue, pieces
from align.clean.review.server import Review, ReviewArguments, app
from align.report import untrusted
from align.run.errors import RunError

SCRIPT = '<script>document.title = "stolen"</script><img src=x onerror="document.title=1"> & <b>bold</b>'


def row(number: int, text: str, **more) -> dict:
    """A line of the queue; the id's hash decides on the order, so tests ask for documents by what they say."""
    return {"id": f"{number:016x}", "text": text, "source": "pages.jsonl", "rule": "lists", "reason": "list_explicit",
            "detail": "“rude” beside “clinic”", "spans": [], "score": None, "why": "unsure", "verdict": "review",
            "weight": 1.0, **more}  # fmt: skip


def make_run(folder: Path, rows: list[dict], **record) -> Path:
    write_rows(folder / "review" / "queue.jsonl", rows)
    (folder / "run.json").write_text(json.dumps({"recipe": "clean", "status": "complete", "config": {}, **record}))
    return folder


# ------------------------------------------------------------------------------------------------------------- queue


def joined(found: list[dict], marked: bool | None = None) -> str:
    return "".join(p["text"] for p in found if "text" in p and marked in (None, p["marked"]))


def test_a_short_document_is_shown_whole_with_its_spans_in_order():
    text = "ä😀 rude words in a clinic"
    found = pieces(text, [(20, 26), (3, 7), (5, 7), (40, 90)])
    assert [(p["text"], p["marked"]) for p in found] == [
        ("ä😀 ", False),
        ("rude", True),
        (" words in a c", False),
        ("linic", True),
    ]
    assert joined(found) == text
    assert pieces("", []) == []


def test_a_long_document_shows_the_regions_of_its_spans_and_says_what_it_leaves_out():
    text = "".join(f"{number:07d}\n" for number in range(25_000))  # 200 kB, every 8 characters say where they are
    found = pieces(text, [(100_000, 100_007)])
    gaps = [tuple(p["gap"]) for p in found if "gap" in p]
    assert gaps == [(LEAD, 100_000 - AROUND), (100_007 + AROUND, 200_000)]
    assert joined(found, True) == "0012500" and len(joined(found)) == LEAD + 2 * AROUND + 7
    assert len(joined(pieces(text, []))) == WHOLE
    many = pieces(text, [(at, at + 2) for at in range(0, 200_000, 5_000)])
    assert sum("gap" in p for p in many) == 20 and many[-1]["gap"][1] == 200_000


def test_a_gap_opens_in_steps_without_losing_or_repeating_a_character(tmp_path):
    text = "".join(f"{number:07d}\n" for number in range(25_000))
    queue = Queue(make_run(tmp_path, [row(1, text, spans=[[100_000, 100_007], [150_000, 150_007]])]))
    whole, todo = "", queue.show(f"{1:016x}")["pieces"]
    while todo:
        piece = todo.pop(0)
        if "gap" in piece:
            assert len(whole) == piece["gap"][0]
            more = queue.part(f"{1:016x}", *piece["gap"])
            assert len(joined(more)) <= STEP
            todo = more + todo
        else:
            whole += piece["text"]
    assert whole == text


def test_a_document_that_several_rules_flagged_is_one_with_several_reasons(tmp_path):
    rows = [
        row(1, "text", rule="lists", spans=[[0, 1]]),
        row(2, "other"),
        row(1, "text", rule="classifier", spans=[[2, 4]]),
    ]
    queue = Queue(make_run(tmp_path, rows))
    shown = queue.show(f"{1:016x}")
    assert len(queue) == 2 and [r["rule"] for r in shown["reasons"]] == ["lists", "classifier"]
    assert joined(shown["pieces"], True) == "txt"
    assert set(queue.ids(rule="lists")) == {f"{1:016x}", f"{2:016x}"} and queue.ids(rule="classifier") == [f"{1:016x}"]
    assert queue.ids(why="audit") == []


def test_of_a_pair_the_words_are_marked_that_the_other_one_lacks(tmp_path):
    rows = [
        row(1, "One. A red cat sat. Two.", spans=[[0, 3]], rule="near_duplicates", why="audit", verdict="drop",
            beside={"id": "b", "source": "kept.jsonl", "text": "One. A blue cat sat down. Two."}),
        row(2, "alone"),
    ]  # fmt: skip
    queue = Queue(make_run(tmp_path, rows))
    shown = queue.show(f"{1:016x}")
    assert joined(shown["pieces"], True) == "red" and joined(shown["beside"]["pieces"], True) == "blue down"
    assert joined(shown["beside"]["pieces"]) == "One. A blue cat sat down. Two."
    assert (shown["beside"]["name"], shown["beside"]["length"]) == ("b", 30)
    assert joined(queue.part(f"{1:016x}", 0, 99, beside=True)) == "One. A blue cat sat down. Two."
    assert queue.show(f"{2:016x}")["beside"] is None
    with pytest.raises(IndexError):
        queue.part(f"{2:016x}", 0, 9, beside=True)


@given(st.lists(st.sampled_from(["a", "b", " ", ".", "\n", "ä", "word", "? "]), max_size=40), st.data())
def test_without_its_marks_either_of_a_pair_is_the_same(parts, data):
    other = [data.draw(st.sampled_from(["", part, part, part + "x ", "a b. "])) for part in parts]
    texts = "".join(parts), "".join(other)
    spans = untrusted.apart(*texts)
    assert len({joined(pieces(text, held), False) for text, held in zip(texts, spans, strict=True)}) == 1


def test_long_copies_are_compared_in_seconds():
    """Sentences first: a megabyte with a word changed in each hundredth sentence."""
    sentences = [f"This is sentence {number} of a long page, and it ends here. " for number in range(20_000)]
    other = [s.replace("ends", "stops") if number % 100 == 50 else s for number, s in enumerate(sentences)]
    begun = time.process_time()
    spans, others = untrusted.apart("".join(sentences), "".join(other))
    assert len(spans) == len(others) == 200 and sum(end - start for start, end in spans) == 200 * 4
    assert time.process_time() - begun < 60


def test_the_order_is_shuffled_and_always_the_same(tmp_path):
    rows = [row(number, "x") for number in range(50)]
    one, two = Queue(make_run(tmp_path / "1", rows)), Queue(make_run(tmp_path / "2", rows[::-1]))
    assert one.ids() == two.ids() != sorted(one.ids())


def test_folders_without_a_queue_say_what_to_name(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        Queue(tmp_path / "nothing")
    with pytest.raises(RunError, match="it is a sft run, complete; run python recipes/clean.py to its end"):
        Queue(make_run(tmp_path / "a", [], recipe="sft"))
    with pytest.raises(RunError, match="it is a clean run, interrupted"):
        Queue(make_run(tmp_path / "b", [], status="interrupted"))
    (make_run(tmp_path / "c", [row(1, "x")]) / "review" / "queue.jsonl").open("a").write('{"id": "2"\n')
    with pytest.raises(RunError, match=r"queue.jsonl, line 2 is no row"):
        Queue(tmp_path / "c")


def test_decisions_are_beside_the_run_or_where_the_user_says(tmp_path):
    """Whatever its record says: whoever made the folder wrote that."""
    assert Queue(make_run(tmp_path / "a", [])).decisions().path == tmp_path / "a-decisions.jsonl"
    run = make_run(tmp_path / "b", [], config={"decisions": str(tmp_path / "diary.txt")})
    queue = Queue(run)
    assert queue.decisions().path == tmp_path / "b-decisions.jsonl" and queue.elsewhere == str(tmp_path / "diary.txt")
    assert queue.decisions(str(tmp_path / "mine.jsonl")).path == tmp_path / "mine.jsonl"


@pytest.mark.parametrize("content", ["dear diary", "dear diary\n", '{"a": 1}\n', "[" * 200_000, '{"id": "1", "decis'])
def test_a_file_without_one_decision_is_never_written_to(tmp_path, content):
    file = tmp_path / "diary.txt"
    file.write_text(content)
    with pytest.raises(RunError, match="diary.txt"):
        Decisions(file).add("1", "keep", reviewer="ann")
    empty = Decisions(tmp_path / "new.jsonl")
    file.rename(tmp_path / "new.jsonl")  # put there after the page was opened
    with pytest.raises(RunError, match="new.jsonl"):
        empty.add("1", "keep", reviewer="ann")
    assert (tmp_path / "new.jsonl").read_text() == content


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_decisions_are_not_written_through_a_planted_name(tmp_path, plant):
    kept = Decisions(tmp_path / "kept.jsonl")
    kept.add("1", "keep", reviewer="ann")
    before = kept.path.read_bytes()
    getattr(tmp_path / "run-decisions.jsonl", plant)(kept.path)
    with pytest.raises(RunError, match="is a link|second name"):
        Decisions(tmp_path / "run-decisions.jsonl").add("2", "drop", reviewer="ann")
    (tmp_path / "run-decisions.jsonl").unlink()
    (tmp_path / "run-decisions.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    with pytest.raises(RunError, match="link"):
        Decisions(tmp_path / "run-decisions.jsonl").add("2", "drop", reviewer="ann")
    assert kept.path.read_bytes() == before and not (tmp_path / "nothing.jsonl").exists()


class Said(dict):
    of = dict.get


def test_precision_and_recall_weigh_documents_by_how_rarely_they_were_sampled():
    """One unsure document each way, one audited drop that stands for 10, one kept one that stands for 100."""
    rows = [
        {"id": "a", "rule": "A", "verdict": "review", "weight": 1},
        {"id": "b", "rule": "A", "verdict": "review", "weight": 1},
        {"id": "c", "rule": "A", "verdict": "drop", "weight": 10},
        {"id": "d", "rule": "B", "verdict": "drop", "weight": 10},
        {"id": "k", "rule": "", "verdict": "keep", "weight": 100},
    ]
    said = Said(a="drop", b="keep", c="drop")
    a, b, every = quality(rows, said)
    assert (a["rule"], a["flagged"], a["reviewed"]) == ("A", 3, 3)
    assert a["precision"]["value"] == pytest.approx(11 / 12) and a["precision"]["n"] == 3
    # Kish: 12^2 / (1 + 1 + 100) = 1.41 documents, so the range is wide
    assert a["precision"]["low"] < 0.35
    assert a["recall"] is None, "nothing that the rules keep was reviewed: what they miss cannot be seen"
    assert b == {"rule": "B", "flagged": 1, "reviewed": 0, "precision": None, "recall": None}
    assert every["rule"] == "all rules" and every["flagged"] == 4
    a, b, every = quality(rows, Said(said, d="drop", k="drop"))
    assert a["recall"]["value"] == pytest.approx(11 / 121) and b["recall"]["value"] == pytest.approx(10 / 121)
    assert every["recall"]["value"] == pytest.approx(21 / 121) and every["precision"]["value"] == pytest.approx(21 / 22)


def test_a_step_with_several_reasons_is_graded_as_a_whole_and_by_reason():
    rows = [{"id": i, "rule": "quality", "reason": r, "verdict": "drop", "weight": 1} for i, r in ("ax", "by", "cy")]
    graded = quality(rows, Said(a="drop", b="keep", c="drop"))
    assert [(g["rule"], g["flagged"], g["precision"]["value"]) for g in graded] == [
        ("quality", 3, pytest.approx(2 / 3)), ("quality: x", 1, 1), ("quality: y", 2, 0.5), ("all rules", 3, pytest.approx(2 / 3)),
    ]  # fmt: skip


def test_nothing_reviewed_is_nothing_known():
    assert quality([], Said()) == [
        {"rule": "all rules", "flagged": 0, "reviewed": 0, "precision": None, "recall": None}
    ]
    flagged = quality([{"id": "a", "rule": "A", "verdict": "drop", "weight": 2}], Said())
    assert [entry["precision"] for entry in flagged] == [None, None]


def test_a_document_flagged_twice_counts_once_for_each_rule_and_once_for_all():
    rows = [{"id": "a", "rule": rule, "verdict": "review", "weight": 1} for rule in ("A", "B")]
    rows += [{"id": "k", "rule": "", "verdict": "keep", "weight": 4}]
    a, b, every = quality(rows, Said(a="drop", k="keep"))
    assert [entry["flagged"] for entry in (a, b, every)] == [1, 1, 1]
    assert every["recall"]["value"] == 1 and every["recall"]["n"] == 1


def test_copies_have_a_precision_and_count_in_no_rules_recall():
    """Two of three are copies; of the one bad page nothing was missed by A."""
    rows = [{"id": str(i), "rule": "near_duplicates", "reason": "n", "verdict": "drop", "weight": 5} for i in range(3)]
    rows += [{"id": "a", "rule": "A", "verdict": "drop", "weight": 1}, {"id": "k", "verdict": "keep", "weight": 9}]
    a, near, every = quality(rows, Said({"0": "drop", "1": "drop", "2": "keep", "a": "drop", "k": "keep"}))
    assert near["precision"]["value"] == pytest.approx(2 / 3) and near["recall"] is None
    assert a["recall"]["value"] == every["recall"]["value"] == 1 and every["precision"]["value"] == pytest.approx(
        11 / 16
    )


# --------------------------------------------------------------------------------------------------------- the server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true) -> None:
    """Wait for it; the page's security policy does not let playwright do so inside the page."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class Server:
    """The page over a queue, served from a thread of the test."""

    def __init__(self, run: Path, token: str | None = None):
        import uvicorn

        self.run, self.url = run, f"http://127.0.0.1:{free_port()}/"
        review = Review(Queue(run), Decisions(f"{run}-decisions.jsonl"), "ann")
        served = app(review, ReviewArguments(source=str(run), token=token, no_token=token is None))
        port = int(self.url.rstrip("/").rsplit(":", 1)[1])
        self.server = uvicorn.Server(
            uvicorn.Config(served, port=port, log_level="warning", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until(lambda: self.server.started)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


class Process:
    """`align review` in a process of its own, as a user starts it."""

    def __init__(self, run: Path, *arguments: str):
        self.run, self.arguments = run, arguments
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        code = "import sys; from align.clean.review.server import main; main(sys.argv[1:])"
        command = [
            sys.executable,
            "-c",
            code,
            "--source",
            str(self.run),
            "--reviewer",
            "ann",
            "--port",
            str(self.port),
            "--no_token",
        ]
        self.log = self.run.parent / f"{self.run.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *self.arguments], cwd=ROOT, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(self.url, timeout=5).read()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError("the server did not answer: " + self.log.read_text())

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(30)


TEXTS = {
    1: "Our clinic explains a rude word to young patients.",
    2: f"A page with {SCRIPT} in it.",
    3: "Zwölf Boxkämpfer 😀 jagen Viktor\n\n  quer über den großen Sylter Deich. NUL \x00 and half \ud800.",
    4: "word " * 40_000 + "the rude part " + "more " * 5_000,
    5: "a kept page about cats and mats",
    6: "the same page with one odd word. " * 1500,
}


@pytest.fixture()
def server(tmp_path):
    long = TEXTS[4].index("rude")
    rows = [
        row(1, TEXTS[1], spans=[[4, 10], [24, 33]]),
        row(
            2,
            TEXTS[2],
            rule="classifier",
            reason=f"classifier_{SCRIPT}",
            detail=SCRIPT,
            source=SCRIPT,
            spans=[[12, 20]],
            score=0.51,
        ),
        row(
            3,
            TEXTS[3],
            rule="quality",
            reason="gopher_too_many_hashes",
            detail="a # for every 9 words",
            spans=[[16, 17]],
        ),
        row(4, TEXTS[4], why="audit", verdict="drop", weight=3.0, spans=[[long, long + 4]]),
        row(5, TEXTS[5], rule="", reason="", detail="", why="audit", verdict="keep", weight=40.0),
        row(
            6,
            TEXTS[6],
            rule="near_duplicates",
            reason="near_duplicate",
            why="audit",
            verdict="drop",
            beside={"id": f"{7:016x}", "source": SCRIPT, "text": TEXTS[6] + f"<i>{SCRIPT}"},
        ),
    ]
    started = Server(make_run(tmp_path / "clean", rows))
    yield started
    started.stop()


@pytest.fixture()
def page(browser, server):
    errors: list[str] = []
    opened = browser.new_page(viewport={"width": 1100, "height": 800})
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(server.url)
    opened.wait_for_selector("#text:not(:empty)")
    yield opened
    opened.close()
    assert errors == []


def decided(server: Server) -> dict[str, str]:
    return {document: said["decision"] for document, said in Decisions(f"{server.run}-decisions.jsonl").rows.items()}


def shown_id(page) -> str:
    return page.inner_text("#where").split(" · ")[-1]


def press(page, key: str, says: str) -> None:
    """Press a key and wait until the page says what came of it."""
    page.evaluate("document.getElementById('saved').textContent = ''")
    page.keyboard.press(key)
    until(lambda: says in page.text_content("#saved"))


def go_to(page, number: int) -> None:
    for _ in range(len(TEXTS)):
        if shown_id(page) == f"{number:016x}":
            return
        before = shown_id(page)
        page.keyboard.press("n")
        until(lambda before=before: shown_id(page) != before)
    raise AssertionError(f"document {number} does not come")


def test_keep_drop_and_undo_by_keyboard_are_on_the_disk_when_the_page_says_so(page, server):
    first = shown_id(page)
    press(page, "k", "Saved: kept.")
    assert decided(server) == {first: "keep"}
    second = shown_id(page)
    assert second != first
    press(page, "d", "Saved: dropped.")
    assert decided(server) == {first: "keep", second: "drop"}
    press(page, "u", "Taken back")
    assert shown_id(page) == second and decided(server) == {first: "keep"}
    page.reload()
    page.wait_for_selector("#text:not(:empty)")
    until(lambda: page.text_content("#progress").startswith("1 of 6 documents decided"))
    assert shown_id(page) != first
    press(page, "u", "Taken back")  # also what was decided before the reload
    assert shown_id(page) == first and decided(server) == {}
    press(page, "u", "no decision to take back")


def test_a_note_is_typed_without_deciding_and_saved_with_the_decision(page, server):
    page.keyboard.press("m")
    page.keyboard.type("kept: duck")
    assert decided(server) == {}
    page.keyboard.press("Enter")
    document = shown_id(page)
    press(page, "k", "Saved: kept.")
    row = Decisions(f"{server.run}-decisions.jsonl").rows[document]
    assert (row["note"], row["reviewer"]) == ("kept: duck", "ann") and page.input_value("#note") == ""


def test_markup_in_a_document_is_text(page, server):
    go_to(page, 2)
    assert page.inner_text("#text") == TEXTS[2]
    assert SCRIPT in page.inner_text("#where") and SCRIPT in page.inner_text("#reasons")
    assert (
        page.evaluate("document.querySelectorAll('#document script, #document img, #reasons b').length") == 1
    )  # our own <b>
    assert "stolen" not in page.title() and page.inner_text("#text mark") == TEXTS[2][12:20]
    go_to(page, 3)
    assert page.inner_text("#text mark") == TEXTS[3][16:17]
    assert "😀 jagen Viktor\n\n  quer" in page.inner_text("#text")


def test_a_long_document_shows_its_span_and_opens_by_hand(page, server):
    go_to(page, 4)
    assert page.inner_text("#text mark") == "rude" and page.locator("#text .gap").count() == 2
    assert len(page.inner_text("#text")) < 2_000
    assert page.locator("#text mark").bounding_box()["y"] < 765, "above the buttons without scrolling"
    page.locator("#text .gap").first.click()
    until(lambda: len(page.text_content("#text")) > 20000)
    page.keyboard.press("j")
    page.wait_for_selector("#text mark.here")


def test_a_near_duplicate_is_shown_beside_what_was_kept(page, server):
    page.select_option("#rule", "near_duplicates")
    page.wait_for_selector("#document.pair #beside-text:not(:empty)")
    assert page.is_hidden("#where") and f"{6:016x}" in page.inner_text("#goes")
    assert f"{7:016x}" in page.inner_text("#beside") and "Is it a copy?" in page.inner_text("#reasons")
    assert page.locator("#text mark").count() == 0 and "<i><script>" in page.inner_text("#beside-text mark")
    left, right = (page.locator(f"#{name}").bounding_box() for name in ("text", "beside-text"))
    assert left["x"] + left["width"] < right["x"] and abs(left["y"] - right["y"]) < 2
    page.locator("#beside-text .gap").first.click()
    until(lambda: len(page.text_content("#beside-text")) > 20_000)
    assert len(page.text_content("#text")) < 10_000, "the other one is as it was"
    page.keyboard.press("j")
    page.wait_for_selector("#beside-text mark.here")
    press(page, "d", "Saved: dropped")
    assert decided(server) == {f"{6:016x}": "drop"}
    page.select_option("#rule", "")
    page.wait_for_selector("#document:not(.pair) #where:not([hidden])")
    assert page.is_hidden("#beside") and page.is_hidden("#goes")


def test_the_filter_skipping_and_the_table_of_rules(page, server):
    page.select_option("#rule", "classifier")
    until(lambda: page.text_content("#progress").startswith("0 of 1 document decided"))
    until(lambda: page.text_content("#saved") == "")
    assert shown_id(page) == f"{2:016x}"
    press(page, "n", "the only one left")
    press(page, "d", "Saved: dropped.")
    page.wait_for_selector("#done:not([hidden])")
    until(lambda: "100 %" in page.inner_text("#rules"))
    line = page.locator("#rules tr", has_text="classifier").inner_text().split()
    assert line[:5] == ["classifier", "1", "1", "100", "%"] and line[-1] == "–"
    page.select_option("#rule", "")
    page.wait_for_selector("#document:not([hidden])")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("k")  # no decision behind an open dialog
    page.keyboard.press("Escape")
    assert decided(server) == {f"{2:016x}": "drop"}


def test_a_key_held_down_decides_one_document(page, server):
    page.keyboard.down("k")
    for _ in range(5):
        page.keyboard.down("k")  # what a browser sends for a key that stays down: repeat is set
    page.keyboard.up("k")
    until(lambda: "Saved" in page.text_content("#saved"))
    time.sleep(0.3)
    assert len(decided(server)) == 1


def test_letters_are_keys_in_capitals_and_on_other_layouts(page, server):
    first = shown_id(page)
    press(page, "Shift+K", "Saved: kept.")
    second = shown_id(page)
    devtools = page.context.new_cdp_session(page)
    for key, code in (("k", "KeyD"), ("\u0432", "KeyD")):  # what the key says comes first; a Russian layout says no d
        if key == "k":
            page.keyboard.press("u")
            until(lambda: shown_id(page) == first)
        devtools.send("Input.dispatchKeyEvent", {"type": "keyDown", "key": key, "code": code, "text": key})
        devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "code": code})
        until(lambda: "Saved" in page.text_content("#saved"))
        page.evaluate("document.getElementById('saved').textContent = ''")
    assert decided(server) == {first: "keep", second: "drop"}


def test_it_fits_a_phone(browser, server):
    phone = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone.goto(server.url)
    phone.wait_for_selector("#text:not(:empty)")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("keep", "drop", "next", "undo"):
        box = phone.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40, (name, box)
    first = phone.inner_text("#where").split(" · ")[-1]
    phone.tap("#drop")
    until(lambda: "Saved: dropped" in phone.text_content("#saved"))
    assert decided(server) == {first: "drop"}
    phone.close()


@pytest.mark.slow
def test_a_killed_server_loses_no_decision_that_the_page_showed_as_saved(browser, tmp_path):
    rows = [row(number, f"document {number}") for number in range(200)]
    server = Process(make_run(tmp_path / "clean", rows))
    page = browser.new_page()
    saved: dict[str, str] = {}
    try:
        for round_ in range(5):
            page.goto(server.url)
            page.wait_for_selector("#text:not(:empty)")
            for number in range(3 + round_):
                document, key = shown_id(page), "kd"[number % 2]
                press(page, key, "Saved")
                saved[document] = {"k": "keep", "d": "drop"}[key]
            page.keyboard.press("k")  # on its way when the kill comes: saved or not, never half
            server.stop(signal.SIGKILL)
            held = decided(server)
            assert saved.items() <= held.items() and len(held) <= len(saved) + 1
            saved = held
            server.start()
        page.goto(server.url)
        until(lambda: page.text_content("#progress").startswith(f"{len(saved)} of 200"))
    finally:
        page.close()
        server.stop(signal.SIGKILL)
    assert len(saved) >= sum(range(3, 8))


def test_what_cannot_be_saved_is_said_and_the_document_stays(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_selector("#text:not(:empty)")
    first = shown_id(page)
    Path(f"{server.run}-decisions.jsonl").mkdir()  # nothing can be added to a folder
    page.keyboard.press("k")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "cannot be" in page.inner_text("#trouble") and shown_id(page) == first
    Path(f"{server.run}-decisions.jsonl").rmdir()
    press(page, "k", "Saved: kept.")
    assert page.is_hidden("#trouble") and decided(server) == {first: "keep"}
    page.close()


def test_it_opens_by_its_link_and_says_so_without_it(browser, tmp_path):
    server = Server(make_run(tmp_path / "clean", [row(1, "a private document")]), token="0123456789ab")
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.locator("#shut", has_text="#token=").wait_for()
    assert page.inner_text("body") == page.inner_text("#shut")
    page.goto(f"{server.url}#token=0123456789ab")
    page.locator("#text", has_text="a private document").wait_for()
    assert page.url == server.url and context.cookies() == []
    page.reload()
    page.locator("#text", has_text="a private document").wait_for()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.url}api/next?token=0123456789ab", timeout=20)
    context.close()
    server.stop()


def post(server: Server, path: str, value: dict, **headers: str) -> tuple[int, str]:
    ours = {"Content-Type": "application/json", "X-Align": "1"}
    with urllib.request.urlopen(urllib.request.Request(server.url + "api/enter", b"{}", ours), timeout=20) as answer:
        ours["X-Align-Session"] = json.load(answer)["session"]
    request = urllib.request.Request(server.url + path, json.dumps(value).encode(), {**ours, **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_requests_that_the_page_would_not_send_are_refused(server):
    assert post(server, "api/decide", {"id": "nobody", "decision": "keep"})[0] == 400
    assert post(server, "api/decide", {"id": f"{1:016x}", "decision": "burn"})[0] == 400
    assert post(server, "api/decide", {"id": f"{1:016x}"})[0] == 400
    for more in ({"note": "x" * 2001}, {"note": [["x"]]}, {"rule": "x" * 1000}, {"decision": "x" * 100_000}):
        status, said = post(server, "api/decide", {"id": f"{1:016x}", "decision": "drop", **more})
        assert status == 400 and len(said) < 200
    status, _ = post(server, "api/decide", {"id": f"{1:016x}", "decision": "drop"}, Origin="http://evil.example")
    assert status in (400, 403)
    assert decided(server) == {}


@pytest.mark.slow
def test_a_start_that_cannot_work_ends_in_a_sentence(tmp_path):
    code = "import sys; from align.clean.review.server import main; from align.run.launch import run; run(lambda: main(sys.argv[1:]))"
    for arguments, message in (
        (["--source", str(tmp_path)], "is no run (no run.json)"),
        ([], "source is needed"),
        (["--source", str(make_run(tmp_path / "empty", []))], "nothing waits for review"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
