"""Fused Llama layers: the same numbers and gradients as the layers' own code, and their own code where they differ."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from align.models import generate, packing
from align.models.fast import decoding, layers, unpadding
from align.models.fast.formulas import Projection
from align.models.fast.quicken import quicken
from align.ppo import roles

SIZES = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=60, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
)  # fmt: skip
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13], [14, 15, 16, 17, 18, 19]]
SAID = [[20, 21], [22, 23, 24, 25, 26], [27], [28, 29, 30]]


def made(family: str = "llama", **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(SIZES | changes)))
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    return model.eval()


def with_lora(model: torch.nn.Module, **changes) -> torch.nn.Module:
    settings = dict(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM") | changes
    model = get_peft_model(model, LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.eval()


def told(model: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probs of SAID, and the gradients of all that learns."""
    packed = model.config._attn_implementation == packing.NAME
    learns = [weight for weight in model.parameters() if weight.requires_grad]
    batch = roles.Batch.of(PROMPTS, SAID, "cpu", packed=packed)
    logps = roles.logps_of(model, batch, 1.0, entropy=False)[0]
    return logps.detach(), list(torch.autograd.grad((logps * torch.linspace(1, 2, len(logps))).sum(), learns))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("lora", [{}, {"target_modules": ["q_proj", "up_proj"]}, None])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_fused_layers_say_and_learn_what_their_own_code_does(family, lora, packed):
    model = made(family)
    model = model if lora is None else with_lora(model, **lora)
    assert packing.use(model, 16) if packed else True
    logps, gradients = told(model)
    assert layers.use(model) == 3
    again, found = told(model)
    assert (again - logps).abs().max() < 1e-5
    for one, other in zip(gradients, found, strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-6
    assert any((one != other).any() for one, other in zip(gradients, found, strict=True)), "its own code ran"


def test_biases_learn_as_well():
    model = made(attention_bias=True)
    _, gradients = told(model)
    assert layers.use(model) == 3
    for one, other in zip(gradients, told(model)[1], strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-6


def test_in_bf16_a_small_change_of_lora_is_not_lost():
    model = with_lora(made(hidden_size=64).bfloat16())
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    exact = copy.deepcopy(model).float()
    assert packing.use(model, 16) and layers.use(model) == 3
    with torch.autocast("cpu", torch.bfloat16):
        logps, gradients = told(model)
    wanted, right = told(exact)
    assert (logps - wanted).abs().max() < 0.05
    assert all((one - other).norm() < 0.1 * other.norm() + 1e-3 for one, other in zip(gradients, right, strict=True))


def test_layers_of_real_weights_are_fused_in_bf16():
    """Trained layers say hundreds where random ones say ones: what rounding leaves is measured against what they add."""
    model = made(hidden_size=64)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data *= 1e5
    with torch.no_grad():
        assert model.model(torch.tensor([PROMPTS[0]]), output_hidden_states=True).hidden_states[2].abs().max() > 50
    assert layers.use(model.bfloat16()) == 3


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("granite", dict(residual_multiplier=0.5)),  # a Llama's parts, and another sum
        ("llama", dict(hidden_act="gelu")),
        ("qwen3", dict(head_dim=8)),  # norms of query and key
        ("gemma", dict(head_dim=8)),
        ("gpt_neox", {}),
    ],
)
def test_other_layers_keep_their_own_code(family, changes):
    model = made(family, **changes)
    assert layers.use(model) == 0
    assert not any("forward" in vars(part) for part in model.modules())


@pytest.mark.parametrize("settings", [dict(lora_dropout=0.5), dict(use_dora=True), dict(lora_bias=True)])
def test_what_the_functions_do_not_do_is_left_to_the_layers(settings):
    model = with_lora(made(), **settings)
    own, _ = told(model.train(False))
    layers.use(model)
    assert (told(model)[0] - own).abs().max() < 1e-5
    model.train()
    layer = model.get_base_model().model.layers[0]
    held = getattr(vars(layer).get("forward"), "__self__", None)
    assert held is None or held._parts() is None


@pytest.mark.parametrize("before", [True, False])
def test_a_layer_with_a_hook_runs_its_own_code(before):
    model, seen = made(), []
    assert before or layers.use(model) == 3
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    assert not before or layers.use(model) == 2
    told(model)
    assert seen


def test_adapters_are_switched_under_fused_layers():
    model = with_lora(made())
    own = {}
    for name in ("on", "off", "on again"):
        with model.disable_adapter() if name == "off" else torch.enable_grad():
            own[name] = roles.logps_of(model, roles.Batch.of(PROMPTS, SAID, "cpu", packed=False), 1.0, entropy=False)[0]
    layers.use(model)
    for name, logps in own.items():
        with model.disable_adapter() if name == "off" else torch.enable_grad():
            batch = roles.Batch.of(PROMPTS, SAID, "cpu", packed=False)
            assert (roles.logps_of(model, batch, 1.0, entropy=False)[0] - logps).abs().max() < 1e-5
    assert (own["on"] - own["off"]).abs().max() > 1e-3


def test_adapters_that_come_after_fusing_are_seen():
    """PEFT puts layers of its own in the place of those that were there."""
    own, _ = told(with_lora(made()))
    torch.manual_seed(0)
    fused = made()
    assert layers.use(fused) == 3 and layers.use(fused) == 3, "twice is as good as once"
    plain, _ = told(fused)
    assert (told(with_lora(fused))[0] - own).abs().max() < 1e-5 < (own - plain).abs().max()


IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 0, 0, 0], [12, 13, 14, 15, 0]])
SEEN = (IDS != 0).long()


def padded(model: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits on real tokens of a batch that is padded on the right, and gradients of all that learns."""
    out = model(input_ids=IDS, attention_mask=SEEN, use_cache=False).logits
    mine = out[SEEN.bool()] if out.shape[:2] == IDS.shape else out
    learns = [weight for weight in model.parameters() if weight.requires_grad]
    return mine.detach(), list(
        torch.autograd.grad((mine * torch.linspace(1, 2, mine.numel()).view_as(mine)).sum(), learns)
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_a_padded_batch_is_read_without_its_padding(auto, family):
    torch.manual_seed(0)
    model = auto.from_config(
        CONFIG_MAPPING[family](**SIZES | ({"num_labels": 1} if "Seq" in auto.__name__ else {}))
    ).eval()
    own, gradients = padded(model)
    read = []
    model.base_model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].shape))
    quicken(model)
    found, again = padded(model)
    assert read == [(1, int(SEEN.sum()))]
    assert (found - own).abs().max() < 1e-5
    for one, other in zip(gradients, again, strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-6
    left = dict(input_ids=IDS.flip(1), attention_mask=SEEN.flip(1), use_cache=False)
    model(**left), model(input_ids=IDS), model(**left | {"use_cache": True})
    assert set(read[1:]) == {IDS.shape}, "another batch is read as it is"
    assert len(model(input_ids=IDS, attention_mask=SEEN, output_hidden_states=True).hidden_states) == 4


@pytest.mark.parametrize("asked", [dict(return_dict=False), dict(use_cache=None)])
def test_what_is_asked_for_otherwise_comes_as_the_family_gives_it(asked):
    model = made()
    unpadding.use(model)
    given = dict(input_ids=IDS, attention_mask=SEEN, use_cache=False) | asked
    found = model.base_model(**given)
    assert isinstance(found, tuple) if "return_dict" in asked else found.past_key_values is not None
    model.config.output_hidden_states = True
    whole = model.base_model(input_ids=IDS, attention_mask=SEEN, use_cache=False)
    assert whole.hidden_states[0].shape[:2] == IDS.shape


def test_a_decoder_that_sees_both_ways_keeps_its_padding():
    model = made()
    model.config.is_causal = False
    assert not unpadding.use(model)


@pytest.mark.parametrize("name", ["input_layernorm", "mlp"])
def test_modules_that_an_adapter_has_whole_are_left_to_their_layer(name):
    """PEFT wraps them up after the layers were fused."""
    own = with_lora(made(), target_modules=["q_proj"], modules_to_save=[name])
    fused = made()
    layers.use(fused)
    late = with_lora(fused, target_modules=["q_proj"], modules_to_save=[name])
    for model in (own, late):
        torch.manual_seed(1)
        for part, weight in model.named_parameters():
            if "modules_to_save" in part or "lora_B" in part:
                torch.nn.init.normal_(weight, std=0.1)
    assert (told(late)[0] - told(own)[0]).abs().max() < 1e-5


def test_an_adapter_that_takes_anothers_name_is_seen():
    model = with_lora(made())
    layers.use(model)
    before, _ = told(model)
    model.add_adapter("other", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.set_adapter("other")
    model.delete_adapter("default")
    model.add_adapter("default", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.set_adapter("default")
    assert (told(model)[0] - before).abs().max() > 1e-3


def test_an_encoder_keeps_its_padding():
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=60)
    model = AutoModelForSequenceClassification.from_config(CONFIG_MAPPING["bert"](**sizes, num_labels=1)).eval()
    assert not unpadding.use(model) and "forward" not in vars(model.base_model)


def test_a_window_is_kept():
    """Rows longer than a window are read padded, by the family's own code."""
    model = made("mistral", sliding_window=3)
    own, _ = padded(model)
    quicken(model)
    assert (padded(model)[0] - own).abs().max() < 1e-5


@pytest.mark.parametrize("per_prompt", [1, 2])
@pytest.mark.parametrize("lora", [True, False])
def test_the_same_tokens_are_sampled(lora, per_prompt):
    model = with_lora(made("qwen2")) if lora else made("qwen2")
    bare = model.get_base_model() if lora else model
    noise = generate.uniform(0, list(range(4 * per_prompt)), 12)
    settings = dict(stops=[1, 2, 3, 4, 40, 41, 42], pad_id=0, max_new_tokens=12, noise=noise, per_prompt=per_prompt)
    own = generate.sample(bare, PROMPTS, **settings)
    assert len(set(map(len, own))) > 1, "rows leave the batch"
    assert layers.use(model) == 3
    assert generate.sample(bare, PROMPTS, **settings) == own
    assert all(vars(part)["forward"].__self__.joint is None for part in bare.model.layers)


def test_joint_projections_are_each_ones_own():
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    parts = [
        Projection(torch.randn(4, 6), torch.randn(4), torch.randn(2, 6), torch.randn(4, 2), 2.0),
        Projection(torch.randn(3, 6), None, None, None, 0.0),
        Projection(torch.randn(2, 6), None, torch.randn(1, 6), torch.randn(2, 1), 0.5),
    ]
    wanted = [
        x @ p.weight.T + (0 if p.bias is None else p.bias) + (0 if p.down is None else p.scale * x @ p.down.T @ p.up.T)
        for p in parts
    ]
    assert torch.allclose(decoding.Joint.of(parts)(x), torch.cat(wanted, 1), atol=1e-5)


def test_a_roomy_cache_holds_what_transformers_own_does():
    config = made().config
    mine, theirs = decoding.cache(config, 5), DynamicCache(config=config)
    random = torch.Generator().manual_seed(0)
    for count, keep in ((3, None), (1, [0, 2]), (1, None), (2, [1])):  # the last one is more than there is room for
        rows = mine.layers[0].keys.shape[0] if mine.get_seq_length() else 3
        new = [torch.randn(rows, 2, count, 8, generator=random) for _ in range(2)]
        for one, other in zip(mine.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(one, other)
        if keep is not None:
            for cache in (mine, theirs):
                cache.batch_select_indices(torch.tensor(keep))
    assert mine.get_seq_length() == theirs.get_seq_length() == 7
