"""The data card: every number on the page, nothing of a document's text ever run, legible by day, night and on a phone."""

from __future__ import annotations

import copy
import json
import re

import pytest
from test_report import CONTRAST, Reader

from align.clean.card.page import build, render, write
from align.report import untrusted
from align.report.numerals import number

SCRIPT = "<script>alert(1)</script>"
EVIL = f'{SCRIPT} <img src=x onerror=alert(2)> "quoted" & \x00NUL \u202eoverride\u202c [link](javascript:alert(3)) half \ud83d'
BEFORE = "Write to ann@example.org, or call. It\u00e2\u20ac\u2122s fine. SHARE THIS PAGE"
AFTER = "Write to <EMAIL>, or call. It\u2019s fine."


def est(value, low, high, n):
    return {"value": value, "low": low, "high": high, "n": n}


def step(name, given, kept, mega, *, dropped=None, review=None, changed=None, samples=(), what="", cites=""):
    """A step; the bytes out are those in less a thousand for every document that left."""
    return {
        "name": name, "what": what, "cites": cites, "documents_in": given, "documents_out": kept, "bytes_in": mega,
        "bytes_out": mega - 1000 * (given - kept), "dropped": dropped or {}, "review": review or {}, "changed": changed or {},
        "seconds": 1.5, "samples": list(samples),
    }  # fmt: skip


def example():
    """36,120 documents in; by hand: 36120 - 120 - 1880 - 2250 = 31870 out, and 4,250,000 of 60,000,000 bytes gone."""
    samples = [
        {
            "reason": "gopher_too_many_hashes",
            "detail": "a # for every 5 words; at most one for 10",
            "id": "0123456789abcdef",
            "source": "web-a.jsonl.gz",
            "text": "buy now ### best ### price",
            "spans": [[8, 11], [17, 20]],
        },
        {
            "reason": "gopher_too_many_hashes",
            "detail": "",
            "id": "fedcba9876543210",
            "source": SCRIPT,
            "text": EVIL,
            "spans": [[0, 25], [20, 30], [-4, 2], [900, 1000]],
        },
        {"reason": "empty", "detail": "no words", "id": "00ff00ff00ff00ff", "source": "b", "text": "", "spans": []},
        {"reason": "wide", "detail": "one word", "id": "aa" * 8, "source": "b", "text": "x" * 600, "spans": [[0, 600]]},
    ]
    steps = [
        step("read", 36120, 36120, 60_000_000, what="Documents are read, their encoding repaired and normalised.", changed={"mojibake": 41}),
        step("length", 36120, 36000, 60_000_000, dropped={"too_short": 120}, what="Documents of fewer than 50 words are dropped.", cites="Rae et al. 2021"),
        step("quality", 36000, 34120, 59_880_000, dropped={"gopher_too_many_hashes": 1871}, review={"gopher_too_many_hashes": 9}, samples=samples, what="Rules for symbols, lines and stop words.", cites="Rae et al. 2021; Raffel et al. 2020"),
        step("near-duplicates", 34120, 31870, 58_000_000, dropped={"near_duplicate": 2245}, review={"x": 5}, what="MinHash, 5-grams, 14 x 8."),
    ]  # fmt: skip
    return build(
        title="Data card: nano", made="2026-11-21", fingerprint="9f2c0a7be1d04455", steps=steps, command="python recipes/clean.py --config recipes/nano/clean.yaml",
        settings={"quality": {"gopher": True, "max_symbols": 0.1}, "languages": ["en", "de"], "none": None, SCRIPT: EVIL},
        totals={"bytes_out": 55_750_000, "tokens_out": 12_345_678, "test_documents": 318, "waiting": 14, "unsure": 14},
        decontamination={"n": 13, "shortest": 8, "hashes": 971, "sets": {"exam.jsonl": {"split": "test", "rows": 100, "texts": 300, "short": 298}}, "columns": {"exam.jsonl": ["question", SCRIPT]}},
        duplicates={"exact": {"clusters": 3, "removed": 4, "largest": 3, "sizes": {"2": 2, "3": 1}}, "near": {"clusters": 1100, "removed": 2245, "largest": 12, "sizes": {2: 900, 12: 200}}},
        lengths={"edges": [0, 50, 100, 200, 400, 800], "before": [10, 400, 20000, 15000, 710], "after": [0, 350, 17000, 14000, 520]},
        sources={"web-a.jsonl.gz": {"documents_in": 30000, "documents_out": 26000, "bytes_in": 50_000_000, "bytes_out": 46_000_000}, SCRIPT: {"documents_in": 6120, "documents_out": 5870, "bytes_in": 10_000_000, "bytes_out": 9_750_000}},
        changes=[{"id": "0123456789abcdef", "what": "personal_data", "before": BEFORE, "after": AFTER}, {"id": "x", "what": SCRIPT, "before": EVIL, "after": ""}],
        versions={"datatrove": "0.9"},
        review={"waiting": 14, "unsure": 14, "decided": 20, "decisions": {"path": "nano-decisions.jsonl", "count": 21, "version": "4f5e6a"}, "rules": [{"rule": "unwanted_list", "flagged": 30, "reviewed": 20, "precision": est(0.9, 0.7, 0.97, 20), "recall": None}]},
        speed={"seconds": 31.25, "megabytes_per_second": 1.92, "workers": 2, "peak_memory_bytes": 412_000_000},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page():
    return render(example())


def test_the_headline_by_hand(page):
    """1 - 31870/36120 = 0.11766; 1 - 55.75/60 = 0.07083; near-duplicates took 2245, quality 1871, length 120."""
    thin = "\u202f"
    assert f"36{thin}120 documents in, 31{thin}870 out." in page
    assert (
        f"11.8{thin}% of the documents and 7.1{thin}% of the bytes did not come through: 60.0 MB in, 55.8 MB out."
        in page
    )
    assert f"near-duplicates (2{thin}245), quality (1{thin}871), length (120)." in page
    assert (
        "14 documents wait for a person to decide and are not in the output." in page
        and "review queue holds" not in page
    )
    assert f"12{thin}345{thin}678 words are left." in page


def test_the_same_card_gives_the_same_bytes_and_stays_as_it_was(tmp_path):
    given = example()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, given)
    for file in ("card.json", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert given == example()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["card.json", "report.html"]
    read = json.loads((tmp_path / "a" / "card.json").read_text())
    assert read["totals"] == {"documents_in": 36120, "documents_out": 31870, "bytes_in": 60_000_000, "bytes_out": 55_750_000, "tokens_out": 12_345_678, "test_documents": 318, "waiting": 14, "unsure": 14}  # fmt: skip
    assert read["steps"][2]["samples"][1]["text"].endswith("half \ufffd")  # UTF-8 cannot hold half a pair
    assert render(read) == (tmp_path / "a" / "report.html").read_text()


def test_every_count_is_on_the_page(page):
    def counts(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                unseen = ("samples", "changes", "settings", "peak_memory_bytes", "bytes_in", "bytes_out", "edges")
                if key not in (*unseen, "rows", "hashes"):
                    yield from counts(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from counts(inner)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value

    text = re.sub(r"<[^>]+>", "|", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    found = list(counts(example()))
    assert len(found) > 45
    for value in found:
        assert re.search(rf"(?<![\d\u202f]){number(value)}(?![\d\u202f])", text), value


def test_the_page_is_whole_and_asks_for_nothing(page):
    read = Reader(page)
    assert len(read.ids) == len(set(read.ids))
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes and not any(key.startswith("on") for key in attributes)
        if target := attributes.get("href"):
            assert target.startswith("#") and target[1:] in read.ids, target
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert 'role="img"' in svg and not re.search(r"#[0-9a-f]{6}\b", svg)


def test_text_never_breaks_out(page):
    assert "<script" not in page and "<img" not in page and "onerror=alert" in page
    assert page.count("&lt;script&gt;") >= 7  # sample, source, setting (name, value), change, two tables
    assert "\x00" not in page and "\u202e" not in page and "&lt;U+0000&gt;NUL &lt;U+202E&gt;override" in page
    page.encode()


def test_marks_by_hand():
    """Ranges overlap, touch, stick out and come in any order; each character is marked at most once."""
    assert untrusted.merge([(20, 30), (0, 25), (-4, 2), (900, 1000), (5, 5)], 40) == [(0, 30)]
    assert untrusted.marked("a<b>c", [(1, 4)]) == "a<mark>&lt;b&gt;</mark>c"
    assert untrusted.marked("\x00ab", [[1, 2]]) == "&lt;U+0000&gt;<mark>a</mark>b"
    assert untrusted.marked("plain", []) == "plain"
    assert untrusted.marked("", [[0, 4]]) == ""
    assert untrusted.marked("abcd", [[3, 1], [2, 99]]) == "ab<mark>cd</mark>"


def test_differences_by_hand():
    left, right = untrusted.difference("to ann@x.org now <b>", "to <EMAIL> now <b>")
    assert left == "to <del>ann@x.org</del> now &lt;b&gt;" and right == "to <ins>&lt;EMAIL&gt;</ins> now &lt;b&gt;"
    assert untrusted.difference("same", "same") == ("same", "same")
    assert untrusted.difference("a b", "") == ("<del>a b</del>", "")
    left, right = untrusted.difference("w " * 3000, "w " * 3000)
    assert left.endswith(" …") and "<del>" not in left
    words = "".join(f"w{i:03d} " for i in range(200))  # both cut at 600: the end is not a change
    assert untrusted.difference(f"caf\u00c3\u00a9 {words}"[:600], f"caf\u00e9 {words}"[:600])[1].count("<ins>") == 1
    long = "".join(f"w{i:03d} " for i in range(100))  # 500 characters; 100 next to each change are shown
    left, right = untrusted.difference(f"{long}old {long}gone {long}", f"{long}new {long}{long}")
    assert left == f" … {long[-100:]}<del>old</del> {long[:99]} … {long[-100:]}<del>gone </del>{long[:100]} … "
    assert right == left.replace("<del>old</del>", "<ins>new</ins>").replace("<del>gone </del>", "")


def test_a_sample_in_the_queue_is_in_the_output():
    given = example()
    given["totals"]["waiting"] = given["review"]["waiting"] = 54
    text = render(given)
    assert "14 documents wait for a person" in text and "The review queue holds 40 other documents" in text
    assert (
        "54 documents in the queue without a decision: 14 that rules were unsure of, and a sample of 40 others" in text
    )


def test_copies_of_a_document_that_waits_are_told_apart_from_it():
    """Rules sent 14 documents to people; nine of them are copies of the five."""
    given = example()
    given["totals"] |= {"waiting": 7, "unsure": 5}
    text = render(given)
    assert "5 documents wait for a person to decide and are not in the output, with 9 copies of them." in text
    assert "The review queue holds 2 other documents" in text
    given["totals"] |= {"waiting": 1, "unsure": 1}
    assert "1 document waits for a person to decide and is not in the output, with 13 copies of it." in render(given)


def test_what_was_looked_for_and_which_decisions_held(page):
    """298 of 300 texts are too short to be looked for: two are left."""
    row = re.search(r"exam\.jsonl.*?</tr>", page, re.DOTALL)[0]
    assert re.findall(r">(\d+)<", row) == ["300", "2", "298"] and "question" in row
    assert "with 13 words in a row of a text" in page and "fewer than 8 words were not looked for" in page
    assert "21 decisions of nano-decisions.jsonl, version 4f5e6a" in page and ">datatrove</th>" in page


def test_samples_are_marked_on_the_page(page):
    assert "buy now <mark>###</mark> best <mark>###</mark> price" in page
    assert "Document 1: 0123456789abcdef, web-a.jsonl.gz" in page
    many = example()
    many["steps"][2]["samples"] = [{"reason": "r", "text": f"text number {i}"} for i in range(9)]
    text = render(many)
    assert "text number 3" in text and "text number 4" not in text and "quality: 9 samples" in text


def test_the_length_bins_by_hand(page):
    for words in ("0 to 49", "50 to 99", "400 to 799"):
        assert f">{words}</th>" in page
    open_ended = example()
    open_ended["lengths"] = {"edges": [0, 100], "before": [3, 4], "after": [1, 2]}
    assert ">100 and more</th>" in render(open_ended)


PARTS = ["decontamination", "versions", "duplicates", "lengths", "sources", "review", "changes", "settings", "speed", "fingerprint", "command", "made", "totals", "steps", "title"]  # fmt: skip


@pytest.mark.parametrize("key", PARTS)
def test_a_card_without(key):
    given = example()
    del given[key]
    text = render(given)
    read = Reader(text)
    assert not re.search(r">\s*(None|nan)\s*<", text)
    assert {a["href"][1:] for tag, a in read.tags if tag == "a"} <= set(read.ids)
    assert key not in read.ids


def test_hardly_anything():
    Reader(render({}))
    Reader(render(build(title="x", steps=[])))
    empty = {"name": "read", "documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
    text = render(build(title="x", steps=[empty], lengths={"edges": [0, 5], "before": [0], "after": [0]}))
    Reader(text)
    assert "0 documents in, 0 out." in text and 'id="lengths"' not in text and "<svg" not in text


def test_a_step_that_makes_text_longer():
    """Masks may be longer than what they hide: bytes grow, and the bar goes left of zero instead of failing."""
    given = copy.deepcopy(example())
    given["steps"].append(step("personal data", 31870, 31860, 55_000_000) | {"bytes_out": 55_600_000})
    assert "−1.0" in render(given)


def test_many_sources_are_summed():
    given = example()
    given["sources"] = {
        f"file-{i:03d}": {"documents_in": 1000 - i, "documents_out": 500, "bytes_in": 10, "bytes_out": 5}
        for i in range(60)
    }
    text = render(given)
    assert "file-039" in text and "file-040" not in text and ">20 more</th>" in text


@pytest.fixture
def opened(browser, page, tmp_path):
    """Open the page; afterwards nothing may have been said, asked of the network or shown in a dialog."""
    said, asked, contexts = [], [], []

    def visit(width, scheme):
        path = tmp_path / "report.html"
        path.write_text(page)
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not said and len(asked) == len(contexts), (said, asked)


BEYOND = (
    "inside => [...document.querySelectorAll('main *')].filter(e => !(inside && e.closest('.scroll, pre')) && !e.closest('svg') "
    "&& e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(width, scheme, opened):
    tab = opened(width, scheme)
    found = tab.evaluate(CONTRAST)  # opens every <details>; text at 4.5:1, `mark`, `del` and `ins` too
    assert not found["bad"] and found["seen"] > 100, found["bad"][:10]
    assert tab.evaluate("document.querySelectorAll('mark').length") >= 4
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not tab.evaluate(BEYOND, True)
    line = """() => { const lum = c => { const [r, g, b] = c.match(/\\d+/g).slice(0, 3).map(v => { v /= 255;
        return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
      const a = lum(getComputedStyle(document.querySelector('mark')).borderBottomColor),
        b = lum(getComputedStyle(document.body).backgroundColor); return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }"""
    assert tab.evaluate(line) >= 3, "a mark is told from the page without its colour"
    sizes = "() => [...document.querySelectorAll('svg text')].map(e => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b))"
    assert min(tab.evaluate(sizes)) >= 9


@pytest.mark.slow
def test_on_paper(opened, tmp_path):
    tab = opened(1280, "dark")
    tab.pdf(path=tmp_path / "card.pdf", format="A4", prefer_css_page_size=True)
    assert (tmp_path / "card.pdf").stat().st_size > 20_000
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 680, "height": 1000})
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.evaluate(BEYOND, False)
