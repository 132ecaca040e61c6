"""PPO as it runs on a GPU, forced on the CPU: bf16 weights under autocast, checkpointing, every LoRA feature and critic."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from conftest import make_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from align.models import checkpoints, generate
from align.ppo import assemble, maths, roles, saving
from align.ppo.arithmetic import plan
from align.ppo.config import PPOArguments, check, check_rloo
from align.ppo.shared import folding, probing, switching
from align.run.arguments import BatchArguments
from align.run.errors import ConfigError, RunError
from align.train.loop import NoUpdate

HEADS = ["q_proj", "down_proj", "lm_head", "embed_tokens"]
FEATURES = {
    "plain": {},
    "rslora": dict(use_rslora=True),
    "dora": dict(use_dora=True),
    "head whole": dict(lora_modules_to_save=["lm_head"]),
    "embeddings whole": dict(lora_modules_to_save=["embed_tokens"]),
    "both whole": dict(lora_modules_to_save=["embed_tokens", "lm_head"]),
    "norms whole": dict(lora_modules_to_save=["input_layernorm", "norm"]),
    "heads as targets": dict(lora_target_modules=HEADS),
    "heads as targets, dora": dict(lora_target_modules=HEADS, use_dora=True),
    "dora, head whole": dict(use_dora=True, lora_modules_to_save=["lm_head"]),
}
CASES = [(tied, name) for tied in (False, True) for name in FEATURES if not tied or "heads" in name or "whole" in name]


def make(folder, *, tied=False, vocabulary=None, experts=False, zeros=False):
    """A tiny model; with `experts`, one whose experts' matrices are single parameters; with `zeros`, the
    pad token's embedding is nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    settings = dict(
        vocab_size=vocabulary or len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        initializer_range=0.2,
    )  # fmt: skip
    if experts:
        model = MixtralForCausalLM(MixtralConfig(**settings, num_local_experts=2, num_experts_per_tok=1))
    else:
        model = LlamaForCausalLM(LlamaConfig(**settings))
    if not zeros:
        torch.nn.init.normal_(model.get_input_embeddings().weight[tokenizer.pad_token_id].data)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The same model with and without tied embeddings."""
    return {tied: make(tmp_path_factory.mktemp("gpu") / f"base-{tied}", tied=tied) for tied in (False, True)}


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Trainers with and without bf16 follow each other here; accelerate keeps the first one's choice."""
    from accelerate.state import AcceleratorState, PartialState

    before = dict(os.environ)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    PartialState()
    for name in set(os.environ) - set(before):
        monkeypatch.delenv(name, raising=False)


def settings_of(base, **given):
    from trl import ModelConfig

    kept = dict(use_peft=True, lora_r=4, lora_alpha=8, lora_dropout=0.0, dtype="float32", model_name_or_path=str(base))
    return ModelConfig(**kept | given)


def built(base, value_model="head", *, reward=None, **given):
    torch.manual_seed(0)
    both = assemble.build(
        str(base), reward and str(reward), value_model, settings_of(base, **given), make_tokenizer(), longest=64,
        output_dir="",
    )  # fmt: skip
    return both.eval()


def move(both, size=0.1):
    """Every trained weight, at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in both.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn_like(weight))


def batch_of(both, packed=None):
    packed = both.packs if packed is None else packed
    return roles.Batch.of([[25, 26, 27], [39, 39]], [[38, 39, 30], [41, 42]], "cpu", packed=packed)


@pytest.fixture(scope="module")
def reward_adapter(bases, tmp_path_factory):
    """A reward model that is an adapter of the untied base, with DoRA and embeddings of its own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    scorer = AutoModelForSequenceClassification.from_pretrained(bases[False], num_labels=1)
    config = LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["v_proj", "up_proj"], use_dora=True,
        modules_to_save=["score", "embed_tokens"],
    )  # fmt: skip
    adapter = get_peft_model(scorer, config)
    with torch.no_grad():
        for weight in adapter.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("gpu") / "rm"
    adapter.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder, adapter.eval()


# ---- checkpointing ----


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(
    ("value_model", "lora"),
    [("head", True), ("adapter", True), ("full", True), ("head", False), ("full", False), ("adapter", "dora")],
)
def test_checkpointing_changes_no_gradient(bases, value_model, lora, packed, autocast):
    """What is computed again in the backward pass runs through the adapter that the forward pass ran through."""
    dtype = "bfloat16" if autocast and lora else "float32"
    both = built(bases[False], value_model, use_peft=bool(lora), use_dora=lora == "dora", dtype=dtype)
    checkpoints.assert_trained_in_fp32(both)
    move(both)
    gradients, passes = [], []
    models = [both.policy] + [both.critic] * (both.critic is not None)
    layers = [part for model in models for name, part in model.named_modules() if name.endswith("layers.0.mlp")]
    assert len(layers) == len(models)
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: passes.append(1))
    for again in (False, True):
        passes.clear()
        if again:
            both.checkpoint_activations()
            both.train()
        both.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logps, _, values = both("actions", batch_of(both, packed), 0.7, False)
            loss = logps.sum() + values.float().square().sum()
        loss.backward()
        gradients.append({name: w.grad for name, w in both.named_parameters() if w.grad is not None})
        assert len(passes) == (2 if value_model != "head" else 1) * (1 + again), "layers that were computed again"
    assert gradients[0].keys() == gradients[1].keys()
    assert sum(".value." in name for name in gradients[0]) > 10 or value_model != "adapter"
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_nothing_random_is_left_in_training_mode(tmp_path):
    """Checkpointing needs training mode, in which OPT's layers drop by numbers that are no modules."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(vocab_size=400, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
                       word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.5, layerdrop=0.5)  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    both = built(tmp_path, use_peft=False)
    both.checkpoint_activations()
    both.train()
    first, second = (both("actions", batch_of(both), 1.0, False)[0] for _ in range(2))
    assert torch.equal(first, second)


# ---- PEFT's features ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("tied", "name"), CASES)
def test_only_the_policy_moves(bases, reward_adapter, tied, name, dtype):
    """The reference and a shared reward adapter stay to the bit; the policy that samples is the one that learns; what
    is trained is fp32."""
    reward = reward_adapter[0] if not tied else None
    both = built(bases[tied], "adapter", reward=reward, dtype=dtype, **FEATURES[name])
    if "targets" in name:  # the reward model has whole embeddings, where the policy has LoRA: a model of its own
        assert both.reward_head is None
        reward = None
    checkpoints.assert_trained_in_fp32(both)
    batch = batch_of(both)
    with torch.no_grad():
        reference, policy = both("reference", batch, 1.0), both("actions", batch, 1.0, False)[0]
        scores = both("score", batch) if reward else None
        if dtype == "float32":
            assert torch.equal(reference, policy), "a new policy is the reference"
        else:
            torch.testing.assert_close(reference, policy, atol=0.05, rtol=0)
        move(both)
        kept = {n: w.clone() for n, w in both.named_parameters()}
        moved = both("actions", batch, 1.0, False)[0]
        assert torch.equal(both("reference", batch, 1.0), reference) and (moved - policy).abs().max() > 0.1
        assert reward is None or torch.equal(both("score", batch), scores)
        sampled = both("sampled_logps", [25, 26, 27, 38, 39, 30])[2:]
        torch.testing.assert_close(sampled, moved[:3], atol=1e-4 if dtype == "float32" else 0.2, rtol=0)
    assert all(torch.equal(w, kept[n]) for n, w in both.named_parameters()), "folding leaves no trace"
    logps, _, values = both("actions", batch, 1.0, False)
    (logps.sum() + values.square().sum()).backward()
    without = [n for n, w in both.named_parameters() if w.requires_grad and w.grad is None]
    assert not without, "every trained weight is in every pass"


def test_a_shared_reward_adapter_says_what_the_reward_model_says(bases, reward_adapter):
    """With DoRA, targets other than the policy's, and embeddings of its own."""
    folder, model = reward_adapter
    both = built(bases[False], reward=folder, lora_target_modules=["q_proj", "o_proj"])
    expected = [model(torch.tensor([ids])).logits.item() for ids in ([25, 26, 27, 38, 39, 30], [39, 39, 41, 42])]
    with torch.no_grad():
        torch.testing.assert_close(both("score", batch_of(both)), torch.tensor(expected), atol=1e-5, rtol=1e-4)
        noise = generate.uniform(0, [0], 3)
        settings = dict(stops=[1], pad_id=0, max_new_tokens=3, noise=noise)
        assert len(both("sample", [[25, 26]], settings)[0]) == 3


def test_dora_is_refused_on_rows_of_zeros(tmp_path):
    """It divides by the length of each row, and what is never trained (the pad token's row) has none."""
    base = make(tmp_path / "base", zeros=True, tied=True)
    with pytest.raises(ConfigError, match=r"lm_head has 1 row of zeros"):
        built(base, use_dora=True, lora_target_modules=["q_proj", "lm_head"])


def test_experts_parameters_are_adapted(tmp_path):
    base = make(tmp_path / "experts", experts=True)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    both = built(base, "adapter", lora_target_modules=["q_proj"], lora_target_parameters=names)
    batch = batch_of(both)
    with torch.no_grad():
        reference = both("reference", batch, 1.0)
        move(both, 0.3)
        moved = both("actions", batch, 1.0, False)[0]
        assert torch.equal(both("reference", batch, 1.0), reference) and (moved - reference).abs().max() > 1e-3
        torch.testing.assert_close(both("sampled_logps", [25, 26, 27, 38, 39, 30])[2:], moved[:3], atol=1e-4, rtol=0)
    gradients = []
    for again in (False, True):
        if again:
            both.checkpoint_activations()
            both.train()
        both.zero_grad()
        logps, _, values = both("actions", batch, 1.0, False)
        (logps.sum() + values.square().sum()).backward()
        gradients.append({n: w.grad for n, w in both.named_parameters() if w.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_rounding_forbids_folding(bases):
    """Under autocast the sum of weight and change would be rounded to 8 bits, and small changes would not be sampled."""
    both = built(bases[False])
    weight = next(layer for layer in both.switch.layers).base_layer.weight
    for autocast in (False, True):
        before = weight.data_ptr()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), folding.folded(both.switch):
            assert (weight.data_ptr() == before) is autocast


@pytest.mark.parametrize("name", ["dora", "both whole", "heads as targets"])
def test_features_are_saved_and_restored(bases, tmp_path, name):
    both = built(bases[False], "adapter", **FEATURES[name])
    move(both)
    saving.save(both, both.state_dict(), tmp_path)
    again = built(bases[False], "adapter", **FEATURES[name])
    saving.restore(again, tmp_path)
    theirs = dict(again.named_parameters())
    assert all(torch.equal(w, theirs[n]) for n, w in both.named_parameters())


# ---- whole runs ----


def trainer_of(base, folder, value_model="head", *, rollouts=2, held_out=False, callbacks=(), model=None, **given):
    """A trainer as the recipe builds it; the reward likes token ids."""
    from datasets import Dataset

    settings = dict(
        output_dir=str(folder), use_cpu=True, bf16=True, gradient_checkpointing=True, report_to="none", seed=0,
        num_ppo_epochs=2, num_mini_batches=2, response_length=4, temperature=1.0, learning_rate=1e-2,
        max_steps=rollouts, num_sample_generations=0, save_strategy="no", disable_tqdm=True, logging_steps=1,
        lr_scheduler_type="constant", per_device_train_batch_size=2, rollout_save_steps=0, collapse_patience=0,
        value_model=value_model, reward_model_path=None, reward_funcs=["somewhere.py:likes"],
    )  # fmt: skip
    args = PPOArguments(**settings | given)
    model = dict(dtype="bfloat16", lora_target_modules=["q_proj", "down_proj"]) | (model or {})
    model_args = settings_of(base, **model)
    rows = Dataset.from_list([{"prompt": "", "input_ids": [20 + i, 30 + i, 40 + i]} for i in range(8)])
    splits = type("Splits", (), dict(train=rows, test=rows if held_out else None))
    torch.manual_seed(0)
    count = plan(BatchArguments(global_batch_size=8), args, 8, 1)
    return assemble.make_trainer(str(base), args, count, model_args, make_tokenizer(), splits, list(callbacks))


@pytest.fixture(autouse=True)
def likes(monkeypatch):
    """Rewards without a file, and a measurement of the machine that is not waited for."""
    from align.models import scorers
    from align.ppo.watch import report

    def from_function(where, weight=1.0):
        def score(rows, completions):
            return [sum(c.ids) / (300 * len(c.ids)) for c in completions]

        return scorers.Scorer(where, weight, score)

    monkeypatch.setattr(scorers, "load_function", lambda where: len)
    monkeypatch.setattr(scorers, "from_function", from_function)
    monkeypatch.setattr(report, "matrix_rate", lambda *_: 1.0)


def trained(both):
    return {n: w.detach().clone() for n, w in both.named_parameters() if w.requires_grad}


@pytest.mark.parametrize(("value_model", "name", "tied"), [
    ("head", "plain", True), ("full", "plain", False), ("adapter", "dora", False), ("adapter", "heads as targets", True),
    ("head", "both whole", True), ("adapter", "both whole", False), ("head", None, True), ("full", None, False),
])  # fmt: skip
def test_a_run_as_on_a_gpu(bases, tmp_path, value_model, name, tied):
    """bf16 weights under LoRA, autocast, checkpointing: what is trained is fp32, the reference stays, and without
    checkpointing the run is the same."""
    model = dict(use_peft=False) if name is None else dict(lora_target_modules=["q_proj", "down_proj"]) | FEATURES[name]
    found = []
    for checkpointing in (True, False):
        trainer = trainer_of(bases[tied], tmp_path, value_model, gradient_checkpointing=checkpointing, model=model)
        checkpoints.assert_trained_in_fp32(trainer.both)
        before, batch = trained(trainer.both), batch_of(trainer.both)

        def reference(trainer=trainer, batch=batch):
            with torch.no_grad():
                if trainer.reference is not None:
                    return trainer.reference(batch, 1.0)
                return trainer.both.reference(batch, 1.0)

        was = reference()
        trainer.train()
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(reference(), was), "the reference is the parent"
        after = trained(trainer.both)
        moved = [n for n, w in after.items() if not torch.equal(w, before[n])]
        assert len(moved) > 0.9 * len(after) and {w.dtype for w in after.values()} == {torch.float32}
        found.append(after)
    for n, w in found[0].items():
        torch.testing.assert_close(w, found[1][n], atol=1e-5, rtol=1e-5, msg=n)


class Interruption(TrainerCallback):
    """Ends a run after its second rollout."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_a_reference_that_follows_is_resumed_bitwise(bases, tmp_path):
    """Straight through is what stopping half way and resuming gives: weights, and the KL of every rollout."""
    settings = dict(model=dict(use_peft=False), bf16=False, gradient_checkpointing=False, sync_ref_model=True,
                    ref_model_mixup_alpha=0.5, save_strategy="steps", save_steps=2)  # fmt: skip
    found = []
    for name, stops, resume in (
        ("straight", [], None),
        ("halves", [Interruption()], None),
        ("halves", [], "checkpoint-2"),
    ):
        folder = tmp_path / name
        trainer = trainer_of(bases[False], folder, rollouts=4, callbacks=stops, **settings)
        trainer.train(resume_from_checkpoint=str(folder / resume) if resume else None)
        reference = {n: w.clone() for n, w in trainer.reference.named_parameters()}
        found.append((trainer.last_metrics["objective/kl"], trained(trainer.both), reference))
    (kl, weights, reference), _, (kl2, weights2, reference2) = found
    assert kl == kl2 and kl != 0
    assert all(torch.equal(w, weights2[n]) for n, w in weights.items())
    assert all(torch.equal(w, reference2[n]) for n, w in reference.items())
    shutil.rmtree(tmp_path / "halves" / "checkpoint-2" / "reference")
    trainer = trainer_of(bases[False], tmp_path / "halves", rollouts=4, **settings)
    with pytest.raises(RunError, match="does not hold the reference"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-2"))


def test_a_warm_up_is_not_a_policy_that_learns_nothing(bases, tmp_path):
    warm = dict(value_warmup_rollouts=2, bf16=False, gradient_checkpointing=False)
    trainer = trainer_of(bases[False], tmp_path, rollouts=4, callbacks=[NoUpdate(later=2)], **warm)
    trainer.train()
    assert all(w.any() for n, w in trainer.both.named_parameters() if "lora_B" in n)
    for later, rollouts in ((0, 2), (2, 4)):  # asked too early; and a warm-up that never ends
        given = warm if later == 0 else warm | dict(value_warmup_rollouts=9)
        trainer = trainer_of(bases[False], tmp_path, rollouts=rollouts, callbacks=[NoUpdate(later)], **given)
        with pytest.raises(RunError, match="received no gradient"):
            trainer.train()


def test_a_reward_adapter_that_adds_nothing_is_not_a_policy_that_learns_nothing(bases, tmp_path, reward_adapter):
    """Its B matrices are zero, as those of a fresh adapter, and nobody trains them."""
    from safetensors.torch import load_file, save_file

    zero = tmp_path / "zero"
    shutil.copytree(reward_adapter[0], zero)
    held = load_file(zero / "adapter_model.safetensors")
    save_file({n: w * 0 if "lora_B" in n else w for n, w in held.items()}, zero / "adapter_model.safetensors")
    callbacks = [NoUpdate()]
    trainer_of(bases[False], tmp_path / "run", rollouts=2, callbacks=callbacks, reward_model_path=str(zero)).train()


def test_named_held_out_rewards_are_evaluated(bases, tmp_path):
    """Without --eval_strategy, and in a run shorter than eval_steps."""
    trainer = trainer_of(bases[False], tmp_path, held_out=True, rollouts=1, eval_reward_funcs=["a.py:b"], eval_steps=10)
    assert trainer.args.eval_strategy == "steps"
    trainer.train()
    assert 0 < trainer.best["score"] < 2 and (tmp_path / "best").is_dir()


# ---- the trial step ----


def test_the_trial_step_leaves_no_trace(bases, tmp_path, reward_adapter):
    trainer = trainer_of(bases[False], tmp_path, model=FEATURES["both whole"])
    trainer._begin(None)
    before, state = {n: w.clone() for n, w in trainer.both.named_parameters()}, torch.get_rng_state()
    probing.try_a_step(trainer)
    assert all(torch.equal(w, before[n]) for n, w in trainer.both.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_trial_step_finds_a_reference_that_moves(bases, tmp_path, monkeypatch):
    """As where modules that are trained whole stay on for the reference."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    real = switching.Switch.layers.fget
    monkeypatch.setattr(switching.Switch, "layers", property(
        lambda self: [part for part in real(self) if not isinstance(part, AuxiliaryTrainingWrapper)]))  # fmt: skip
    with pytest.raises(RunError, match="the reference moves with the policy"):
        trainer_of(bases[False], tmp_path, model=FEATURES["embeddings whole"]).train()


def test_the_trial_step_finds_a_sampler_that_is_another(bases, tmp_path, monkeypatch):
    """As where DoRA is folded as if it were W + BA."""
    monkeypatch.setattr(folding, "_sum", lambda layer: layer.base_layer.weight + layer.get_delta_weight("default"))
    settings = dict(bf16=False, gradient_checkpointing=False)
    with pytest.raises(RunError, match="is not the one that learns"):
        trainer_of(bases[False], tmp_path, model=FEATURES["dora"] | dict(dtype="float32"), **settings).train()


# ---- memory ----


class Largest(TorchDispatchMode):
    """Elements in the largest piece of memory that anything takes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.size = max(self.size, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("lora", [dict(), dict(lora_modules_to_save=["lm_head"]), dict(use_peft=False)])
def test_a_real_vocabulary_is_never_multiplied_by_tokens(tmp_path, lora):
    """150,000 tokens: nothing is larger than the weights, one piece of logits, or one distribution for each row. All
    logits of one piece of the update would be 2 x 4 x 150,000, of one rollout 8 x 4 x 150,000."""
    vocabulary = 150_000
    base = make(tmp_path / "base", tied=True, vocabulary=vocabulary)
    trainer = trainer_of(
        base, tmp_path / "out", rollouts=1, held_out=True, eval_strategy="steps", eval_steps=1,
        local_rollout_forward_batch_size=4, model=lora,
    )  # fmt: skip
    with Largest() as largest:
        trainer.train()
    assert "score" in trainer.best
    weights, piece, rows = vocabulary * 16, maths.LOGITS_AT_ONCE, 4 * vocabulary
    assert largest.size <= max(weights, piece, rows) < 8 * 4 * vocabulary


# ---- what is refused ----


def test_what_ppo_cannot_honour_is_refused_by_name(bases, tmp_path):
    args = PPOArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, reward_model_path="x", report_to="none")
    for given, kind, words in (
        (dict(lora_dropout=0.1), "single", "lora_dropout=0.1: PPO compares two passes"),
        (dict(use_dora=True), "zero3", "use_dora reads or copies whole weights"),
        (dict(lora_modules_to_save=["lm_head"]), "fsdp2", "lora_modules_to_save reads or copies"),
        (dict(use_dora=True, lora_target_parameters=["w"]), "single", "exclude each other"),
    ):
        with pytest.raises(ConfigError, match=words):
            check(args, settings_of(bases[False], **given), kind)
    check(args, settings_of(bases[False], use_dora=True, lora_modules_to_save=["lm_head"]), "ddp")


def test_what_rloo_cannot_honour_is_refused_by_name(bases, tmp_path):
    from trl import RLOOConfig

    def settings(**given):
        return RLOOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **given)

    whole = settings_of(bases[False], use_peft=False)
    for given, model_args, resume, words in (
        (dict(sync_ref_model=True), settings_of(bases[False]), False, "works without --use_peft"),
        (dict(sync_ref_model=True), whole, True, "cannot be resumed here"),
        (dict(sync_ref_model=True, beta=0.0), whole, False, "no reference to move"),
        (dict(model_init_kwargs={"dtype": "bfloat16"}), whole, False, "is not read"),
        (dict(chat_template_kwargs={"thinking": True}), whole, False, "give rows a column of that name"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_rloo(settings(**given), model_args, resume, ["input_ids"])
    for name in ("tools", "chat_template_kwargs"):
        with pytest.raises(ConfigError, match=f"rows with {name}"):
            check_rloo(settings(), whole, False, ["input_ids", name])
    args = settings()
    check_rloo(args, settings_of(bases[False], use_peft=False, model_revision="v2"), True, ["input_ids"])
    assert args.model_init_kwargs == {"revision": "v2"}, "TRL's reference is of the policy's revision"
