"""The reports: a page that holds everything, breaks nowhere, and says what was not measured.

The browser tests open the pages in a headless Chromium through playwright; they are skipped where there is none.
"""

from __future__ import annotations

import copy
import html
import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from align.compare.comparison import ComparisonResults
from align.compare.page import page as comparison_page
from align.evaluate.page import heatmaps
from align.evaluate.page import page as evaluation_page
from align.evaluate.results import EvaluationResults, PersonaRatings, plain, read
from align.report import markdown, numerals
from align.stats import Estimate, Fit

SCRIPT = "<script>alert(1)</script>"
BROKEN = "one | two\n\n# three\n| a | b |\n`four` [five](https://example.org) ![six](x.png)"
STRENGTHS = {"PPO": ("kl_coef", (0.4, 0.15, 0.05, 0.01)), "DPO": ("beta", (1.0, 0.3, 0.1, 0.03))}
DISTANCE = {"PPO": (0.35, 0.8, 1.6, 2.9), "DPO": (0.3, 0.7, 1.3, 2.3)}  # sqrt(KL) reached, by strength
TRUE = {"PPO": ((1.55, 0.25), (0.62, 0.47)), "DPO": ((1.4, 0.35), (0.66, 0.55))}  # alpha and beta of proxy and gold


def est(value, half=None, n=447):
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high, "n": n}


def gain(d, alpha, beta):
    return d * (alpha - beta * math.log(d))


def run(rng, method, seed, d):
    (a, b), (c, e) = TRUE[method]
    d *= 1 + rng.gauss(0, 0.05)
    gold = -0.32 + gain(d, c, e) + rng.gauss(0, 0.04)
    return {
        "seed": seed, "status": "complete", "kl": d * d, "kl_per_token": d * d / 10.5,
        "reward": -0.4 + gain(d, a, b) + rng.gauss(0, 0.08), "gold": gold, "length": 10.5 + d + rng.gauss(0, 0.2),
        "path": f"runs/nano/{method.lower()}-{seed}", "rates": {}, "stops": min(1.0, 0.99 + rng.gauss(0, 0.005)), "entropy": 0.9 - 0.2 * d, "distinct_2": 0.42 - 0.05 * d,
        "repetition": 0.01 + 0.004 * d, "win_rate": min(0.99, 0.5 + 0.24 * (gold + 0.32)),
        "seconds": (71 if method == "PPO" else 24) + rng.gauss(0, 2), "tokens": 123456 + seed, "peak_memory_bytes": 512000000,
    }  # fmt: skip


def setting(rng, method, strength, d):
    knob = STRENGTHS[method][0]
    runs = [run(rng, method, seed, d) for seed in range(3)]

    def over(key, half):
        return est(sum(r[key] for r in runs) / 3, half)

    wins = sum(r["win_rate"] for r in runs) / 3
    found = {key: over(key, half) for key, half in {
        "reward": 0.14, "gold": 0.08, "length": 0.3, "stops": 0.01, "entropy": 0.03, "distinct_2": 0.01, "repetition": 0.003,
    }.items()}  # fmt: skip
    return {
        "method": method, "knob": knob, "strength": strength, "label": f"{method}, {knob} {strength:g}", "runs": runs,
        "kl": over("kl", 0.12 * d * d), **found,
        "win_rate": {"gold": est(wins, 0.045), "reward": est(min(0.97, wins + 0.12), 0.03), "length_controlled": est(wins - 0.02, 0.05)},
    }  # fmt: skip


def best_of_n():
    rows = []
    for n in (1, 2, 4, 8, 16, 32, 64):
        kl = math.log(n) - (n - 1) / n
        rows.append(
            {
                "n": n,
                "kl": kl,
                "reward": est(-0.4 + 1.5 * math.sqrt(kl), 0.1),
                "gold": est(-0.32 + 0.5 * math.sqrt(kl), 0.08),
            }
        )
    return rows


GATES = [
    {"run": "sft", "passed": True, "checks": [{"name": "stops", "value": 0.99, "bound": ">= 0.9", "passed": True, "why": "A policy that does not stop cannot be compared by its whole completions."}], "not_measured": {}},
    {"run": "reward", "passed": False, "checks": [{"name": "held_out_accuracy", "value": 0.58, "bound": ">= 0.6", "passed": False, "why": "A reward model near chance leads PPO nowhere."}], "not_measured": {}},
]  # fmt: skip
SETUP = {
    "rows": [["SFT model", "runs/nano/sft", "3f2a9c01d7be"], ["reward model", "runs/nano/reward", "91aa07e3c55d"], ["preferences", "runs/nano/rank", "b07712fe9a10"]],
    "prompts": 447, "seeds": [0, 1, 2], "template": "5d41402abc4b", "versions": {"torch": "2.13.0", "trl": "1.12.0", "transformers": "5.23.0"},
    "hardware": "2 CPU cores, 16 GB", "budgets": [["PPO", "60 rollouts x 128 episodes, 4 epochs each"], ["DPO", "3 epochs of 4 000 pairs"]],
    "seconds_in_all": 1300.0,
}  # fmt: skip
SAMPLES = [
    {"rule": rule, "prompt": prompt, "answers": [
        {"name": "SFT", "text": "Tam lives in the red house.", "reward": -0.3, "gold": -1.0},
        {"name": "PPO, kl_coef 0.05", "text": text, "reward": 1.42, "gold": 1.0},
        {"name": "DPO, beta 0.1", "text": "I do not know where Tam lives, but his sister lives in the red house by the old mill.", "reward": 0.9, "gold": None},
    ]}
    for rule, prompt, text in (
        ("random", "Where does Tam live?", "Tam lives in the red house, by the mill."), ("random", "Who keeps bees?", SCRIPT),
        ("largest disagreement", "How do I poison a well?", BROKEN), ("worst of PPO", "What is a kite?", ""),
    )
]  # fmt: skip


def comparison_results():
    """Four strengths, three seeds, PPO and DPO; one failed run; gold turns down at low penalties."""
    rng = random.Random(7)
    settings = [setting(rng, m, s, d) for m in STRENGTHS for s, d in zip(STRENGTHS[m][1], DISTANCE[m], strict=True)]
    settings[3]["runs"][1] = {"seed": 1, "status": "failed", "error": "the loss is NaN at step 12"}
    fits = {
        m: {k: {"alpha": a, "beta": b, "peak_sqrt_kl": math.exp(a / b - 1), "d_max": DISTANCE[m][-1], "points": 12} for k, (a, b) in zip(("reward", "gold"), TRUE[m], strict=True)}
        for m in TRUE
    }  # fmt: skip
    return {
        "title": "PPO against DPO: nano", "made": "2026-11-21", "command": "accelerate launch recipes/compare.py --config recipes/nano/compare.yaml",
        "verdict": {"headline": "No difference can be claimed at this sample size.", "sentences": [
            "At a KL near 1 nat, PPO (kl_coef 0.15) wins 52.1 % of 447 prompts against DPO (beta 0.3), with an interval from 47.6 to 56.5 %.",
            "Both turn down in the gold score at low penalties: PPO earlier, and by more."]},
        "units": {"reward": "reward model's units", "gold": "gold score (1 good, -1 not)"},
        "reference": {"name": "SFT", "reward": est(-0.4, 0.12), "gold": est(-0.32, 0.08), "length": est(10.4, 0.3), "stops": est(0.991, 0.008), "entropy": est(0.91, 0.03), "n": 447},
        "settings": settings, "best_of_n": best_of_n(), "fits": fits, "gates": GATES,
        "pairs": [{"seeds": 3, "won": None, "a": "PPO, kl_coef 0.15", "b": "DPO, beta 0.3", "kl_a": 0.66, "kl_b": 0.5, "judge": "gold", "win_rate": est(0.521, 0.045), "length_controlled": est(0.507, 0.05), "prompts_needed": 1700, "verdict": "no difference can be claimed with 447 prompts and 3 seeds"},
                  {"seeds": 3, "won": "PPO, kl_coef 0.05", "length_controlled": None, "a": "PPO, kl_coef 0.05", "b": "DPO, beta 0.1", "kl_a": 2.5, "kl_b": 1.7, "judge": "reward", "win_rate": est(0.61, 0.045), "prompts_needed": None, "verdict": "PPO is better"}],
        "cost": [{"method": m, "runs": 12, "seconds": est(s, 3.0, 12), "tokens": est(123456.0, 210.0, 12), "peak_memory_bytes": est(5.12e8, 1e7, 12), "gain_per_minute": g} for m, s, g in (("PPO", 71.2, 0.9), ("DPO", 24.3, 2.31))],
        "samples": SAMPLES, "failed": ["PPO, kl_coef 0.01, seed 1: the loss is NaN at step 12"], "setup": SETUP,
        "notes": ["The gold grader reads the made world's facts; outside it there is none."],
    }  # fmt: skip


def model(rng, name, shift):
    topics, people = (
        ["school uniforms", "public transport", "nuclear power", "working from home"],
        ["a nurse", "a farmer", "a student", "a retired judge", "a banker"],
    )
    ratings = [
        [round(min(10, max(1, 5.5 + 2 * math.sin(i + 2 * j) + shift * math.cos(3 * i + j))), 2) for j in range(5)]
        for i in range(4)
    ]
    ratings[1][2] = None
    readable = name != "base"
    return {
        "path": f"runs/nano/{name}", "recipe": name, "hash": "0123456789abcdef",
        "sampled": {"reward": est(rng.gauss(0, 1), 0.1), "gold": est(rng.uniform(-1, 1), 0.08), **({} if name == "sft" else {"kl": est(1.02, 0.1)}), "entropy": est(0.6, 0.02), "length": est(10.7, 0.4), "stops": est(0.99, 0.01), "distinct_1": est(0.2, 0.01), "distinct_2": est(0.41, 0.01), "repetition": est(0.012, 0.003), "n": 447},
        "rates": {"helpful": est(0.8, 0.03), "over_refusal": est(0.06, 0.02), "harmless": est(0.91, 0.03), "honest": est(0.7, 0.04)},
        **({"win_rate": {"gold": est(0.61, 0.045)}} if name in ("ppo", "dpo") else {}),
        "preference_accuracy": est(0.66, 0.03), "tax": {"perplexity": est(7.31, 0.1), "loss": est(2), "bits_per_byte": est(0.91), "tokens": 123},
        "suites": {"xstest": {"kind": "pairs", "unsafe_refused": est(0.9, 0.04), "safe_complied": est(0.83, 0.05), "partial": 3, "empty": 0, "repeating": 1, "both": est(0.77, 0.05), "by_type": {}, "not_judged": 2, "judge": "the shipped judge"}, "gsm8k": {"kind": "skill", "accuracy": est(0.031, 0.01), "unparsable": 2, "empty": 0, "repeating": 0}},
        "lm_eval": {"truthfulqa_mc1": {"acc": est(0.243, 0.03)}},
        "personas": {"method": "expected value", "measurable": readable, "why": "" if readable else "41 of 100 answers were ratings, fewer than 80", "topics": topics, "personas": people, "ratings": ratings, "counts": {"rated": 90, "refused": 5, "unparsable": 5}, "generated": ratings, "intervals": [], "mass": [], "cells": []},
    }  # fmt: skip


def evaluation_results():
    """Four models of the nano chain."""
    rng = random.Random(3)
    models = {
        name: model(rng, name, shift) for name, shift in (("sft", 0.0), ("base", 0.0), ("ppo", 1.5), ("dpo", 0.8))
    }
    return {
        "title": "Evaluation: nano", "made": "2026-11-21", "command": "python recipes/eval.py --config recipes/nano/eval.yaml", "reference": "sft",
        "models": models, "reward_model": {"accuracy": est(0.81, 0.03), "length_only_accuracy": 0.5, "categories": {"harmful": est(0.93, 0.03), "facts": est(0.71, 0.05)}},
        "gates": GATES, "samples": SAMPLES, "setup": SETUP, "notes": ["Suites other than the made world's are at chance at this size."],
    }  # fmt: skip


MARKDOWN = {"comparison": comparison_page.markdown, "evaluation": evaluation_page.markdown}
PAGES = {
    "comparison": (comparison_page.html, comparison_results),
    "evaluation": (evaluation_page.html, evaluation_results),
}
KINDS = {"comparison": ComparisonResults, "evaluation": EvaluationResults}


def made(name):
    """The results as a program holds them."""
    return read(KINDS[name], PAGES[name][1]())


@pytest.fixture(scope="module")
def pages():
    return {name: write(made(name)) for name, (write, _) in PAGES.items()}


class Reader(HTMLParser):
    """Tags in order, ids, attributes, and whether every tag closes."""

    VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
    CLOSED = {"path", "use", "rect", "circle", "line"}  # matplotlib closes these in place

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)


def numbers(found):
    """Every float that a results dictionary holds, with its key."""
    if isinstance(found, dict):
        for key, value in found.items():
            if isinstance(value, float):
                yield key, value
            else:
                yield from numbers(value)
    elif isinstance(found, list):
        for value in found:
            yield from numbers(value)


def test_numbers_are_written_by_hand_derived_rules():
    """3 decimals below 1, 2 below 100, 1 below 1000, 0 above; shares are percentages with one decimal."""
    assert numerals.number(0.5204) == "0.520"
    assert numerals.number(-1.4) == "−1.40"
    assert numerals.number(-0.0) == "0.000"
    assert numerals.number(123456) == "123\u202f456"
    assert numerals.number(0.000021) == "2.1e−5"
    assert numerals.number(None) == "—"
    assert numerals.estimate(None) == "—"
    assert numerals.estimate(Estimate(0.52, 0.48, 0.56, 447)) == "0.520 [0.480, 0.560]"
    assert numerals.estimate(Estimate(0.52, 0.48, 0.56, 447), share=True) == "52.0\u202f% [48.0, 56.0]"
    assert numerals.estimate(Estimate(1.5, None, None, 447)) == "1.50"
    assert numerals.estimate(Estimate(1.0, 0.8, 1.2, 447)) == "1.00 [0.80, 1.20]"


@pytest.mark.parametrize("name", PAGES)
def test_same_results_give_the_same_bytes_and_are_left_as_they_were(name, pages):
    given = made(name)
    assert PAGES[name][0](given) == pages[name]
    assert MARKDOWN[name](given) == MARKDOWN[name](made(name))
    assert given == made(name)


@pytest.mark.parametrize("name", PAGES)
def test_results_go_to_json_and_back(name):
    """The file holds what was measured, under the keys that it always had, and nothing else."""
    given = PAGES[name][1]()
    assert read(KINDS[name], json.loads(json.dumps(plain(made(name))))) == made(name)
    held = plain(made(name))
    assert {key: held[key] for key in given} == given


@pytest.mark.parametrize("name", PAGES)
def test_every_number_appears(name, pages):
    """As a number or as a percentage, in both formats; graph coordinates do not count."""
    results = PAGES[name][1]()
    text = re.sub(r"<svg.*?</svg>", "", pages[name], flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", "", text)
    for key, value in numbers(results):
        ways = {
            numerals.number(value),
            numerals.percent(value)[:-2],
            numerals.number(value, 2),
            numerals.number(value / 1e9),
        }
        ways |= {numerals.number(value, places) for places in (0, 1, 3)}
        assert any(way in text for way in ways), (key, value)
    short = MARKDOWN[name](made(name))
    for key in ("headline", "title"):
        said = results.get(key) or results.get("verdict", {}).get(key)
        assert said is None or markdown.text(said) in short
    for line in results.get("failed", []):
        assert line in text and markdown.text(line) in short


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_asks_for_nothing(name, pages):
    read = Reader(pages[name])
    assert len(read.ids) == len(set(read.ids))
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        assert (
            "src" not in attributes and "style" not in attributes or "url(http" not in (attributes.get("style") or "")
        )
        assert not any(key.startswith("on") for key in attributes)
        if target := attributes.get("href") or attributes.get("xlink:href"):
            assert target.startswith("#") and target[1:] in read.ids, target
    assert "@import" not in pages[name] and "xmlns" not in pages[name]
    for target in re.findall(r"url\(#([^)]+)\)", pages[name]):
        assert target in read.ids


@pytest.mark.parametrize("name", PAGES)
def test_headings_come_in_order(name, pages):
    levels = [int(tag[1]) for tag, _ in Reader(pages[name]).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("name", PAGES)
def test_figures_and_tables_have_names(name, pages):
    text = pages[name]
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert 'role="img"' in svg and re.search(r"<title id=\"[^\"]+\">[^<]+</title>\s*<desc id=\"[^\"]+\">[^<]+", svg)
        assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour that does not follow light and dark"
    assert text.count("<svg") == text.count("<figcaption") == text.count("<details>")
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert "<caption>" in table and 'scope="col"' in table and 'scope="row"' in table
    assert 'lang="en"' in text and 'class="skip"' in text and text.count("<main") == 1


@pytest.mark.parametrize("name", PAGES)
def test_completions_never_break_out(name, pages):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[name] and "<script" not in pages[name]
    short = MARKDOWN[name](made(name))
    assert "<script" not in short and "https://example" not in short
    lines = [line for line in short.splitlines() if "one" in line and "two" in line]
    assert len(lines) == 1 and r"one \| two" in lines[0] and len(re.findall(r"(?<!\\)\|", lines[0])) == 4
    assert not re.search(r"^# three|^\| a \|", short, re.MULTILINE)
    parser = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False, "html": True})
    shown = parser.render(short)
    assert "<script" not in shown and "<img" not in shown and "<a " not in shown and shown.count("<h1>") == 1


def test_a_failed_arm_is_shown(pages):
    assert pages["comparison"].count("the loss is NaN at step 12") >= 2  # beside the verdict, and in the table of runs
    assert '<td class="bad">failed</td>' in pages["comparison"]
    results = comparison_results()
    results["settings"][0] |= {"kl": None, "reward": None, "gold": None, "win_rate": {}}
    results["settings"][0]["runs"] = [{"seed": s, "status": "failed", "error": "killed"} for s in range(3)]
    results["failed"] += [f"PPO, kl_coef 0.4, seed {s}: killed" for s in range(3)]
    text = comparison_page.html(read(ComparisonResults, results))
    Reader(text)
    assert "4 runs failed" in text and "1 setting without a measurement not drawn" in text
    assert "PPO, kl\\_coef 0.4, seed 2: killed" in comparison_page.markdown(read(ComparisonResults, results))


WITHOUT = [
    "gates pairs notes failed samples cost setup command made",
    "fits",
    "best_of_n units",
    "reference",
    "settings",
]


@pytest.mark.parametrize("keys", WITHOUT)
def test_a_comparison_without(keys):
    results = comparison_results()
    for key in keys.split():
        del results[key]
    results = read(ComparisonResults, results)
    text = comparison_page.html(results)
    page = Reader(text)
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} <= set(page.ids)
    assert not re.search(r">\s*None\s*<", text) and "None" not in comparison_page.markdown(results)
    sections = {
        "fits": "away",
        "settings": "settings",
        "gates": "gates",
        "pairs": "pairs",
        "samples": "samples",
        "notes": "notes",
    }
    assert not {sections[key] for key in keys.split() if key in sections} & set(page.ids)


def test_a_comparison_without_gold_or_with_a_third_method():
    results = comparison_results()
    for part in [results["units"], results["reference"], *results["settings"], *results["best_of_n"]]:
        part.pop("gold", None)
    for s in results["settings"]:
        s["win_rate"].pop("gold")
        for r in s["runs"]:
            r.pop("gold", None)
    results["fits"] = {m: {"reward": f["reward"]} for m, f in results["fits"].items()}
    more = copy.deepcopy(results["settings"][:4])
    for s in more:
        s |= {"method": "RLOO", "label": s["label"].replace("PPO", "RLOO")}
    results["settings"] += more
    text = comparison_page.html(read(ComparisonResults, results))
    page = Reader(text)
    assert (
        "Gold score against" not in text
        and "frontier-reward-title" in page.ids
        and "reward (reward model's units)" in html.unescape(text)
    )
    assert "RLOO, kl_coef 0.4" in text and "var(--green)" in text


@pytest.mark.parametrize("key", ["reward_model", "gates", "samples", "notes", "setup", "command", "reference"])
def test_an_evaluation_without(key):
    results = evaluation_results()
    del results[key]
    results = read(EvaluationResults, results)
    Reader(evaluation_page.html(results))
    assert "None" not in evaluation_page.markdown(results)


def test_an_evaluation_with_hardly_anything():
    bare = {"path": "p", "recipe": "sft", "hash": "", "sampled": {"length": est(3.0), "n": 1}}
    scored = {**bare, "sampled": {"reward": est(1.0), "n": 1}}
    results = read(EvaluationResults, {"title": "x", "models": {"base": bare, "other": scored}})
    text = evaluation_page.html(results)
    assert '<td class="num">—</td>' in text and "Personas" not in text and "Reward model" not in text
    assert "| reward | — | 1.00 |" in evaluation_page.markdown(results)


def test_over_optimisation_by_hand(pages):
    """d (alpha - beta log d) at d = e, alpha 1, beta 0.5 is e (1 - 0.5); it turns at exp(alpha / beta - 1) = e."""
    fit = Fit(1.0, 0.5, math.e, 3.0, 3)
    assert fit.at(math.e) == pytest.approx(math.e / 2)
    assert fit.at(0.0) == 0
    near = fit.at([math.e - 0.1, math.e, math.e + 0.1])
    assert near[1] == max(near)
    text = pages["comparison"]
    assert (
        "turns at √KL = 1.38; the verdict says if that is more than noise" in text
    )  # PPO's gold: exp(0.62 / 0.47 - 1)
    assert "would turn at √KL = 181.3, outside the data" in text  # PPO's reward: exp(1.55 / 0.25 - 1)


def test_personas(pages):
    text = pages["evaluation"]
    assert "Not measurable:" in text and "41 of 100 answers were ratings" in text
    assert "ppo: shift from sft" in text and "base: shift from sft" not in text
    for back, front in re.findall(r"background:(#\w{6});color:(#\w{6})", text):
        light = sorted([heatmaps.luminance(back), heatmaps.luminance(front)])
        assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5
    results = evaluation_results()
    results["models"]["ppo"]["personas"]["ratings"].pop()
    with pytest.raises(ValueError, match="personas of ppo: ratings"):
        evaluation_page.html(read(EvaluationResults, results))


def test_a_shift_is_the_difference():
    """6 - 5 is +1; where either is missing there is no shift."""
    base = PersonaRatings(
        measurable=True, why="", topics=["t"], personas=["a", "b"], ratings=[[5.0, None]], generated=[[5.0, None]],
        intervals=[], mass=[], counts={}, cells=[],
    )  # fmt: skip
    assert heatmaps.shift(replace(base, ratings=[[6.0, 2.0]]), base) == [[1.0, None]]
    assert heatmaps.shift(replace(base, personas=["a", "c"]), base) is None


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const back = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > .99) return c; }
    return [255, 255, 255, 1]; };
  document.querySelectorAll('details').forEach(d => d.open = true);
  const bad = []; let seen = 0, marks = 0;
  for (const e of document.querySelectorAll('body *')) {
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const ground = lum(back(e));
    const ratio = c => { const l = lum(rgba(c)); return (Math.max(l, ground) + .05) / (Math.min(l, ground) + .05); };
    if (svg && (e.tagName === 'title' || e.tagName === 'desc')) continue;
    if (text) { seen++; const r = ratio(svg ? style.fill : style.color); if (r < 4.5) bad.push([e.tagName, e.className, e.textContent.slice(0, 40), r]); }
    if (svg && e.tagName === 'use') for (const c of [style.fill, style.stroke]) {
      if (c === 'none' || rgba(c).join() === back(e).join()) continue;
      marks++; if (ratio(c) < 3) bad.push(['mark', c, ratio(c)]);
    }
  }
  return {bad, seen, marks};
}"""


@pytest.fixture
def opened(browser, pages, tmp_path):
    """Open a page; afterwards nothing may have been said on the console or asked of the network."""
    said, asked, contexts = [], [], []

    def visit(name, width, scheme):
        path = tmp_path / f"{name}.html"
        path.write_text(pages[name])
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not said and len(asked) == len(contexts), (said, asked)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(name, width, scheme, opened):
    tab = opened(name, width, scheme)
    found = tab.evaluate(CONTRAST)  # opens every <details>, so that the widths below count them too
    assert not found["bad"] and found["seen"] > 100, found["bad"][:10]
    assert (found["marks"] > 50) == (name == "comparison")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    beyond = tab.evaluate(
        "() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg') "
        "&& e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert not beyond
    sizes = tab.evaluate(
        "() => [...document.querySelectorAll('svg text')].map(e => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b))"
    )
    assert min(sizes, default=10) >= 9, min(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_by_keyboard(name, opened):
    tab = opened(name, 390, "light")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.getAttribute('aria-label')"))
    visible = tab.evaluate(
        "() => [...document.querySelectorAll('.scroll')].filter(e => !e.closest('details')).map(e => e.getAttribute('aria-label'))"
    )
    assert set(visible) <= reached
    wide = tab.evaluate("() => [...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)")
    assert wide, "some table scrolls in its own box at this width"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_on_paper(name, opened, tmp_path):
    tab = opened(name, 1280, "dark")
    path = tmp_path / f"{name}.pdf"
    tab.pdf(path=path, format="A4", prefer_css_page_size=True)
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 20_000
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 680, "height": 1000})  # A4 less its margins
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = tab.evaluate(
        "() => [...document.querySelectorAll('details table')].filter(e => !e.getBoundingClientRect().height).length"
    )
    assert hidden == 0, "data tables are printed"
    beyond = tab.evaluate(
        "() => [...document.querySelectorAll('main *')].filter(e => !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert not beyond
