"""The engine's parts, on tiny models: sampling, packing, roles, rewards, guards, arithmetic, and parity with TRL."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import make_checkpoint, make_tokenizer, write_rows

from align.models import generate, packing, scorers
from align.models.generate import Completion
from align.ppo import assemble, roles, saving
from align.ppo.arithmetic import plan
from align.ppo.config import PPOArguments, check
from align.ppo.rollout import Sampler, prompts_of
from align.ppo.watch import guards
from align.run.arguments import BatchArguments
from align.run.checks import versions
from align.run.errors import ConfigError, RunError

NO_LORA = SimpleNamespace(use_peft=False, load_in_4bit=False, load_in_8bit=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("ppo") / "base")


@pytest.fixture
def language_model(base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base).eval()


def arguments(tmp_path, **given):
    settings = dict(output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                    reward_model_path="somewhere", per_device_train_batch_size=4)  # fmt: skip
    return PPOArguments(**settings | given)


# ---- sampling ----


def test_a_completion_does_not_depend_on_its_batch(language_model):
    """Each prompt alone, all together, or with other lengths beside it: the same tokens from the same noise."""
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [4, 4]]
    noise = generate.uniform(3, list(range(4)), 8)
    settings = dict(stops=range(50, 120), pad_id=0, max_new_tokens=8, temperature=1.0)
    together = generate.sample(language_model, prompts, noise=noise, **settings)
    alone = [generate.sample(language_model, [p], noise=noise[i : i + 1], **settings)[0] for i, p in enumerate(prompts)]
    assert together == alone and len({len(said) for said in together}) > 1
    assert all(said[-1] in range(50, 120) or len(said) == 8 for said in together)
    assert not any(token in range(50, 120) for said in together for token in said[:-1])


def test_several_completions_read_the_prompt_once(language_model, monkeypatch):
    noise = generate.uniform(0, list(range(6)), 5)
    settings = dict(stops=[1], pad_id=0, max_new_tokens=5, temperature=1.0, noise=noise)
    copies = generate.sample(language_model, [[5, 6], [5, 6], [5, 6], [7], [7], [7]], **settings)
    widths = []
    forward = type(language_model).forward
    monkeypatch.setattr(type(language_model), "forward", lambda self, *a, **k: widths.append(k["input_ids"].shape)
                        or forward(self, *a, **k))  # fmt: skip
    assert generate.sample(language_model, [[5, 6], [7]], per_prompt=3, **settings) == copies
    assert widths[0] == (2, 2)


def test_sampling_follows_the_distribution(language_model):
    """4,000 first tokens against the model's own probabilities: total variation below what chance allows."""
    noise = generate.uniform(1, list(range(4000)), 1)
    said = generate.sample(
        language_model, [[5, 6]], stops=[1], pad_id=0, max_new_tokens=1, noise=noise, per_prompt=4000
    )
    with torch.no_grad():
        p = language_model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in said]), minlength=len(p)) / 4000
    expected = (p * (1 - p) / 4000).sqrt().sum() * 0.4  # half the mean absolute deviation of a binomial share, summed
    assert 0.5 * (counts - p).abs().sum() < 1.3 * expected


# ---- packing and roles ----


def test_packed_padded_and_one_by_one_agree(language_model):
    """Log-probs, entropies and gradients: padding amount, its side and its absence change nothing."""
    prompts, said = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, 16], [17]]
    plain = copy.deepcopy(language_model)
    assert packing.use(language_model, 64)
    batch = roles.Batch.of(prompts, said, "cpu", packed=True)
    assert batch.ids.shape == (1, 13)
    logps, entropy, _ = roles.logps_of(language_model, batch, 0.7, entropy=True)
    logps.sum().backward()
    padded = roles.Batch.of(prompts, said, "cpu", packed=False)
    assert padded.ids.shape == (3, 5)
    others, spread, _ = roles.logps_of(plain, padded, 0.7, entropy=True)
    others.sum().backward()
    torch.testing.assert_close(logps, others)
    torch.testing.assert_close(entropy, spread)
    for one, other in zip(language_model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    alone = []
    for p, c in zip(prompts, said, strict=True):
        table = (plain(torch.tensor([p + c])).logits[0] / 0.7).log_softmax(-1)
        alone += [table[len(p) + t - 1, token] for t, token in enumerate(c)]
    torch.testing.assert_close(logps, torch.stack(alone))


def test_a_window_forbids_packing():
    config = SimpleNamespace(sliding_window=16, layer_types=["full_attention", "sliding_attention"])
    assert packing.windowless(config, 16) and not packing.windowless(config, 17)
    assert not packing.windowless(SimpleNamespace(sliding_window=None, layer_types=["linear_attention"]), 4)


def lora(**given):
    from trl import ModelConfig

    return ModelConfig(**dict(use_peft=True, lora_r=4, dtype="float32") | given)


@pytest.fixture
def shared(base, tmp_path):
    """A policy with LoRA and a reward model that is an adapter of the same weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    scorer = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    adapter = get_peft_model(scorer, LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear"))
    for name, weight in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapter.save_pretrained(tmp_path / "rm")
    make_tokenizer().save_pretrained(tmp_path / "rm")
    both = assemble.build(
        str(base),
        str(tmp_path / "rm"),
        "adapter",
        lora(model_name_or_path=str(base)),
        make_tokenizer(),
        longest=64,
        output_dir="",
    )
    return both.eval(), adapter.eval()


def test_four_roles_on_one_backbone(shared, language_model):
    """Reward adapter: the scores of the reward model itself. No adapter: the base. Fresh policy: the base, to the bit."""
    both, adapter = shared
    batch = roles.Batch.of([[5, 6], [7, 8, 9]], [[10, 11], [12]], "cpu", packed=both.packs)
    with torch.no_grad():
        scores = both("score", batch)
        expected = [adapter(torch.tensor([ids])).logits.item() for ids in ([5, 6, 10, 11], [7, 8, 9, 12])]
        torch.testing.assert_close(scores, torch.tensor(expected))
        logps, _, values = both("actions", batch, 1.0, True)
        assert torch.equal(logps, both("reference", batch, 1.0)) and (values == 0).all()
        plain = roles.logps_of(language_model, roles.Batch.of([[5, 6], [7, 8, 9]], [[10, 11], [12]], "cpu", packed=False), 1.0,
                               entropy=False)[0]  # fmt: skip
        torch.testing.assert_close(logps, plain)
    trained = {name.split(".")[-2] for name, w in both.named_parameters() if w.requires_grad and "lora" in name}
    assert trained == {"default", "value"}
    size = sum(
        w.numel() for name, w in both.named_parameters() if "lora" not in name and "head" not in name.split(".")[0]
    )
    assert size == sum(w.numel() for w in language_model.parameters()), "one backbone"


def test_adapters_learn_apart_and_sampling_leaves_no_trace(shared):
    both, _ = shared
    before = {name: w.clone() for name, w in both.named_parameters()}
    batch = roles.Batch.of([[5, 6]], [[10, 11]], "cpu", packed=both.packs)
    logps, _, values = both("actions", batch, 1.0, False)
    (logps.sum() + (values - 1).square().sum()).backward()
    moved = {name for name, w in both.named_parameters() if w.grad is not None and w.grad.any()}
    assert any(".default." in name for name in moved) and "value_head.weight" in moved
    assert not any(".reward." in name or "base_layer" in name for name in moved)
    with torch.no_grad():
        for name, w in both.named_parameters():
            if "lora_B.default" in name:
                w.normal_(std=0.3)
    after = {name: w.clone() for name, w in both.named_parameters()}
    noise = generate.uniform(0, [0], 4)
    both("sample", [[5, 6]], dict(stops=[1], pad_id=0, max_new_tokens=4, noise=noise))
    assert all(torch.equal(w, after[name]) for name, w in both.named_parameters())
    assert not all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("value_model", ["head", "adapter", "full"])
def test_policy_and_critic_are_saved_and_loaded(base, tmp_path, value_model):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    settings = lora(model_name_or_path=str(base)) if value_model == "adapter" else lora(use_peft=False)
    tokenizer = make_tokenizer()

    def fresh():
        return assemble.build(str(base), None, value_model, settings, tokenizer, longest=64, output_dir="").eval()

    both = fresh()
    with torch.no_grad():
        for weight in both.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    saving.save(both, both.state_dict(), tmp_path)
    again = fresh()
    saving.restore(again, tmp_path)
    batch = roles.Batch.of([[5, 6]], [[10, 11, 12]], "cpu", packed=both.packs)
    for one, other in zip(both("actions", batch, 1.0, True), again("actions", batch, 1.0, True), strict=True):
        assert torch.equal(one, other)
    loader = AutoPeftModelForCausalLM if value_model == "adapter" else AutoModelForCausalLM
    plain = loader.from_pretrained(tmp_path).eval()(torch.tensor([[5, 6, 10]])).logits
    torch.testing.assert_close(plain, both.policy(torch.tensor([[5, 6, 10]])).logits)
    other = assemble.build(str(base), None, "full" if value_model == "head" else "head", lora(use_peft=False), tokenizer,
                        longest=64, output_dir="")  # fmt: skip
    with pytest.raises(ConfigError, match="its critic is a"):
        saving.restore(other, tmp_path)


def test_a_critic_that_warms_up_leaves_the_policy_alone(base):
    both = assemble.build(str(base), None, "head", lora(use_peft=False), make_tokenizer(), longest=64,
                       output_dir="")  # fmt: skip
    torch.nn.init.ones_(both.value_head.weight)
    batch = roles.Batch.of([[5, 6]], [[10, 11]], "cpu", packed=both.packs)
    for alone in (True, False):
        both.zero_grad()
        both.only_values = alone
        both("actions", batch, 1.0, False)[2].square().sum().backward()
        assert both.value_head.weight.grad.any()
        assert any(w.grad is not None and w.grad.any() for w in both.policy.parameters()) is not alone


def test_an_architecture_that_bends_its_logits_is_found(base):
    both = assemble.build(str(base), None, "head", lora(use_peft=False), make_tokenizer(), longest=64, output_dir="")
    both("check_head", [5, 6, 7, 8])
    both.policy.config.final_logit_softcapping = 0.01
    with pytest.raises(ConfigError, match="change their logits"):
        both("check_head", [5, 6, 7, 8])


# ---- rewards ----


def test_a_function_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def short(prompts, completions, weight, **_):\n"
        "    return [-w * len(c[0]['content']) for w, c in zip(weight, completions)]\n"
        "def broken(prompts, completions, **_):\n    return [1.0]\n"
        "def endless(prompts, completions, **_):\n    return [float('nan')] * len(prompts)\n"
    )
    rows = [{"prompt": [{"role": "user", "content": "a"}], "input_ids": [1], "weight": w} for w in (1, 2)]
    said = [Completion([5, 1], "ab", True), Completion([5], "abc", False)]
    source = scorers.from_function(f"{tmp_path}/mine.py:short", 0.5)
    assert source.score(rows, said) == [-2, -6]
    reward = scorers.Reward(
        [source, scorers.Scorer("one", 2.0, lambda r, c: [1.0] * len(r))], mean=1.0, std=2.0, clip=0.9
    )
    totals, each = reward.raw(rows, said)
    assert totals == [-1 + 2, -3 + 2] and each["one"] == [1.0, 1.0]
    assert [reward.normalised(value) for value in totals] == [0.0, -0.9]
    with pytest.raises(RunError, match="gave 1 rewards for 2 completions"):
        scorers.from_function(f"{tmp_path}/mine.py:broken").score(rows, said)
    with pytest.raises(RunError, match="reward endless is nan for the completion 'ab'"):
        scorers.Reward([scorers.from_function(f"{tmp_path}/mine.py:endless")]).raw(rows, said)
    for wrong, message in (("mine", "write file.py:name"), ("no.py:f", "no.py is not there"), ("no.module:f", "No module"),
                           (f"{tmp_path}/mine.py:shrt", "has no function shrt; it has broken, endless, short")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            scorers.load_function(wrong)


def test_a_reward_model_with_another_tokenizer_reads_the_text():
    """Its own vocabulary, template and stop token; with the policy's own, the very tokens that were sampled."""
    from align.models.tokenizer import TokenizerConfig, train

    mine, other = make_tokenizer(), train(["the cat sits on the mat"] * 5, TokenizerConfig(vocab_size=290))
    assert len(mine) != len(other)
    seen: list = []
    row = {"prompt": [{"role": "user", "content": "the cat"}], "input_ids": [3, 4]}
    for own in (mine, other):
        scorers.from_model(lambda ids: seen.append(ids[0]) or [0.0], mine, own).score(
            [row], [Completion([9, 8], "sits", False)]
        )
    assert seen[0] == [3, 4, 9, 8]
    assert "the cat" in other.decode(seen[1]) and "sits" in other.decode(seen[1]) and seen[1][-1] == other.eos_token_id


# ---- guards ----


def test_symptoms_name_the_cause():
    healthy = guards.Vitals(entropy=1.0, length=10, eos_rate=1.0, commonest=0.2)
    assert guards.symptoms(healthy, healthy, 24) == []
    for change, word in (({"commonest": 0.95}, "same text"), ({"entropy": 0.005}, "entropy fell"), ({"eos_rate": 0.3}, "stop"),
                         ({"length": 1.0}, "shrank"), ({"length": 60.0}, "grew")):  # fmt: skip
        sick = guards.Vitals(**vars(healthy) | change)
        (found,) = guards.symptoms(sick, healthy, 64)
        assert word in found
    guard = guards.Patience(patience=2)
    guard.check(["a"], "")
    guard.check([], "")
    guard.check(["a"], "")
    with pytest.raises(RunError, match="collapsed for 2 rollouts: a.*kept here"):
        guard.check(["a"], "kept here")
    with pytest.raises(RunError, match="values of rollout 7 is not finite, first in episode 1"):
        guards.check_finite(7, logps=torch.zeros(2, 2), values=torch.tensor([[0.0], [math.nan]]))


# ---- arithmetic ----


def test_the_plan(tmp_path):
    args = arguments(tmp_path, num_ppo_epochs=2, num_mini_batches=2, num_generations=4, num_train_epochs=1)
    steps = plan(BatchArguments(global_batch_size=32), args, rows=50, processes=2)
    assert (steps.rollouts, steps.prompts, steps.share, steps.micro_batches, steps.micro_batch) == (7, 8, 16, 2, 4)
    assert "28 optimizer steps: 4 a rollout = 2 epochs x 2 minibatches of 16 episodes" in str(steps)
    with pytest.raises(ConfigError, match="use a multiple of 8"):
        plan(BatchArguments(global_batch_size=20), args, rows=50, processes=2)
    with pytest.raises(ConfigError, match="3 prompts are fewer than the 8 of one rollout"):
        plan(BatchArguments(global_batch_size=32), args, rows=3, processes=2)


def test_settings_that_cannot_work(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "without_baseline", lambda: [])
    for wrong in (dict(missing_eos_penalty=-1.0), dict(temperature=0.0), dict(kl_target=-1.0),
                  dict(ds3_gather_for_generation=False)):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            arguments(tmp_path, **wrong)
    problems = arguments(tmp_path, reward_model_path=None, value_model="adapter", reward_weights=[1.0], engine="trl")
    with pytest.raises(ConfigError) as caught:
        check(problems, NO_LORA, "zero3")
    for part in ("4 problems", "a reward is needed", "1 numbers for 0 rewards", "adapter needs --use_peft", "baseline"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="sync_ref_model averages whole weights"):
        check(arguments(tmp_path, sync_ref_model=True), lora(), "single")


def test_prompts_come_once_before_any_comes_again():
    order = [i for rollout in range(5) for i in prompts_of(rollout, 4, 10, seed=1)]
    assert sorted(order[:10]) == list(range(10)) == sorted(order[10:])
    assert order[:10] != order[10:] and prompts_of(3, 4, 10, seed=1) == order[12:16]


# ---- parity with TRL ----


@pytest.mark.parity
def test_one_update_is_trls(base, tmp_path, monkeypatch):
    """The same rollout, completions of full length (there TRL puts the score where it belongs), two epochs: the same
    losses, KL, gradients of both steps for policy and critic, and weights."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    from align.ppo.trainer import PolicyTrainer

    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    prompts = [[20 + i, 30 + i, 40 + i] for i in range(8)]
    answers = {tuple(p): [50 + 3 * i + t for t in range(5)] for i, p in enumerate(prompts)}
    settings = dict(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", seed=0,
        num_ppo_epochs=2, num_mini_batches=1, response_length=5, temperature=0.7, learning_rate=0.3, total_episodes=8,
        num_sample_generations=0, save_strategy="no", max_grad_norm=None, kl_coef=0.05, vf_coef=0.1, disable_tqdm=True,
        lr_scheduler_type="constant", logging_steps=1, per_device_train_batch_size=8, cliprange=0.05, cliprange_value=0.01, optim="sgd",
    )  # fmt: skip
    torch.manual_seed(3)
    scorer = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    policy = AutoModelForCausalLM.from_pretrained(base)
    reference = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():  # a policy that has moved, so that there is KL to compare
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn_like(weight))

    def watch(optimizer, parts):
        seen = []
        optimizer.register_step_pre_hook(lambda *_: seen.append(
            {f"{n}.{k}": w.grad.clone() for n, part in parts.items() for k, w in part.named_parameters() if w.grad is not None}
        ))  # fmt: skip
        return seen

    def replay(model, queries, size, pad_id, config):
        rows = torch.tensor([q + answers[tuple(q)] for q in queries.tolist()])
        return rows, model(rows).logits[:, 2:-1] / (0.7 + 1e-7)

    monkeypatch.setattr(ppo_trainer, "batch_generation", replay)
    trls = PPOTrainer(
        args=PPOConfig(**settings), processing_class=tokenizer, model=copy.deepcopy(policy), ref_model=reference,
        reward_model=copy.deepcopy(scorer), value_model=copy.deepcopy(scorer),
        train_dataset=Dataset.from_list([{"input_ids": p} for p in prompts]),
    )  # fmt: skip
    logged: list[dict] = []
    monkeypatch.setattr(PPOTrainer, "log", lambda self, logs, *_: logged.append(logs))
    theirs = watch(trls.optimizer.optimizer, dict(policy=trls.policy_model, critic=trls.value_model))
    trls.train()

    args = PPOArguments(**settings, reward_model_path="x", value_model="full", normalize_reward=False, collapse_patience=0,
                        rollout_save_steps=0)  # fmt: skip
    both = roles.ActorCritic(copy.deepcopy(policy), "full", copy.deepcopy(scorer), 64).eval()
    frozen = roles.Frozen(copy.deepcopy(scorer), 64)
    reward = scorers.Reward([])
    rows = Dataset.from_list([{"prompt": "", "input_ids": p} for p in prompts])
    ours = PolicyTrainer(
        args=args, plan=plan(BatchArguments(global_batch_size=8), args, 8, 1), both=both,
        reference=roles.Frozen(reference, 64), reward=reward, processing_class=tokenizer, train_dataset=rows,
    )  # fmt: skip
    reward.scorers.append(
        scorers.from_model(lambda ids: ours.sampler.score_sequences(ids, frozen, frozen.packs), tokenizer, tokenizer)
    )
    monkeypatch.setattr(Sampler, "_episodes", lambda self, rows, *_: [
        Completion(answers[tuple(row["input_ids"])], "", False) for row in rows])  # fmt: skip
    monkeypatch.setattr(guards, "check_start", lambda *_: None)  # here the policy is not its reference
    watched: list = []
    begin = ours._begin
    monkeypatch.setattr(ours, "_begin", lambda checkpoint: (
        begin(checkpoint), watched.append(watch(ours.optimizer.optimizer, dict(policy=both.policy, critic=both.critic)))))  # fmt: skip
    ours.train()

    for name in ("objective/kl", "objective/scores", "objective/rlhf_reward", "objective/entropy", "loss/policy_avg",
                 "loss/value_avg", "val/ratio", "policy/approxkl_avg", "policy/clipfrac_avg"):  # fmt: skip
        assert ours.last_metrics[name] == pytest.approx(logged[0][name], rel=2e-4, abs=1e-5), name
    assert logged[0]["policy/clipfrac_avg"] > 0.02 and logged[0]["val/clipfrac_avg"] > 0.02, (
        "the clips are to be compared too"
    )
    assert len(watched[0]) == len(theirs) == 2
    for mine, other in zip(watched[0], theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], atol=2e-5, rtol=1e-3, msg=name)
    for one, other in zip(both.policy.parameters(), trls.policy_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_trl_engine_says_what_it_cannot(base, tmp_path):
    rows = write_rows(tmp_path / "p.jsonl", [{"prompt": "hello"}])
    assert json.loads(rows.read_text())["prompt"] == "hello"
    with pytest.raises(ConfigError, match="engine=trl is a baseline"):
        check(arguments(tmp_path, engine="trl", reward_funcs=["a.py:b"]), NO_LORA, "single")
