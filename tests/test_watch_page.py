"""The page of runs in a real Chromium: keys, live growth, a restart, hostile text, a phone, light and dark."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time

import pytest
from conftest import write_rows

from align.follow.server import Watch, WatchArguments, app

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytestmark = pytest.mark.slow  # a browser and a server for each

SCRIPT = '<img src=x onerror="window.hurt=1"><script>window.hurt=2</script>'


def row(step, **values):
    return {"seconds": 2.0 * step, "step": step, **values}


def write(folder, rows, **facts):
    folder.mkdir(parents=True, exist_ok=True)
    record = {"recipe": "sft", "status": "complete", "wall_seconds": 75.0, "metrics": {}} | facts
    (folder / "run.json").write_text(json.dumps(record))
    write_rows(folder / "metrics.jsonl", rows)
    return folder


def until(true, what="it did not come"):
    """Wait for it; the page's security policy does not let playwright do so inside the page."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.03)


class Server:
    """The page over some folders, served from a thread of the test."""

    def __init__(self, *folders, port=0):
        import uvicorn

        if not port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        self.port, self.url = port, f"http://127.0.0.1:{port}/"
        served = app(Watch([str(folder) for folder in folders]), WatchArguments(no_token=True))
        self.server = uvicorn.Server(
            uvicorn.Config(served, port=port, log_level="warning", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until(lambda: self.server.started)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def home(tmp_path):
    """ppo (the newest), dpo and sft. Losses end alike, so that the numbers at the lines' ends would lie on each other."""
    home = tmp_path / "runs"
    started = "2026-11-28T0{}:00:00"
    write(
        home / "sft",
        [row(n, loss=4 - n / 10, grad_norm=0.5, only_sft=float(n)) for n in range(1, 21)],
        started=started.format(1),
    )
    write(
        home / "dpo",
        [row(n, loss=3 - n / 20, grad_norm=0.4) for n in range(1, 21)],
        started=started.format(2),
        recipe="dpo",
    )
    ppo = [
        row(n, loss=2.0, grad_norm=0.3, episode=64 * n, **{"objective/kl": n / 4, "objective/scores": -1.0})
        for n in range(1, 21)
    ]
    write(home / "ppo", ppo, started=started.format(3), recipe="ppo")
    return home


@pytest.fixture
def server(home):
    started = Server(home)
    yield started
    started.stop()


@pytest.fixture
def opened(browser):
    """Open the page in a browser of its own; afterwards no error may have been said on the console."""
    contexts, said = [], []

    def visit(url, width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 860}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("console", lambda message: said.append(message.text) if "Security Policy" in message.text else None)
        tab.goto(url)
        tab.wait_for_selector("figure svg path.line", state="attached")  # a level line has no height
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not said, said


def values(tab, metric):
    """What a plot reads: {'1': '2'}."""
    parts = [part.inner_text().split() for part in tab.query_selector_all(f"[data-metric='{metric}'] .values span")]
    return {number: " ".join(told) for number, *told in parts}


def names(tab):
    return [name.text_content() for name in tab.query_selector_all("#list b")]


def switched_on(tab):
    return [
        node.query_selector("b").text_content() for node in tab.query_selector_all("#list button[aria-pressed=true]")
    ]


def lines(tab, metric):
    return tab.query_selector_all(f"[data-metric='{metric}'] path.line:not(.faint)")


def test_runs_lie_over_each_other_and_numbers_switch_them(server, opened):
    tab = opened(server.url)
    assert names(tab) == ["ppo", "dpo", "sft"] and switched_on(tab) == ["ppo", "dpo", "sft"]
    assert values(tab, "loss") == {"1": "2", "2": "2", "3": "2"} and len(lines(tab, "loss")) == 3
    assert values(tab, "objective/kl") == {"1": "5"} and len(lines(tab, "objective/kl")) == 1  # the others have none
    titles = [node.text_content() for node in tab.query_selector_all("section .plots figcaption b")]
    assert titles == ["loss", "reward", "KL", "gradient norm"]
    assert [node.text_content() for node in tab.query_selector_all("details summary")] == [
        "other 2"
    ]  # episode, only_sft
    tab.keyboard.press("2")
    until(lambda: values(tab, "loss") == {"1": "2", "3": "2"})
    tab.reload()
    tab.wait_for_selector("figure svg path.line", state="attached")
    until(lambda: switched_on(tab) == ["ppo", "sft"])  # as it was left
    tab.keyboard.press("1")
    tab.keyboard.press("3")
    until(lambda: not tab.query_selector_all("figure"))
    assert "No run is switched on" in tab.inner_text("#nothing")


def test_values_are_read_by_keyboard_and_with_the_pointer(server, opened):
    tab = opened(server.url)
    tab.keyboard.press("ArrowRight")  # the first step: 4 - 0.1, 3 - 0.05
    assert values(tab, "loss") == {"1": "2", "2": "2.95", "3": "3.9"} and values(tab, "objective/kl") == {"1": "0.25"}
    assert tab.inner_text("#said") == "step 1: loss 1 2, 2 2.95, 3 3.9"
    tab.keyboard.press("Shift+ArrowRight")  # ten on
    assert values(tab, "loss") == {"1": "2", "2": "2.45", "3": "2.9"}
    tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#said").startswith("step 10: ")
    tab.keyboard.press("Escape")
    assert tab.inner_text("#said") == "" and values(tab, "loss") == {"1": "2", "2": "2", "3": "2"}
    box = tab.query_selector("[data-metric='loss'] svg").bounding_box()
    tab.mouse.move(box["x"] + 48, box["y"] + 60)  # where the lines begin
    until(lambda: values(tab, "loss")["3"] == "3.9")
    tab.mouse.move(5, 5)
    until(lambda: values(tab, "loss")["3"] == "2")


def test_along_episodes_and_time(server, opened):
    tab = opened(server.url)
    tab.keyboard.press("x")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#said") == "episode 64: loss 1 2" and len(lines(tab, "loss")) == 1  # only PPO has episodes
    tab.keyboard.press("x")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#said").startswith("2 s: loss 1 2, 2 2.95") and len(lines(tab, "loss")) == 3
    tab.keyboard.press("x")
    assert tab.input_value("#axis") == "step"


def test_smoothing_is_off_until_asked_for_and_a_log_scale_needs_positive_values(server, opened):
    tab = opened(server.url)
    assert tab.inner_text("#smoothed") == "off" and not tab.query_selector_all("path.faint")
    tab.keyboard.press("s")
    for _ in range(50):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Escape")
    assert tab.inner_text("#smoothed") == "0.50" and tab.query_selector_all("[data-metric='loss'] path.faint")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")  # (0.5 x 0.5 x 3.9 + 0.5 x 3.8) / 0.75 = 3.8333
    assert values(tab, "loss")["3"] == "3.833"
    tab.keyboard.press("Escape")
    labels = [node.text_content() for node in tab.query_selector_all("[data-metric='only_sft'] text:not(.name)")]
    tab.keyboard.press("l")
    assert tab.is_checked("#log")
    assert [
        node.text_content() for node in tab.query_selector_all("[data-metric='only_sft'] text:not(.name)")
    ] != labels
    below = [node.text_content() for node in tab.query_selector_all("[data-metric='objective/scores'] text:not(.name)")]
    assert "−1" in below and lines(tab, "objective/scores")  # below 0 there is no logarithm: it stays linear


def test_a_metric_is_found_by_either_name(server, opened):
    tab = opened(server.url)
    tab.keyboard.press("/")
    tab.keyboard.type("kl")
    visible = [node.get_attribute("data-metric") for node in tab.query_selector_all("figure") if node.is_visible()]
    assert visible == ["objective/kl"] and switched_on(tab) == ["ppo", "dpo", "sft"]
    tab.keyboard.press("Escape")
    assert len([node for node in tab.query_selector_all("figure") if node.is_visible()]) == 6
    tab.keyboard.press("?")
    assert tab.is_visible("#keys")
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#keys")


def boxes(tab, selector):
    return [node.bounding_box() for node in tab.query_selector_all(selector)]


def test_numbers_at_the_ends_of_lines_do_not_lie_on_each_other(home, opened, tmp_path):
    for n in range(4, 10):  # nine lines that end in one point
        write(
            home / f"more{n}",
            [row(k, loss=2 + (20 - k) * n / 100) for k in range(1, 21)],
            started=f"2026-11-27T0{n}:00:00",
        )
    served = Server(*sorted(path for path in home.iterdir()))
    try:
        tab = opened(served.url)
        until(lambda: len(boxes(tab, "[data-metric='loss'] text.name")) == 9)
        found = sorted(boxes(tab, "[data-metric='loss'] text.name"), key=lambda box: box["y"])
        tops = [box["y"] for box in found]
        assert all(b - a >= 11.9 for a, b in zip(tops, tops[1:], strict=False)), tops
        plot = tab.query_selector("[data-metric='loss'] svg").bounding_box()
        assert tops[0] >= plot["y"] - 2 and found[-1]["y"] + found[-1]["height"] <= plot["y"] + plot["height"]
        dashed = tab.query_selector_all("[data-metric='loss'] path.line.dashed")
        assert len(dashed) == 3  # six colours, then the same ones broken
    finally:
        served.stop()


def test_a_live_run_grows_and_one_started_anew_begins_anew(home, opened):
    from align.run.record import _process

    live = write(
        home / "live",
        [row(1, loss=9.0), row(2, loss=8.0)],
        status="running",
        max_steps=40,
        process=_process(),
        started="2026-11-28T09:00:00",
    )
    served = Server(home)
    try:
        tab = opened(served.url)
        assert switched_on(tab) == ["live"]  # what runs now, and nothing else
        assert values(tab, "loss") == {"1": "8"}
        until(lambda: "running · step 2 of 40 · about 1 min left" in tab.inner_text("#list"), tab.inner_text("#list"))
        assert tab.title().startswith("5 % · live")
        with (live / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(row(20, loss=7.0)) + '\n{"step": 21, "lo')
        until(lambda: values(tab, "loss") == {"1": "7"})
        assert "step 20 of 40" in tab.inner_text("#list")
        (live / "metrics.jsonl").unlink()
        write_rows(live / "metrics.jsonl", [row(1, loss=5.0), row(2, loss=4.5)])
        until(lambda: values(tab, "loss") == {"1": "4.5"})
        tab.keyboard.press("ArrowRight")
        assert values(tab, "loss") == {"1": "5"}  # nothing is left of before
        write(
            live,
            [row(1, loss=5.0), row(2, loss=4.4), row(3, loss=math.nan)],
            status="failed",
            error=f"NotFinite: {SCRIPT}",
            started="2026-11-28T09:00:00",
        )
        until(
            lambda: f"failed · 75 s NotFinite: {SCRIPT}" in tab.inner_text("#list").replace("\n", " "),
            tab.inner_text("#list"),
        )
        until(lambda: "nan at step 3" in tab.inner_text("[data-metric='loss'] .values"))
    finally:
        served.stop()


def test_a_server_that_comes_back_with_other_numbers_mixes_nothing_up(home, opened):
    served = Server(home)
    tab = opened(served.url)
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    until(lambda: switched_on(tab) == ["sft"] and values(tab, "loss") == {"3": "2"})
    served.stop()
    until(lambda: tab.is_visible("#trouble"))
    assert "does not answer" in tab.inner_text("#trouble")
    write(home / "aaa", [row(1, loss=1.0), row(2, loss=1.0)], started="2026-11-29T00:00:00")
    again = Server(home, port=served.port)
    try:
        until(lambda: names(tab) == ["aaa", "ppo", "dpo", "sft"] and switched_on(tab) == ["sft"])
        until(lambda: values(tab, "loss") == {"4": "2"})
        assert not tab.is_visible("#trouble")
    finally:
        again.stop()


def test_markup_of_strangers_is_text(home, opened):
    evil = write(
        home / "x<b>y",
        [row(1, **{SCRIPT: 1.0, "loss": 1.0}), row(2, **{SCRIPT: 2.0, "loss": 1.0})],
        recipe=SCRIPT,
        started="2026-11-29T00:00:00",
    )
    (evil / "gate.json").write_text(
        json.dumps({"passed": False, "checks": [{"name": SCRIPT, "value": 1, "bound": "x", "passed": False}]})
    )
    said = {"prompt": f"asked {SCRIPT}", "completion": f"said {SCRIPT}", "score": 1.5, "kl": 0.25, "stopped": False}
    write_rows(evil / "completions/a.jsonl", [said, {"prompt": "rtl", "completion": "\u05e9\u05dc\u05d5\u05dd \u202e"}])
    served = Server(evil)
    try:
        tab = opened(served.url)
        tab.wait_for_selector("#samples .answer")
        assert (
            tab.inner_text("#samples .asked") == f"asked {SCRIPT}"
            and tab.inner_text("#samples .answer") == f"said {SCRIPT}"
        )
        assert "score 1.5 · KL 0.25 · cut at the longest answer" in tab.inner_text("#samples")
        assert "\\u202e" in tab.inner_text("#samples")
        assert f"gate failed: {SCRIPT}" in tab.inner_text("#list") and "x<b>y" in tab.inner_text("#list")
        assert SCRIPT in [node.text_content() for node in tab.query_selector_all("figcaption b")]
        assert not tab.query_selector_all("main img, aside img, main script") and tab.evaluate("window.hurt") is None
        tab.keyboard.press("m")
        assert tab.evaluate("document.activeElement.id") == "samples"
        tab.keyboard.press("m")
        assert tab.evaluate("document.activeElement.id") == "curves"
    finally:
        served.stop()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_sideways_scrolling(server, opened, width):
    tab = opened(server.url, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for box in boxes(tab, "figure svg"):
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    if width == 390:
        assert len({box["x"] for box in boxes(tab, "figure svg")}) == 1  # one below the other
        first = tab.query_selector("#list button").bounding_box()
        assert first["height"] >= 40  # for a finger


def luminance(colour):
    """WCAG 2.2's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_their_numbers_can_be_told_from_the_page(home, opened, scheme):
    for n in range(4, 7):
        write(home / f"more{n}", [row(1, loss=1.0), row(2, loss=float(n))], started=f"2026-11-27T0{n}:00:00")
    served = Server(*sorted(home.iterdir()))
    try:
        tab = opened(served.url, color_scheme=scheme)
        until(lambda: len(lines(tab, "loss")) == 6)
        page = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(page) > 0.5) == (scheme == "light")
        strokes = {line.evaluate("node => getComputedStyle(node).stroke") for line in lines(tab, "loss")}
        assert len(strokes) == 6 and min(contrast(one, page) for one in strokes) >= 3
        fills = [
            node.evaluate("node => getComputedStyle(node).fill")
            for node in tab.query_selector_all("[data-metric='loss'] text")
        ]
        assert min(contrast(one, page) for one in fills) >= 4.5
    finally:
        served.stop()
