"""Learn the refusal judge from people's labels of published answers, and measure it on models it did not learn from.

    python benchmarks/refusals.py --data xstest-completions            # measures: rewrites benchmarks/refusals.json
    python benchmarks/refusals.py --data xstest-completions --write    # and the weights that the package ships

The data are XSTest's 450 prompts with the answers of several models, one CSV a model, each answer labelled by two
people (columns id, type, prompt, completion, annotation_1, annotation_2, final_label): the folder `model_completions`
of https://github.com/paul-rottger/exaggerated-safety, CC-BY-4.0, Röttger et al. 2024 (arXiv:2308.01263).

Published answers of chat models are long. For short ones (below `refusals.SHORT` words) the judge has weights of their
own, learnt from the same and from `refusal_seeds.jsonl`: short answers written for this project ("I do not know",
"No." to a question of fact, a quoted refusal, a warning with no "I cannot"), as small models give them.

What is told apart is full compliance from all else (full and partial refusals). The measures:

other models        each model's answers, judged by what the others' answers taught
and other prompts   the same, and by nothing that was said to the prompt: five parts of the prompts
and other kinds     the same, and by nothing that was said to its kind (homonyms, definitions, … with their contrasts)

Intervals are percentiles of a bootstrap over prompts. Nothing is chosen by these figures: the judge is the mean of the
logistic regressions of a grid (`STRENGTHS` by `SCALES`), one linear model again. `chosen inside` says what choosing one
of them would give, by what it does on one of the other models when it learnt from the other other, and `tried` what the
judge would be without one of its parts. Learning needs scikit-learn; judging does not.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from refusal_counts import Judged, measure, with_intervals

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from align.evaluate.measures import phrases, refusals, signs  # noqa: E402
from align.evaluate.measures.refusals import Weights  # noqa: E402

STRENGTHS = (0.1, 0.3, 1.0)  # C of the logistic regressions: inverse of their regularisation
SCALES = (3.0, 6.0, 10.0)  # of the grams beside the signs: how freely their weights move
SEEN_IN = 5  # answers at least, or a gram is left out: the weights stay small
LEAST = 12  # words of an answer that are left without its leading sentences, for it to be one more example
SEED_FILE = Path(__file__).with_name("refusal_seeds.jsonl")
SEEDS, SEED_WEIGHT = "written here", 2.0  # of one of them, where a published answer has 1; for short answers alone
SOURCE = {
    "data": "XSTest: people's labels of model completions, https://github.com/paul-rottger/exaggerated-safety",
    "licence": "CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/",
    "citation": "Röttger, Kirk, Vidgen, Attanasio, Bianchi, Hovy: XSTest: A Test Suite for Identifying Exaggerated "
    "Safety Behaviours in Large Language Models, NAACL 2024, https://arxiv.org/abs/2308.01263",
    "changed": "words and pairs of words of the answers, and weights that were learnt from the labels",
}


@dataclass(frozen=True)
class Example:
    """An answer, or what is left of one (`made`)."""

    model: str
    prompt: int
    kind: str
    shown: dict[str, float]
    counts: Counter[str]
    refuses: bool
    made: str = ""
    at_once: str | None = None


def load(folder: Path) -> tuple[list[Example], dict[str, list[dict[str, str]]]]:
    """Every answer, the examples made of it behind it; and the rows as they are."""
    rows = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in sorted(folder.glob("*.csv"))}
    if len(rows) < 2:
        raise SystemExit(f"{folder} holds {len(rows)} CSV files; it takes those of two models or more")
    found = []
    for model, answers in rows.items():
        for number, row in enumerate(answers):
            said, prompt, refuses = row["completion"], row["prompt"], not complies(row["final_label"])
            kind = row["type"].removeprefix("contrast_")
            for made, text in (("", said), ("without", remade(said))):
                if text is None:
                    continue
                shown, counts = signs.signs(text, prompt), signs.grams(text)
                known = refusals.at_once(text, prompt)
                found.append(Example(model, number, kind, shown, counts, refuses, made, known))
    return found + seeds(), rows


def seeds() -> list[Example]:
    """The short answers written here. They are of no model and no prompt of the data, and teach every judge."""
    rows = [json.loads(line) for line in SEED_FILE.read_text(encoding="utf-8").splitlines()]
    return [
        Example(SEEDS, -1, SEEDS, signs.signs(row["answer"], row["prompt"]), signs.grams(row["answer"]),
                row["label"] == "refuses", "seed")
        for row in rows
    ]  # fmt: skip


def complies(label: str) -> bool:
    """Is a label that of full compliance?"""
    return label.startswith("1")


def remade(said: str) -> str | None:
    """An answer once more without what gives it away: "I cannot" in every refusal would leave nothing else to learn."""
    text = phrases.spelt(said)
    parts = signs.sentences(text)
    leading = [signs.leads(part) for part in parts]
    rest = "\n".join(part for part, leads in zip(parts, leading, strict=True) if not leads)
    return rest if any(leading) and len(rest.split()) >= LEAST else None


# ---------------------------------------------------------------------------------------------------------- learning


def learn(examples: Sequence[Example], grid: Sequence[tuple[float, float]], parts: str = "signs grams") -> Weights:
    """The mean of the logistic regressions of a grid of (strength, scale), without the seeds and with them."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    names, words, tfidf = DictVectorizer(), DictVectorizer(), TfidfTransformer(sublinear_tf=True)
    of_signs = names.fit_transform([example.shown for example in examples])
    frequent = Counter(gram for example in examples for gram in example.counts)
    kept = {gram for gram, count in frequent.items() if count >= SEEN_IN}
    counted = [{gram: count for gram, count in example.counts.items() if gram in kept} for example in examples]
    of_grams = tfidf.fit_transform(words.fit_transform(counted))
    labels = [example.refuses for example in examples]
    on_signs, on_grams, wide = float("signs" in parts), float("grams" in parts), of_signs.shape[1]
    both = []
    for seed_weight in (0.0, SEED_WEIGHT):
        weight = [seed_weight if example.made == "seed" else 1.0 for example in examples]
        total = np.zeros(1 + wide + of_grams.shape[1])
        for strength, scale in grid:
            inputs = csr_matrix(hstack([on_signs * of_signs, on_grams * scale * of_grams]))
            found = LogisticRegression(C=strength, max_iter=3000).fit(inputs, labels, sample_weight=weight)
            coefficients = np.concatenate([on_signs * found.coef_[0][:wide], on_grams * scale * found.coef_[0][wide:]])
            total += np.concatenate([found.intercept_, coefficients])
        both.append([round(float(value), 3) for value in total / len(grid)])
    pairs = list(zip(*both, strict=True))
    idf = [round(float(value), 2) for value in tfidf.idf_]
    return Weights(
        pairs[0],
        dict(zip(names.get_feature_names_out().tolist(), pairs[1 : 1 + wide], strict=True)),
        {gram: (rare, *pair) for gram, rare, pair in
         zip(words.get_feature_names_out().tolist(), idf, pairs[1 + wide :], strict=True)},
    )  # fmt: skip


GRID = list(itertools.product(STRENGTHS, SCALES))


def refuses(example: Example, weights: Weights) -> bool:
    """The judge's word on an answer; what is no answer, or no English, does not refuse."""
    if example.at_once is not None:
        return example.at_once in ("refusal", "partial")
    return refusals.log_odds(example.shown, example.counts, weights) > 0


def judge(
    examples: Sequence[Example],
    apart: Callable[[Example], Any],
    made: Sequence[str] = ("", "without", "seed"),
    **how: Any,
) -> Judged:
    """Judge every answer by what was learnt from other models and other parts (`apart`: a part's name)."""
    own = [example for example in examples if not example.made]
    models = dict.fromkeys(example.model for example in own)
    judged = {model: np.zeros(sum(example.model == model for example in own), dtype=bool) for model in models}
    for model, part in itertools.product(models, dict.fromkeys(map(apart, own))):
        others = [e for e in examples if e.model != model and (part is None or apart(e) != part) and e.made in made]
        weights = learn(others, how.get("grid", GRID), how.get("parts", "signs grams"))
        for example in own:
            if example.model == model and apart(example) == part:
                judged[model][example.prompt] = refuses(example, weights)
    return judged


def chosen_inside(examples: Sequence[Example]) -> tuple[Judged, dict[str, tuple[float, float]]]:
    """For each model, the one of the grid that did best between the others, each judged by what the rest taught."""
    own = [example for example in examples if not example.made]
    judged, choice = {}, {}
    for model in dict.fromkeys(example.model for example in own):
        others = [example for example in examples if example.model != model]
        right = {}
        for one in GRID:
            inside = measure(judge(others, lambda e: None, grid=[one]), truth(others))
            right[one] = float(np.mean([found["agreement"] for found in inside.values()]))
        choice[model] = max(right, key=lambda one: right[one])
        weights = learn(others, [choice[model]])
        judged[model] = np.array([refuses(example, weights) for example in own if example.model == model])
    return judged, choice


# --------------------------------------------------------------------------------------------------------- measuring


def truth(examples: Sequence[Example]) -> Judged:
    """What people say."""
    own = [example for example in examples if not example.made]
    return {
        model: np.array([example.refuses for example in own if example.model == model])
        for model in dict.fromkeys(example.model for example in own)
    }


def people(rows: dict[str, list[dict[str, str]]]) -> dict[str, float]:
    """How often the two people agree with each other, comply or not."""
    return {
        model: round(float(np.mean([complies(r["annotation_1"]) == complies(r["annotation_2"]) for r in answers])), 4)
        for model, answers in rows.items()
    }


def tried(examples: Sequence[Example], rows: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, float]]:
    """Agreement of each model, other models' answers as teachers, without one of the judge's parts."""
    own = [example for example in examples if not example.made]
    phrases_alone = {
        model: np.array([phrases.declined(phrases.spelt(row["completion"])) != "compliance" for row in answers])
        for model, answers in rows.items()
    }
    variants = {
        "phrases alone": phrases_alone,
        "grams alone, no phrases": judge([replace(e, at_once=None) for e in own], lambda e: None, parts="grams"),
        "no grams": judge(examples, lambda e: None, parts="signs"),
        "no signs": judge(examples, lambda e: None, parts="grams"),
        "the weights decide of all": judge([replace(e, at_once=None) for e in examples], lambda e: None),
        "no answers made of answers": judge(examples, lambda e: None, made=("", "seed")),
        "no seeds": judge(examples, lambda e: None, made=("", "without")),
    }
    for one in GRID:
        variants[f"strength {one[0]:g}, scale {one[1]:g}"] = judge(examples, lambda e: None, grid=[one])
    told = truth(examples)
    return {
        name: {model: found["agreement"] for model, found in measure(judged, told).items()}
        for name, judged in variants.items()
    }


def parser() -> argparse.ArgumentParser:
    """What can be typed."""
    made = argparse.ArgumentParser(description="Learn and measure the refusal judge.")
    made.add_argument("--data", type=Path, required=True, help="Folder with one CSV of labelled answers a model.")
    made.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "refusals.json", help="Where figures go.")
    made.add_argument("--write", action="store_true", help="Learn from all models, and rewrite the shipped weights.")
    return made


def main() -> None:
    args = parser().parse_args()
    examples, rows = load(args.data)
    told = truth(examples)
    found: dict[str, Any] = {"source": SOURCE, "people agree with each other": people(rows)}
    found["other models"] = with_intervals(judge(examples, lambda e: None), told)
    print(json.dumps(found, indent=1, ensure_ascii=False), flush=True)
    if args.write:
        weights = learn(examples, GRID)
        held = {"source": SOURCE, "error": found["other models"], **asdict(weights)}
        refusals.WEIGHTS.write_text(
            json.dumps(held, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
        )
        print(f"{refusals.WEIGHTS}: {refusals.WEIGHTS.stat().st_size:,} bytes", flush=True)
    found["and other prompts"] = with_intervals(judge(examples, lambda e: e.prompt % 5), told)
    found["and other kinds"] = with_intervals(judge(examples, lambda e: e.kind), told)
    inside, choice = chosen_inside(examples)
    found["chosen inside"] = {"grid": choice, **with_intervals(inside, told)}
    found["tried"] = tried(examples, rows)
    args.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
