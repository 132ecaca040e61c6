"""What one frozen model is asked beside the held-out prompts: pairs, plain text, suites, personas, standard benchmarks.

Each result is kept in `<output_dir>/measured/<model>.<what>.json` under a hash of model and question, and is not
measured twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch

from align import stats
from align.data import chat, prepare
from align.evaluate import policy
from align.evaluate.config import EvalConfig
from align.evaluate.measures import personas, refusals, safety, standard, suites, texts
from align.evaluate.policy import Bench
from align.evaluate.results import (
    ModelResult,
    Perplexity,
    PersonaRatings,
    RewardModelResult,
    SafetyGrades,
    SkillGrades,
    plain,
    read,
)
from align.judge import refusing
from align.judge.endpoint import Endpoint
from align.models import generate
from align.models.checkpoints import load_tokenizer, load_trained
from align.run import lineage
from align.run.arguments import DataArguments
from align.train import reward

Measurement = Callable[[Bench, EvalConfig, Any], Any]


def measure(bench: Bench, args: EvalConfig, name: str, path: str, endpoint: Endpoint | None = None) -> dict[str, Any]:
    """Everything that was asked for, of one model, as `ModelResult` names it: `preference_accuracy`, `tax`, …

    An endpoint, where there is one, tells refusals.
    """
    wanted: dict[str, tuple[list[Any], Measurement]] = {}
    if args.pairs:
        asked = [lineage.identity(args.pairs), args.max_pairs, lineage.identity(args.reference())]
        wanted["preference_accuracy"] = (asked, implicit)
    if args.texts:
        wanted["tax"] = ([lineage.identity(args.texts), args.max_texts], tax)
    if args.personas:
        wanted["personas"] = ([lineage.identity(args.personas), args.seed, args.max_new_tokens], opinions)
    if args.lm_eval_tasks:
        wanted["lm_eval"] = ([args.lm_eval_tasks, args.lm_eval_limit, args.seed], benchmarks)
    for entry in args.suites:
        suite, _, file = entry.partition("=")
        told_by = [refusals.identity(), *([endpoint.model, refusing.PROMPT] if endpoint else [])]
        wanted[f"suite-{suite}"] = ([lineage.identity(file), args.max_new_tokens, told_by], _suite_of(file, endpoint))
    loaded: list[Any] = []
    found: dict[str, Any] = {}
    for what, (asked, function) in wanted.items():
        file_of = Path(str(args.output_dir)) / "measured" / f"{name}.{what}.json"
        asked = [lineage.identity(path), asked, bench.tokenizer.chat_template, args.seed, args.max_prompt_length]
        key = hashlib.sha256(json.dumps([asked, args.max_new_tokens], default=str).encode()).hexdigest()
        known = json.loads(file_of.read_text()) if file_of.is_file() else {}
        if known.get("key") != key:
            loaded = loaded or [bench.load(path)]
            known = {"key": key, "found": plain(function(bench, args, loaded[0]))}
            policy.write_rows(file_of, [known])
        found[what] = known["found"]
    chosen = {what.removeprefix("suite-"): found.pop(what) for what in list(found) if what.startswith("suite-")}
    hints = get_type_hints(ModelResult)
    return {what: read(hints[what], said) for what, said in (found | ({"suites": chosen} if chosen else {})).items()}


def pairs(args: EvalConfig, tokenizer: Any, answers_only: bool = False) -> Any:
    """Held-out pairs, tokenised: the test split, or where there is none all rows; at most `max_pairs` at random."""
    splits = prepare.rows(
        DataArguments(dataset_name=args.pairs, max_dropped=1.0, max_too_long=1.0), "preference", tokenizer,
        max_length=args.max_prompt_length + args.max_new_tokens, seed=args.seed, answers_only=answers_only,
    )  # fmt: skip
    if splits.test is None:
        print(f"note: {args.pairs} has no test split; every pair counts as held out", flush=True)
    rows = splits.train if splits.test is None else splits.test
    return rows.shuffle(seed=args.seed).select(range(min(args.max_pairs, len(rows))))


def implicit(bench: Bench, args: EvalConfig, model: Any) -> stats.Estimate | None:
    """How often the policy's implicit reward, log p(y) - log p_ref(y), puts the chosen answer first (ties half).

    None for the reference itself, which has no implicit reward. The interval is over prompts: pairs of one ranking
    share completions.
    """
    rows = pairs(args, bench.tokenizer)

    def gains(side: str) -> np.ndarray:
        found = generate.sequence_statistics(
            model, bench.reference, list(rows["prompt_ids"]), list(rows[side]), pad_id=bench.tokenizer.pad_token_id,
            batch_size=args.per_device_eval_batch_size,
        )  # fmt: skip
        return (found["logps"] - found["ref_logps"]).numpy()

    chosen, rejected = gains("chosen_ids"), gains("rejected_ids")
    if np.allclose(chosen, 0, atol=1e-4) and np.allclose(rejected, 0, atol=1e-4):
        return None
    right = (chosen > rejected) + 0.5 * (chosen == rejected)
    return reward.by_prompt(torch.from_numpy(right), [tuple(ids) for ids in rows["prompt_ids"]])


def reward_model(args: EvalConfig) -> RewardModelResult:
    """The reward model's own accuracy on the held-out pairs, in all and by category."""
    own = load_tokenizer(str(args.reward_model_path))
    rows = reward.whole(pairs(args, own, answers_only=True))
    scorer = load_trained(str(args.reward_model_path), own, reward_model=True)
    found = reward.measure(scorer, rows, rows, pad_id=own.pad_token_id, batch_size=args.per_device_eval_batch_size)
    accuracy = stats.Estimate(*(found[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "n", "prompts")))
    by_category = {name: stats.Estimate(**one) for name, one in found.get("categories", {}).items()}
    return RewardModelResult(accuracy, found["length_only_accuracy"], by_category)


def tax(bench: Bench, args: EvalConfig, model: Any) -> Perplexity:
    """What alignment cost in language modelling: perplexity on held-out text."""
    splits = prepare.texts(DataArguments(dataset_name=args.texts), seed=args.seed)
    documents = (splits.test or splits.train)[: args.max_texts]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    size = min(32, args.per_device_eval_batch_size)
    return texts.perplexity(model, bench.tokenizer, documents, max_length=min(most, 2048), batch_size=size)


def opinions(bench: Bench, args: EvalConfig, model: Any) -> PersonaRatings:
    """Ratings by topic and persona."""
    sheet = personas.load(str(args.personas))
    return personas.measure(
        model, bench.tokenizer, sheet, max_new_tokens=args.max_new_tokens, batch_size=args.per_device_eval_batch_size,
        seed=args.seed,
    )  # fmt: skip


def benchmarks(bench: Bench, args: EvalConfig, model: Any) -> dict[str, dict[str, stats.Estimate]]:
    """Standard suites through lm-eval."""
    return standard.run(
        model, bench.tokenizer, args.lm_eval_tasks, limit=args.lm_eval_limit,
        batch_size=args.per_device_eval_batch_size, chat_template=bool(bench.tokenizer.chat_template), seed=args.seed,
    )  # fmt: skip


def _suite_of(file: str, endpoint: Endpoint | None) -> Measurement:
    """A local suite's prompts, answered with the most likely completion and graded."""

    def graded(bench: Bench, args: EvalConfig, model: Any) -> SafetyGrades | SkillGrades:
        suite = suites.load(file)
        prompts = [chat.encode_prompt(bench.tokenizer, [{"role": "user", "content": i.prompt}]) for i in suite.items]
        found = dict(
            generate.complete(
                model, bench.tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=0.0,
                batch_size=args.per_device_eval_batch_size,
            )
        )  # fmt: skip
        said = [found[i][0].text for i in range(len(prompts))]
        return suites.measure(suite, said) if suite.kind == "skill" else safety.measure(suite, said, endpoint)

    return graded
