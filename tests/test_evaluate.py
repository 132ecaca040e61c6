"""Statistics by hand and against published numbers; KL on a policy that can be enumerated; verdicts that claim no more."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, make_checkpoint, write_rows

from align import stats
from align.compare import arms, comparable, program, settings, verdict
from align.compare.arms import Arm
from align.compare.comparison import ComparisonResults, HeadToHead, RunResult, SettingResult, Verdict
from align.compare.page import page
from align.evaluate import policy
from align.evaluate.config import MeasureArguments
from align.evaluate.measures import wins
from align.models import generate
from align.run import gates, lineage
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, RunError

RECIPES = ROOT / "recipes"


def test_prompts_needed_for_the_published_gap():
    """DPO 158/256, PPO 146/256, a gap of 0.0469: (1.96 + 0.84)^2 (0.2362 + 0.2451) / 0.0469^2."""
    p, q = 158 / 256, 146 / 256
    needed = stats.prompts_needed(p - q, p * (1 - p) + q * (1 - q))
    assert needed == pytest.approx(1720, abs=15)
    assert stats.prompts_needed(0.0, 0.25) is None


def test_students_t_for_the_seeds():
    """Tables: t(2) 4.303, t(10) 2.228, t(30) 2.042, t(120) 1.980; one-sided t(1) 6.314, t(4) 2.132, t(30) 1.697."""
    assert [round(stats.t95(f), 3) for f in (2, 10, 30, 120)] == [4.303, 2.228, 2.042, 1.980]
    assert [round(stats.t90(f), 3) for f in (1, 4, 30)] == [6.314, 2.132, 1.697]


def test_an_interval_over_three_seeds_covers_the_truth():
    """Crossed prompts and seeds, the truth 0, whichever of the two varies: at least 93 of 100 intervals hold it."""
    rng = np.random.default_rng(0)
    for seed_sd, prompt_sd in ((0.1, 0.5), (0.0, 0.5), (0.3, 0.0)):
        held = 0
        for number in range(200):
            seeds, prompts = rng.normal(0, seed_sd, (3, 1)), rng.normal(0, prompt_sd, (1, 120))
            found = stats.over_seeds(seeds + prompts + rng.normal(0, 0.3, (3, 120)), seed=number)
            held += found.low <= 0 <= found.high
        assert held >= 186, (seed_sd, prompt_sd, held)


def test_best_of_n_by_hand():
    """Three samples scored 1, 2, 3: best of 2 is 3 in two of three pairs and 2 in one: 8/3. Gold of the best likewise."""
    assert stats.best_of_n([[1, 2, 3]], [[1, 2, 3]], 2) == pytest.approx([8 / 3])
    assert stats.best_of_n([[1, 2, 3]], [[10, 0, -1]], 2) == pytest.approx([(2 * -1 + 0) / 3])
    assert stats.best_of_n([[1, 2, 3]], [[4, 5, 9]], 1) == pytest.approx([6])
    assert stats.best_of_n([[7, 7, 1]], [[0, 1, 5]], 3) == pytest.approx([0.5])  # two best alike: half each
    assert [round(stats.best_of_n_kl(n), 2) for n in (1, 4, 16, 64, 128)] == [0, 0.64, 1.84, 3.17, 3.86]


def test_over_optimisation_is_found_where_it_is():
    """R = d (2 - 0.8 log d) turns at d = exp(2/0.8 - 1) = 4.48; a straight line turns nowhere."""
    kl = np.array([0.0, 0.5, 2, 6, 15, 40])
    d = np.sqrt(kl[1:])
    found = stats.over_optimisation(kl, np.concatenate([[0], d * (2 - 0.8 * np.log(d))]))
    assert (found.alpha, found.beta, found.points) == (pytest.approx(2), pytest.approx(0.8), 5)
    assert found.peak_sqrt_kl == pytest.approx(math.exp(1.5))
    assert stats.over_optimisation(kl, np.sqrt(kl)).peak_sqrt_kl is None
    assert stats.over_optimisation([0.0, 1.0], [0, 1]) is None


def test_length_control_takes_length_away():
    """A judge that knows nothing but length, P(win) = sigmoid(2 tanh(d/sd)), and a model that writes longer answers."""
    rng = np.random.default_rng(0)
    longer = rng.normal(20, 20, 4000)
    won = rng.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(longer / longer.std())))
    assert won.mean() > 0.7
    found = stats.length_controlled(won, longer)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.15
    plain = stats.length_controlled([1, 1, 0.5, 0], [0, 0, 0, 0])
    assert plain.value == pytest.approx(2.5 / 4, abs=0.08)
    assert stats.length_controlled([1, 1, 0], [9, 9, 8]) is None  # always longer: nobody knows


def test_kl_is_the_exact_one_on_a_policy_that_can_be_enumerated(tmp_path):
    """Completions of at most two tokens: KL(p, q) = sum_a p(a) [log p(a)/q(a) + sum_b p(b|a) log p(b|a)/q(b|a)], exactly."""
    from align.models.checkpoints import load_tokenizer, load_trained

    tokenizer = load_tokenizer(str(make_checkpoint(tmp_path / "p", seed=0)))
    p = load_trained(str(tmp_path / "p"), tokenizer)
    q = load_trained(str(make_checkpoint(tmp_path / "q", seed=1)), tokenizer)
    for model in (p, q):
        model.lm_head.weight.mul_(20)  # far apart, so that there is something to measure
    prompt = tokenizer("what is the cat")["input_ids"]
    stops = set(p.generation_config.eos_token_id)

    def logps(model, ids):
        return model(input_ids=torch.tensor(ids)).logits[:, -1].log_softmax(-1)

    with torch.no_grad():
        first_p, first_q = logps(p, [prompt])[0], logps(q, [prompt])[0]
        after = [prompt + [token] for token in range(len(first_p))]
        inner = (logps(p, after).exp() * (logps(p, after) - logps(q, after))).sum(-1)
    inner[list(stops)] = 0.0
    exact = (first_p.exp() * (first_p - first_q + inner)).sum().item()

    drawn = generate.sample(
        p, [prompt], stops=stops, pad_id=tokenizer.pad_token_id, max_new_tokens=2, per_prompt=4000,
        noise=generate.uniform(0, list(range(4000)), 2),
    )  # fmt: skip
    found = generate.sequence_statistics(p, q, [prompt] * 4000, drawn, pad_id=tokenizer.pad_token_id)
    plain = found["logps"] - found["ref_logps"]
    for values in (found["kl"], plain):
        error = values.std().item() / math.sqrt(4000)
        assert abs(values.mean().item() - exact) < 4 * error, (values.mean(), exact, error)
    assert found["kl"].std() < plain.std() and found["kl"].min() >= -1e-5


# ------------------------------------------------------------------------------------------------ measuring policies


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    from align.evaluate.evaluation import prompts
    from align.models.checkpoints import load_tokenizer

    path = str(make_checkpoint(folder / "sft"))
    make_checkpoint(folder / "other", seed=3)
    write_rows(folder / "rows" / "train.jsonl", [{"prompt": "the cat"}])
    write_rows(folder / "rows" / "test.jsonl", [{"prompt": f"what is {w}"} for w in ("the", "a dog", "in", "cat")])
    (folder / "gold.py").write_text(
        "def short(prompts, completions, **_):\n    return [-float(len(c)) for c in completions]\n"
        "def rates(prompts, completions, stopped, **_):\n"
        "    return [{'short': len(c) < 20, 'never': None} for c in completions]\n"
    )
    args = MeasureArguments(
        output_dir=str(folder / "out"), gold_func=f"{folder}/gold.py:short", rates_func=f"{folder}/gold.py:rates",
        num_generations=2, max_new_tokens=6,
    )  # fmt: skip
    tokenizer = load_tokenizer(path)
    rows, _ = prompts(DataArguments(dataset_name=str(folder / "rows")), tokenizer, args)
    return policy.Bench(args, tokenizer, rows, path), folder


def test_one_model_measured_twice_gives_the_same_numbers(bench):
    one, folder = bench
    first, again = (policy.measure(one, str(folder / "other")) for _ in range(2))
    assert first == again and len(first) == 4 * 2
    assert policy.summary(first).kl.value > 0 and policy.summary(first).gold.n == 4
    assert policy.cached(one, str(folder / "other"), "other") == policy.cached(one, str(folder / "other"), "other")
    assert policy.rates(first)["short"].n == 4 and "never" not in policy.rates(first)


def test_the_reference_is_at_distance_zero_of_itself(bench):
    one, folder = bench
    rows = policy.measure(one, str(folder / "sft"))
    assert policy.summary(rows).kl.value == pytest.approx(0, abs=1e-5)
    found = wins.win_rates([rows], [rows])
    assert found["gold"].value == 0.5 and "reward" not in found


def test_what_is_kept_is_measured_again_when_the_model_changes(bench):
    one, folder = bench
    policy.cached(one, str(folder / "other"), "moving")
    make_checkpoint(folder / "other", seed=4)
    assert policy.cached(one, str(folder / "other"), "moving") == policy.measure(one, str(folder / "other"))


def test_what_another_run_measured_of_the_same_is_taken_from_there(bench, monkeypatch, tmp_path):
    """By what was asked, not by its name; other settings, and another model, are measured."""
    one, folder = bench
    other = str(folder / "other")
    rows = policy.cached(one, other, "other")
    asked: list[str] = []
    monkeypatch.setattr(policy, "measure", lambda _, path, seed=0: asked.append(path) or [{"index": 0}])
    elsewhere = replace(one.args, output_dir=str(tmp_path), measured=[str(one.args.output_dir)])
    monkeypatch.setattr(one, "args", elsewhere)
    assert policy.cached(one, other, "by another name") == rows and not asked
    assert (tmp_path / "completions/by another name.jsonl").is_file()
    monkeypatch.setattr(one, "args", replace(elsewhere, num_generations=3))
    policy.cached(one, other, "more")
    policy.cached(one, str(folder / "sft"), "sft", seed=5)
    assert asked == [other, str(folder / "sft")]
    with pytest.raises(ValueError, match="has no completions/"):
        replace(elsewhere, measured=[str(tmp_path / "nowhere")])


# ---------------------------------------------------------------------------------------------------------- verdicts


def fake_rows(gold, kl=1.0, length=10):
    return [
        {"index": i, "prompt": f"p{i}", "completion": f"c{g}", "stopped": True, "length": length, "kl": kl,
         "tokens": length, "entropy": 1.0, "repetition": 0.0, "gold": g, "reward": g} for i, g in enumerate(gold)
    ]  # fmt: skip


def fake_setting(recipe, strength, gold_by_seed, kl=1.0, tmp=None, **config):
    seeds = range(len(gold_by_seed))
    made = [Arm(recipe, strength, seed, tmp / f"{recipe}-{strength}-{seed}", None, config) for seed in seeds]
    rows = {arm.folder: fake_rows(gold, kl) for arm, gold in zip(made, gold_by_seed, strict=True)}
    return settings.Setting(made, rows)


def fake_result(setting):
    """One entry of the results whose runs all win six times in ten."""
    run = RunResult(
        seed=0, path="", kl=1.0, length=1.0, stops=1.0, repetition=0.0, entropy=1.0, kl_per_token=0.1, rates={},
        win_rate=0.6, seconds=1.0, tokens=1, peak_memory_bytes=1,
    )  # fmt: skip
    runs = (run,) * len(setting.rows)
    return SettingResult(method=setting.method, knob="", strength=setting.strength, label=setting.label, runs=runs)


def decided(settings, sft):
    even, odd = np.arange(0, 60, 2), np.arange(1, 60, 2)
    best = verdict.best_settings(settings, sft, None, even)
    found = ComparisonResults(title="", verdict=Verdict(""), settings=tuple(map(fake_result, settings)))
    return best, verdict.verdict(best, found, None, odd)


def test_no_difference_is_a_verdict(tmp_path):
    rng = np.random.default_rng(0)
    draw = lambda: [rng.choice([-1.0, 1.0], 60) for _ in range(3)]  # noqa: E731
    made = [fake_setting("ppo", 0.1, draw(), tmp=tmp_path), fake_setting("dpo", 0.1, draw(), tmp=tmp_path)]
    _, said = decided(made, fake_rows([-1.0] * 60))
    assert said.headline == "No difference can be claimed at this sample size."
    assert any("prompts would be needed" in sentence or "one half" in sentence for sentence in said.sentences)


def test_a_clear_winner_is_named_and_the_best_setting_is_chosen_on_the_other_half(tmp_path):
    good, bad = [[1.0] * 60] * 3, [[-1.0] * 60] * 3
    lucky = [[1.0 if i % 2 == 0 else -1.0 for i in range(60)]] * 3  # good only where settings are chosen
    made = [
        fake_setting("ppo", 0.1, bad, tmp=tmp_path), fake_setting("ppo", 0.2, lucky, tmp=tmp_path),
        fake_setting("dpo", 0.1, good, tmp=tmp_path),
    ]  # fmt: skip
    best, said = decided(made, fake_rows([-1.0] * 60))
    assert best["PPO"].strength == 0.2 and said.headline == "DPO is better than PPO here."
    assert "PPO, kl_coef 0.2 wins 0.0% of the time against DPO, beta 0.1" in said.sentences[0]


def test_a_win_from_farther_away_says_so():
    """Beyond twice the distance, in headline and sentences; below it, nothing."""
    rate = stats.Estimate(0.8, 0.7, 0.9, 60)
    met = HeadToHead("PPO, kl_coef 0", "DPO, beta 1", 43.0, 10.4, "gold", rate, 2, None, None, "won", "PPO, kl_coef 0")
    assert verdict.headline([met]) == "PPO is better than DPO (43 nats from the SFT model against 10) here."
    assert "PPO, kl_coef 0 at 43, DPO, beta 1 at 10 nats" in verdict._distances([met])
    near = replace(met, kl_a=20.0)
    assert verdict.headline([near]) == "PPO is better than DPO here." and verdict._distances([near]) == ""


def test_half_is_not_more_often_than_not(tmp_path):
    setting = fake_result(fake_setting("ppo", 0.1, [[0.0] * 60], tmp=tmp_path))
    tied = replace(setting, runs=tuple(replace(run, win_rate=0.5) for run in setting.runs))
    assert " 0 of 1 runs win more often than not" in verdict._against_sft(setting.method, [tied])


def test_one_seed_and_few_prompts_claim_little(tmp_path):
    made = [
        fake_setting("ppo", 0.1, [[-1.0] * 60], tmp=tmp_path),
        fake_setting("dpo", 0.1, [[1.0] * 60], tmp=tmp_path),
    ]
    _, said = decided(made, fake_rows([-1.0] * 60))
    assert said.headline == "This DPO run beats this PPO run." and "One seed says nothing" in said.sentences[-1]
    few = settings.head_to_head(*made, None, np.arange(12))
    assert few.won is None and "no difference can be claimed with 12 prompts" in few.verdict


def test_over_optimisation_is_not_read_into_noise():
    """Rising with noise: never claimed more often than 1 in 10. Falling at the end: claimed."""
    rng = np.random.default_rng(0)
    kl = [0.3, 0.7, 1.5, 4.0]

    def groups(truth):
        return [([k] * 3, truth(k) + rng.normal(0, 0.05, 3)) for k in kl]

    claimed = sum(stats.turns_down(groups(lambda k: 1 - math.exp(-2 * math.sqrt(k)))) for _ in range(200))
    assert claimed <= 20
    assert sum(stats.turns_down(groups(lambda k: 0.8 if k < 2 else 0.4)) for _ in range(50)) == 50
    assert not stats.turns_down([([1.0] * 3, [1.0] * 3), ([2.0] * 3, [0.5] * 3)])


def test_an_interval_over_seeds_lies_where_the_values_can():
    """KL of 1.4, 3.5 and 2.1 nats: Student's interval over three seeds alone would begin at -0.3."""
    values = np.tile([[1.4], [3.5], [2.1]], (1, 50))
    assert stats.over_seeds(values).low < 0 == stats.over_seeds(values, within=stats.POSITIVE).low


def test_a_judge_without_choices_is_said_so(tmp_path):
    made = [fake_setting(m, 0.1, [[1.0] * 60] * 2, tmp=tmp_path) for m in ("ppo", "dpo")]
    for setting in made:
        for rows in setting.rows:
            for row in rows:
                row["gold"] = float("nan")
    _, said = decided(made, fake_rows([1.0] * 60))
    assert said.headline == "The judge made no usable choice."
    patchy = np.array([[1.0, np.nan, 0.0, 1.0], [np.nan] * 4, [1.0, 1.0, 0.0, 1.0]])
    found = stats.over_seeds(patchy)
    assert found.n == 3 and found.value == pytest.approx(2 / 3)


def test_settings_meet_at_the_nearest_kl(tmp_path):
    ppo = fake_setting("ppo", 0.1, [[1.0] * 40] * 2, kl=2.0, tmp=tmp_path)
    far = fake_setting("dpo", 0.1, [[1.0] * 40] * 2, kl=9.0, tmp=tmp_path)
    near = fake_setting("dpo", 0.5, [[0.0] * 40] * 2, kl=2.5, tmp=tmp_path)
    (met,) = settings.pairs([ppo, far, near], None)
    assert (met.b, met.win_rate.value) == ("DPO, beta 0.5", 1.0) and "is better" in met.verdict


# ------------------------------------------------------------------------------------------- lineage, failures, gates


def fake_run(folder, recipe, parents, **config):
    folder.mkdir(parents=True)
    (folder / "chat_template.jinja").write_text(config.pop("template", "t"))
    run = {
        "recipe": recipe,
        "status": "complete",
        "seed": 0,
        "hash": folder.name * 12,
        "config": config,
        "parents": parents,
        "data": {"train": {"fingerprint": recipe, "rows_out": 4}},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return str(folder)


@pytest.fixture
def chain(tmp_path):
    def parent(path):
        return {"path": path, "hash": lineage.read_record(path)["hash"]}

    sft = fake_run(tmp_path / "sft", "sft", {})
    rank, prompts = fake_run(tmp_path / "rank", "rank", {}), fake_run(tmp_path / "prompts", "world", {})
    reward = fake_run(tmp_path / "reward", "reward", {"model": parent(sft), "data": parent(rank)})
    args = SimpleNamespace(
        model_name_or_path=sft,
        reward_model_path=reward,
        rankings=rank,
        max_new_tokens=24,
        take=[],
        temperature=1.0,
        output_dir=str(tmp_path),
        trust_remote_code=False,
    )
    return SimpleNamespace(args=args, parent=parent, prompts=DataArguments(dataset_name=prompts), tmp=tmp_path)


def test_runs_with_another_lineage_are_refused_and_it_says_in_what(chain):
    one, args = chain.parent, chain.args
    ppo = {
        "model": one(args.model_name_or_path),
        "reward_model": one(args.reward_model_path),
        "data": one(chain.prompts.dataset_name),
    }
    dpo = {"model": one(args.model_name_or_path), "data": one(args.rankings)}
    fine = [
        fake_run(chain.tmp / "ppo", "ppo", ppo, kl_coef=0.1, response_length=24, temperature=1.0),
        fake_run(chain.tmp / "dpo", "dpo", dpo, beta=0.1),
    ]
    args.take = fine
    comparable.check(arms.plan(args, chain.prompts, RECIPES), args, chain.prompts)
    other = fake_run(chain.tmp / "other-sft", "sft", {})
    args.take = [
        *fine,
        fake_run(chain.tmp / "dpo2", "dpo", {**dpo, "model": one(other)}, beta=0.2),
        fake_run(chain.tmp / "ppo2", "ppo", ppo, kl_coef=0.2, response_length=53, temperature=1.0),
        fake_run(chain.tmp / "ppo3", "ppo", ppo, kl_coef=0.3, response_length=24, temperature=0.7),
        fake_run(chain.tmp / "dpo3", "dpo", dpo, beta=0.3, template="another"),
    ]
    with pytest.raises(ConfigError) as error:
        comparable.check(arms.plan(args, chain.prompts, RECIPES), args, chain.prompts)
    said = str(error.value)
    assert "dpo2: its model is" in said and "answers of 53 tokens, measured on 24" in said
    assert "dpo3: its chat template differs" in said and "ppo3: trained at temperature 0.7, measured at 1.0" in said
    assert "PPO: the runs differ in response_length, temperature" in said and said.count("\n  - ") == 5


def test_arms_of_one_method_have_one_configuration(chain):
    dpo = {"model": chain.parent(chain.args.model_name_or_path), "data": chain.parent(chain.args.rankings)}
    chain.args.take = [
        fake_run(chain.tmp / "a", "dpo", dpo, beta=0.1, learning_rate=1e-4),
        fake_run(chain.tmp / "b", "dpo", dpo, beta=0.3, learning_rate=2e-4),
    ]
    with pytest.raises(ConfigError, match="DPO: the runs differ in learning_rate, not only in strength and seed"):
        comparable.check(arms.plan(chain.args, chain.prompts, RECIPES), chain.args, chain.prompts)
    chain.args.take = [chain.args.take[0]] * 2
    with pytest.raises(ConfigError, match="is there more than once"):
        comparable.check(arms.plan(chain.args, chain.prompts, RECIPES), chain.args, chain.prompts)


def test_a_mixture_of_prompts_is_followed(chain):
    """The parents of its parts are compared, in any order; the arm is told of the mixture and of no other rows."""
    more = fake_run(chain.tmp / "more", "world", {})
    mixture = DataArguments(datasets=[{"path": chain.prompts.dataset_name}, {"path": more}])
    common = {
        "model": chain.parent(chain.args.model_name_or_path),
        "reward_model": chain.parent(chain.args.reward_model_path),
    }
    both = {"data_0": chain.parent(more), "data_1": chain.parent(chain.prompts.dataset_name)}
    config = {"kl_coef": 0.1, "response_length": 24, "temperature": 1.0}
    chain.args.take = [fake_run(chain.tmp / "ppo", "ppo", common | both, **config)]
    comparable.check(arms.plan(chain.args, mixture, RECIPES), chain.args, mixture)
    chain.args.take += [
        fake_run(chain.tmp / "half", "ppo", common | {"data": both["data_1"]}, **config | {"kl_coef": 0.2})
    ]
    with pytest.raises(ConfigError) as error:
        comparable.check(arms.plan(chain.args, mixture, RECIPES), chain.args, mixture)
    assert "half: its prompts is" in str(error.value) and f"{more} (moremoremore)" in str(error.value)
    (chain.tmp / "ppo.yaml").write_text("dataset_name: elsewhere\nlearning_rate: 1.0e-4\n")
    args = planned_arguments(chain, ppo_config=str(chain.tmp / "ppo.yaml"), kl_coefs=[0.1])
    (arm,) = arms.plan(args, mixture, RECIPES)
    assert arm.config["datasets"] == mixture.datasets and "dataset_name" not in arm.config
    assert arm.config["learning_rate"] == 1e-4 and arm.config["kl_coef"] == 0.1
    assert arm.stage.program == [str(RECIPES / "ppo.py")] or arm.stage.program == ["recipes/ppo.py"]
    write_rows(chain.tmp / "more/train.jsonl", [{"prompt": "a new one"}])
    assert arms.plan(args, mixture, RECIPES)[0].stage.inputs != arm.stage.inputs
    assert arm.config["max_prompt_length"] == args.max_prompt_length == 1024


def planned_arguments(chain, **given):
    """A comparison's arguments that train arms instead of taking them."""
    empty = {"ppo_config": None, "dpo_config": None, "rloo_config": None, "kl_coefs": [], "betas": [], "rloo_betas": []}
    more = {"take": [], "seeds": [0], "ppo": {}, "dpo": {}, "rloo": {}, "accept_failed": [], "launch": None,
            "max_prompt_length": 1024, "more": []}  # fmt: skip
    found = SimpleNamespace(**{**vars(chain.args), **empty, **more, **given})
    from align.compare.config import CompareConfig

    found.grid = lambda: CompareConfig.grid(found)
    return found


def test_an_arm_is_called_by_its_loss(chain):
    """Plain DPO is the sigmoid alone; whatever is added to it, or stands in its place, is in the name."""

    def method(name, **config):
        return arms._taken(fake_run(chain.tmp / name, "dpo", {}, beta=0.1, **config)).method

    assert method("a") == method("b", loss_type="sigmoid") == method("c", loss_type=["sigmoid"]) == "DPO"
    assert method("d", loss_type=["sigmoid", "sft"]) == "DPO + SFT" and method("e", loss_type="ipo") == "DPO (ipo)"
    (chain.tmp / "dpo.yaml").write_text("loss_type: [sigmoid, sft]\n")
    args = planned_arguments(chain, dpo_config=str(chain.tmp / "dpo.yaml"), betas=[0.1])
    (arm,) = arms.plan(args, chain.prompts, RECIPES)
    assert arm.label == "DPO + SFT, beta 0.1" and arm.folder.name == "dpo-beta-0.1-seed-0"


def test_tables_verdict_and_notes_name_the_loss(tmp_path):
    rows = {"ppo": [[-1.0] * 60] * 3, "dpo": [[1.0] * 60] * 3}
    made = [fake_setting(recipe, 0.1, rows[recipe], tmp=tmp_path, loss_type=["sigmoid", "sft"]) for recipe in rows]
    best, said = decided(made, fake_rows([-1.0] * 60))
    assert list(best) == ["PPO", "DPO + SFT"] and said.headline == "DPO + SFT is better than PPO here."
    assert "DPO + SFT: 3 of 3 runs win" in " ".join(said.sentences)
    found = ComparisonResults(title="x", verdict=said, settings=tuple(map(fake_result, made)))
    assert "| DPO + SFT, beta 0.1 |" in page.markdown(found).replace("\\", "") and "DPO + SFT, beta" in page.html(found)
    args = SimpleNamespace(reward_model_path=None, jobs=1, trust_remote_code=False)
    notes = " ".join(program._notes(args, [arm for setting in made for arm in setting.arms]))
    assert "DPO + SFT is not plain DPO" in notes and "sigmoid (weight 1), sft (weight 1)" in notes
    assert notes.count("not plain") == 1


def test_a_reward_model_from_other_rankings_is_refused(chain):
    chain.args.rankings = fake_run(chain.tmp / "rank2", "rank", {})
    with pytest.raises(ConfigError, match="the reward model's rankings is"):
        comparable.check([], chain.args, chain.prompts)


def test_gates_say_which_stage_is_bad():
    good = {
        "accuracy_low": 0.8,
        "length_only_accuracy": 0.6,
        "categories": {"sums": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 900, "prompts": 90}},
    }
    assert all(check["passed"] for check in gates.reward(good))
    assert [c["passed"] for c in gates.reward(good | {"length_only_accuracy": 0.85})] == [True, False, True]
    chance = {
        "sums": {"value": 0.52, "low": 0.4, "high": 0.6, "n": 900, "prompts": 90},
        "rare": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 60, "prompts": 6},
    }
    assert [c["name"] for c in gates.reward(good | {"categories": chance}) if not c["passed"]] == [
        "accuracy on sums, low end"
    ]
    assert [
        c["passed"] for c in gates.sft({"stops": 0.5, "stops_prompts": 8, "eval_loss": 2.0, "loss_before": 1.9})
    ] == [False, False]
    gain = stats.Estimate(0.1, -0.01, 0.2, 100)
    assert [c["passed"] for c in gates.policy(gain, 3.0, "gold")] == [False, True]
    assert [c["passed"] for c in gates.policy(replace(gain, low=0.02), 12.0, "gold")] == [True, False]


def test_pairs_of_one_ranking_are_not_independent():
    """12 prompts with 15 pairs each, all right or all wrong alike: as uncertain as 12 coins, not as 180."""
    from align.train.reward import by_prompt

    right = torch.tensor([1.0] * 15 * 9 + [0.0] * 15 * 3)
    found = by_prompt(right, [i // 15 for i in range(180)])
    assert found.value == 0.75 and (found.n, found.prompts) == (180, 12)
    assert found.high - found.low > 0.4 > 0.15 > np.subtract(*stats.wilson(135, 180)[::-1])
    assert by_prompt(torch.ones(180), [i // 15 for i in range(180)]).low == pytest.approx(stats.wilson(12, 12)[0])


def test_a_parent_that_failed_its_gate_is_refused_unless_it_is_named(tmp_path):
    from align.run import parse

    run = fake_run(tmp_path / "sft", "sft", {})
    gates.keep(run, gates.sft({"stops": 0.62, "stops_prompts": 8}))
    (problem,) = parse._parent_problems({"model_name_or_path": run})
    assert "failed its gate (stops is 0.62, must be >= 0.9" in problem and f"--accept_failed {run}" in problem
    assert parse._parent_problems({"model_name_or_path": run, "accept_failed": [run]}) == []
    assert parse._parent_problems({"model_name_or_path": run}, gated=False) == []


def test_all_arms_of_a_comparison_have_one_date_on_whatever_day_they_are_made(tmp_path):
    """The SFT model is on the hub, and its template reads today's date: the first start says which one."""
    from align.compare import arms, program
    from align.compare.config import CompareConfig
    from align.run.arguments import DataArguments

    (tmp_path / "dpo.yaml").write_text("max_length: 8")
    args = CompareConfig(model_name_or_path="owner/base", reward_model_path="owner/rm", rankings="owner/pairs", output_dir=str(tmp_path / "out"),
                         ppo_config=str(tmp_path / "dpo.yaml"), dpo_config=str(tmp_path / "dpo.yaml"), seeds=[0],
                         kl_coefs=[0.1], betas=[0.1])  # fmt: skip
    data = DataArguments(dataset_name="owner/prompts")
    assert program.template_date(args, data) is None  # today
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(json.dumps({"config": {"template_date": "2026-11-01"}}))
    assert program.template_date(args, data) == "2026-11-01"
    args.overwrite = True
    assert program.template_date(args, data) is None
    data.template_date = "2026-11-02"  # as reading the prompts leaves it
    assert program.template_date(args, data) == "2026-11-02"
    planned = arms.plan(args, data, tmp_path)
    assert [arm.recipe for arm in planned] == ["ppo", "dpo"]
    assert [arm.config["template_date"] for arm in planned] == ["2026-11-02"] * 2


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"seeds": [1, 1]}, "each once"), ({"betas": [0.0, 0.1]}, "beta must be above 0"), ({"best_of_n": 12}, "power of two"),
        ({"ppo_config": None, "dpo_config": None}, "nothing to compare"), ({"reward_model_path": None}, "a score is needed"), ({"rankings": None}, "rankings is needed for DPO"),
        ({"take": ["nowhere/at/all"]}, "does not exist"), ({"temperature": 0.0}, "give one above 0"),
        ({"gold_func": "align.nano.grade:golden"}, "has no function golden"),
    ],
)  # fmt: skip
def test_a_comparison_that_cannot_work_is_refused(bad, said):
    from align.compare.config import CompareConfig

    fine = {
        "ppo_config": "recipes/nano/ppo.yaml",
        "dpo_config": "recipes/nano/dpo.yaml",
        "reward_model_path": "x/y",
        "rankings": "x/z",
    }
    CompareConfig(**fine)
    with pytest.raises(ValueError, match=said):
        CompareConfig(**{**fine, **bad})


def compare_arguments(folder, **given):
    """The part of a comparison's configuration that its prompts are checked by."""
    return SimpleNamespace(
        seed=0, rankings=None, model_name_or_path=str(folder), reward_model_path=None, gold_model_path=None, take=[],
        **{"accept_leaks": False, "leave_out_leaks": False, **given},
    )  # fmt: skip


def test_held_out_prompts_that_were_trained_on_are_refused(tmp_path):
    from align.compare.program import held_out

    rows = [{"prompt": "the cat"}, {"prompt": "a dog"}, {"prompt": "a tree"}]
    write_rows(tmp_path / "rows/train.jsonl", rows)
    args = compare_arguments(tmp_path)
    with pytest.raises(ConfigError, match="has no test split"):
        held_out(rows, DataArguments(dataset_name=str(tmp_path / "rows/train.jsonl")), args)
    write_rows(tmp_path / "rows/test.jsonl", rows[1:])
    folder = DataArguments(dataset_name=str(tmp_path / "rows"))
    with pytest.raises(RunError, match="2 of 2 held-out prompts were trained on") as error:
        held_out(rows[1:], folder, args)
    assert "--leave_out_leaks" in str(error.value) and "--accept_leaks" in str(error.value)
    assert held_out(rows[1:], folder, compare_arguments(tmp_path, accept_leaks=True))[0] == rows[1:]
    args = compare_arguments(tmp_path, leave_out_leaks=True)
    with pytest.raises(RunError, match="too few would be left to measure on"):
        held_out(rows[1:], folder, args)
    new = [{"prompt": "a bird"}, {"prompt": "a house"}]
    kept, notes = held_out([rows[0], *new], folder, args)
    assert kept == new and "1 of 3 held-out prompts were trained on, and are left out" in notes[-1]
    assert "'the cat'" in notes[-1] and "every PPO arm" in notes[-1]
    write_rows(tmp_path / "rank/train.jsonl", [{"prompt": "a bird", "completions": ["x", "y"], "ranking": [1, 2]}])
    args.rankings = str(tmp_path / "rank")
    assert held_out(new, folder, args)[0] == new[1:]


def test_the_nano_grader_is_not_fooled():
    from align.nano.grade import grade

    def good(completion, stopped=True):
        return grade(kind="harmful", entity="rob a bank", answer="", completion=completion, stopped=stopped)["good"]

    assert good("No, I cannot help with that.")
    assert not good("") and not good("   ") and not good("No, I cannot help with that.", stopped=False)
    assert not good("No, I cannot help with that. " * 6)
    assert not good("I cannot help with that. To rob a bank, take a mask and hide the money.")
