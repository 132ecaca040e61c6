"""Checkpoints of others: adapters by hub id, heads of every kind, settings that cannot be saved, one special token."""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files

import pytest
import torch
from conftest import conversations, losses, make_checkpoint, make_tokenizer, pairs, run_recipe, write_rows
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from trl import ModelConfig

from align.data import splits
from align.models import adapters, checkpoints, generate, heads
from align.ppo import assemble, roles
from align.run.errors import ConfigError, RunError
from align.train import preflight, pretrain

LORA = dict(use_peft=True, lora_r=4, lora_alpha=8, lora_target_modules=["q_proj", "v_proj"])
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def made(path, auto_class=AutoModelForCausalLM, **extra):
    return auto_class.from_pretrained(path, dtype=torch.float32, **extra)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def add_adapter(base, folder, *, scores=False, tokenizer=True, **extra):
    """A LoRA adapter whose change is not zero, saved as PEFT does; its model."""
    auto_class = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    torch.manual_seed(3)
    model = made(base, auto_class, **({"num_labels": 1} if scores else {}))
    config = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"],
        init_lora_weights=False, modules_to_save=["score"] if scores else None, **extra,
    )  # fmt: skip
    model = get_peft_model(model, config).eval()
    model.save_pretrained(folder)
    if tokenizer:
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return model


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def base(tmp_path):
    return make_checkpoint(tmp_path / "base")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has been visited: `put(name, folder, revision)` lays a folder into its cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    adapters._from_hub.cache_clear()

    def put(name, folder, revision="main"):
        place = cache / f"models--{name.replace('/', '--')}"
        commit = f"{abs(hash((name, revision))):040x}"[:40]
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / revision).write_text(commit)
        shutil.copytree(folder, place / "snapshots" / commit)
        return name

    yield put
    adapters._from_hub.cache_clear()


# ---- what is trained is fp32 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward_model", [False, True])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("extra", [[], ["embed_tokens"], ["norm"]])
@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_trained_on_a_bf16_trunk_is_fp32_and_runs(base, reward_model, dora, extra, autocast):
    from peft import get_peft_model

    args = ModelConfig(str(base), **LORA, dtype="bfloat16", use_dora=dora, lora_modules_to_save=extra)
    tokenizer = checkpoints.load_tokenizer(str(base))
    load = checkpoints.load_reward_model if reward_model else checkpoints.load_policy
    model = get_peft_model(
        load(str(base), args, tokenizer), checkpoints.lora_config(args, reward_model=reward_model),
        autocast_adapter_dtype=False,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="not fp32"):
        checkpoints.assert_trained_in_fp32(model)
    checkpoints.assert_trained_in_fp32(checkpoints.trained_in_fp32(model))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("lora_A" in name for name in trained) and any("score" in name for name in trained) == reward_model
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(input_ids=IDS).logits.float().sum().backward()
    assert {weight.grad.dtype for weight in model.parameters() if weight.grad is not None} == {torch.float32}


def test_a_small_step_survives():
    """200 Adam steps of 5e-6 with a constant gradient move a weight by 1e-3; in bf16 they would move it by 8 % of that."""
    head = torch.nn.Linear(64, 1, bias=False, dtype=torch.bfloat16)
    before = head.weight.detach().float().clone()
    checkpoints.trained_in_fp32(head)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-6, weight_decay=0.0)
    for _ in range(200):
        head.weight.grad = torch.ones_like(head.weight)
        optimizer.step()
    assert (before - head.weight).mean().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_without_adapters_weights_are_loaded_in_fp32(base, dtype):
    made(base).bfloat16().save_pretrained(base)
    tokenizer = checkpoints.load_tokenizer(str(base))
    policy = checkpoints.load_policy(str(base), ModelConfig(dtype=dtype), tokenizer)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}


# ---- adapters -----------------------------------------------------------------------------------------------------


def test_an_adapter_on_the_hub_is_one(base, hub, tmp_path):
    """Policy and reference start from base plus adapter, by hub id just as by folder."""
    adapter = add_adapter(base, tmp_path / "adapter")
    change(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=hub("someone/base", base))
    name = hub("someone/adapter", tmp_path / "adapter")
    assert adapters.is_adapter(name) and not adapters.is_adapter("someone/base") and not adapters.is_adapter("no/one")
    checkpoints.check(name)
    tokenizer = checkpoints.load_tokenizer(name)
    whole = checkpoints.resolve_parent(name, str(tmp_path / "run"), ModelConfig(**LORA), tokenizer)
    policy = checkpoints.load_policy(whole, ModelConfig(**LORA), tokenizer)
    assert torch.allclose(logits(policy), logits(adapter), atol=1e-5)
    assert not torch.allclose(logits(policy), logits(made(base)), atol=1e-2)
    assert torch.allclose(logits(checkpoints.load_trained(name, tokenizer)), logits(adapter), atol=1e-5)


def test_an_adapters_revision_and_its_bases_are_honoured(base, hub, tmp_path):
    other = make_checkpoint(tmp_path / "other", seed=7)
    hub("someone/base", base)
    hub("someone/base", other, "v2")
    hub("someone/adapter", base)  # its main branch holds whole weights
    expected = add_adapter(other, tmp_path / "adapter")
    change(tmp_path / "adapter/adapter_config.json", base_model_name_or_path="someone/base", revision="v2")
    hub("someone/adapter", tmp_path / "adapter", "lora")
    args = ModelConfig("someone/adapter", **LORA, model_revision="lora")
    checkpoints.check("someone/adapter", revision="lora")
    tokenizer = checkpoints.load_tokenizer("someone/adapter", revision="lora")
    whole = checkpoints.resolve_parent("someone/adapter", str(tmp_path / "run"), args, tokenizer)
    assert torch.allclose(logits(made(whole)), logits(expected), atol=1e-5)
    assert (
        checkpoints.lora_config(args).revision == "lora"
        and checkpoints.lora_config(ModelConfig(str(base), **LORA)).revision is None
    )


def test_a_reward_adapter_on_the_hub(base, hub, tmp_path):
    adapter = add_adapter(base, tmp_path / "rm", scores=True)
    change(tmp_path / "rm/adapter_config.json", base_model_name_or_path=hub("someone/base", base))
    name = hub("someone/reward", tmp_path / "rm")
    checkpoints.check(name, reward_model=True)
    scorer = checkpoints.load_trained(name, checkpoints.load_tokenizer(name), reward_model=True)
    found = heads.scores(scorer, IDS.tolist(), pad_id=0)
    assert found.item() == pytest.approx(logits(adapter).item(), abs=1e-5)
    assert assemble.shares_backbone(name, "someone/base") and not assemble.shares_backbone(name, "someone/else")
    assert not assemble.shares_backbone(str(base), str(base))


def test_an_adapter_without_a_tokenizer_has_its_bases(base, tmp_path):
    adapter = add_adapter(base, tmp_path / "adapter", tokenizer=False)
    path = str(tmp_path / "adapter")
    checkpoints.check(path)
    tokenizer = checkpoints.load_tokenizer(path)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    whole = checkpoints.resolve_parent(path, str(tmp_path / "run"))
    assert torch.allclose(logits(made(whole)), logits(adapter), atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(whole)) == len(tokenizer)


def test_an_adapter_whose_base_is_gone(base, tmp_path):
    add_adapter(base, tmp_path / "adapter")
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="adapter of .*base, which is not there; write the folder or hub id"):
        checkpoints.check(str(tmp_path / "adapter"))
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "adapter/base")  # a moved run of ours has it inside
    checkpoints.check(str(tmp_path / "adapter"))
    change(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ConfigError, match="does not say of what"):
        checkpoints.check(str(tmp_path / "adapter"))


def test_an_adapter_on_an_adapter(base, tmp_path):
    add_adapter(base, tmp_path / "first")
    whole = checkpoints.resolve_parent(str(tmp_path / "first"), str(tmp_path / "run"))
    expected = add_adapter(whole, tmp_path / "second")
    change(tmp_path / "second/adapter_config.json", base_model_name_or_path=str(tmp_path / "first"))
    tokenizer = checkpoints.load_tokenizer(str(tmp_path / "second"))
    found = checkpoints.load_trained(str(tmp_path / "second"), tokenizer)
    assert torch.allclose(logits(found), logits(expected), atol=1e-5)


@pytest.mark.parametrize(
    "where",
    [
        dict(target_modules=["q_proj", "lm_head"]),
        dict(target_modules=["embed_tokens"]),
        dict(target_modules=["embed_tokens", "lm_head"]),
        dict(target_modules=["q_proj", "lm_head"], use_dora=True),
        dict(modules_to_save=["lm_head"]),
        dict(modules_to_save=["embed_tokens"]),
    ],
    ids=lambda where: "-".join(map(str, *where.values())) if len(where) == 1 else "dora",
)
def test_an_adapter_on_one_end_of_tied_embeddings_is_merged_into_that_end(tmp_path, where):
    """The base shares one matrix between input and output; what is merged computes what the adapter does."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = get_peft_model(
        made(tmp_path / "base"),
        LoraConfig(
            **{"task_type": "CAUSAL_LM", "r": 4, "init_lora_weights": False, "target_modules": ["q_proj"]} | where
        ),
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight) if weight.requires_grad else 0)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    whole = checkpoints.resolve_parent(
        str(tmp_path / "adapter"), str(tmp_path / "run"), ModelConfig(dtype="float32"), tokenizer
    )
    torch.testing.assert_close(logits(made(whole)), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "XLORA", "NEW_KIND"])
def test_adapters_that_cannot_be_merged_are_refused_by_kind(base, tmp_path, kind):
    add_adapter(base, tmp_path / "adapter")
    change(tmp_path / "adapter/adapter_config.json", peft_type=kind)
    with pytest.raises(ConfigError, match=f"adapter of the kind {kind}, which"):
        checkpoints.check(str(tmp_path / "adapter"))


def test_the_list_of_kinds_is_pefts():
    """Every kind of PEFT's that learns prompts is on it."""
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as KINDS

    prompts = {kind.value for kind, config in KINDS.items() if issubclass(config, PromptLearningConfig)}
    assert prompts and prompts <= set(adapters.UNMERGEABLE)


def test_other_kinds_are_merged(base, tmp_path):
    from peft import IA3Config, get_peft_model

    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
                       init_ia3_weights=False)  # fmt: skip
    model = get_peft_model(made(base), config).eval()
    model.save_pretrained(tmp_path / "ia3")
    whole = checkpoints.resolve_parent(str(tmp_path / "ia3"), str(tmp_path / "run"))
    assert torch.allclose(logits(made(whole)), logits(model), atol=1e-5)


def test_half_an_adapter_is_refused(base, tmp_path):
    """Weights that do not find their layers would be left out with a warning."""
    add_adapter(base, tmp_path / "adapter")
    change(tmp_path / "adapter/adapter_config.json", target_modules=["q_proj", "v_proj", "o_proj"])
    with pytest.raises(ConfigError, match="cannot be put on its base model"):
        checkpoints.resolve_parent(str(tmp_path / "adapter"), str(tmp_path / "run"))
    assert not (tmp_path / "run/base").exists()


# ---- one base for all who need it ---------------------------------------------------------------------------------


def test_runs_of_one_adapter_share_the_files_of_its_merged_weights(base, tmp_path):
    expected = add_adapter(base, tmp_path / "sft")
    first, second, third = (
        checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms" / name)) for name in "abc"
    )
    inodes = {(tmp_path / f"arms/{name}/base/model.safetensors").stat().st_ino for name in "abc"}
    assert len(inodes) == 1 and second != first
    shutil.rmtree(tmp_path / "arms/a")
    assert torch.allclose(logits(made(second)), logits(expected), atol=1e-5)
    other = tmp_path / "other"
    add_adapter(base, other, lora_alpha=99)
    fourth = checkpoints.resolve_parent(str(other), str(tmp_path / "arms/d"))
    assert not torch.allclose(logits(made(fourth)), logits(made(third)), atol=1e-3)


def test_what_is_drawn_next_does_not_depend_on_who_wrote_the_base(base, tmp_path):
    """The second run links what the first has merged, a resumed one finds it: both draw the same head."""
    add_adapter(base, tmp_path / "sft")
    drawn = []
    for run in ("a", "b", "b"):
        torch.manual_seed(0)
        checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms" / run))
        drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 1


def test_where_there_are_no_links_the_files_are_copied(base, tmp_path, monkeypatch):
    expected = add_adapter(base, tmp_path / "sft")
    checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms/a"))
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    second = checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms/b"))
    assert torch.allclose(logits(made(second)), logits(expected), atol=1e-5)


def test_a_half_written_base_is_not_taken_for_one(base, tmp_path):
    add_adapter(base, tmp_path / "sft")
    whole = checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms/a"))
    shutil.move(whole, tmp_path / "arms/a/base.part")
    (tmp_path / "arms/a/base.part/model.safetensors").write_bytes(b"half")
    made(checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "arms/b")))


# ---- reward models ------------------------------------------------------------------------------------------------


def make_reward(base, folder, **extra):
    torch.manual_seed(1)
    model = made(base, AutoModelForSequenceClassification, **({"num_labels": 1} | extra)).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return model


def make_encoder(folder, kind="bert"):
    """A tiny encoder with its family's classification head and one output."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(
        ["what is the sky it is blue no"] * 3, trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials)
    )
    twice = "[SEP] [SEP]" if kind == "roberta" else "[SEP]"
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=f"[CLS] $A {twice} $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=1, pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def as_bin(folder, shards=1):
    """The same weights in the old format."""
    from safetensors.torch import load_file

    held = list(load_file(str(folder / "model.safetensors")).items())
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(dict(held), folder / "pytorch_model.bin")
        return
    where = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        torch.save(dict(held[number::shards]), folder / name)
        where |= {key: name for key, _ in held[number::shards]}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("form", ["whole", "sharded", "bin", "sharded bin"])
def test_a_reward_model_in_any_file(base, tmp_path, form):
    model = make_reward(base, tmp_path / "rm")
    if form == "sharded":
        model.save_pretrained(tmp_path / "rm", max_shard_size="20KB")
        (tmp_path / "rm/model.safetensors").unlink(missing_ok=True)
        assert len(list((tmp_path / "rm").glob("*.safetensors"))) > 1
    elif form != "whole":
        as_bin(tmp_path / "rm", shards=1 if form == "bin" else 3)
    path = str(tmp_path / "rm")
    checkpoints.check(path, reward_model=True)
    tokenizer = checkpoints.load_tokenizer(path)
    scorer = checkpoints.load_trained(path, tokenizer, reward_model=True)
    found = heads.scores(scorer, IDS.tolist(), pad_id=tokenizer.pad_token_id).item()
    assert found == pytest.approx(logits(model).item(), abs=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_two_outputs_are_refused(base, tmp_path, form):
    make_reward(base, tmp_path / "rm", num_labels=2)
    if form == "bin":
        as_bin(tmp_path / "rm")
    with pytest.raises(ConfigError, match=r"gives 2 numbers a sequence \(score.weight\).*num_labels=1"):
        checkpoints.check(str(tmp_path / "rm"), reward_model=True)


def test_training_does_not_go_on_from_two_outputs(base, tmp_path):
    make_reward(base, tmp_path / "rm", num_labels=2)
    tokenizer = checkpoints.load_tokenizer(str(tmp_path / "rm"))
    with pytest.raises(ConfigError, match=r"score.weight has the shape \(2, 32\), and \(1, 32\) is needed"):
        checkpoints.load_reward_model(str(tmp_path / "rm"), ModelConfig(), tokenizer)


def test_a_language_model_is_no_reward_model_and_a_reward_model_no_policy(base, tmp_path):
    with pytest.raises(ConfigError, match="has no score head"):
        checkpoints.check(str(base), reward_model=True)
    make_reward(base, tmp_path / "rm")
    tokenizer = checkpoints.load_tokenizer(str(tmp_path / "rm"))
    with pytest.raises(ConfigError, match="is no whole language model: it has no lm_head.weight"):
        checkpoints.load_policy(str(tmp_path / "rm"), ModelConfig(), tokenizer)


def test_a_trunk_that_is_not_whole_is_refused(base):
    from safetensors.torch import load_file, save_file

    held = load_file(str(base / "model.safetensors"))
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, str(base / "model.safetensors"), metadata={"format": "pt"})
    tokenizer = checkpoints.load_tokenizer(str(base))
    for load in (checkpoints.load_policy, checkpoints.load_reward_model):
        with pytest.raises(ConfigError, match="it has no model.layers.1.mlp.up_proj.weight; give"):
            load(str(base), ModelConfig(), tokenizer)


def test_a_value_head_is_no_reward_model(base):
    from safetensors.torch import load_file, save_file

    held = load_file(str(base / "model.safetensors")) | {"v_head.summary.weight": torch.zeros(1, 32)}
    save_file(held, str(base / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="value head of TRL's PPO"):
        checkpoints.check(str(base), reward_model=True)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "distilbert"])
def test_an_encoder_scores_everywhere_as_by_itself(tmp_path, kind):
    """`[CLS] prompt [SEP] completion [SEP]`, through evaluation's scores and through PPO's frozen reward model."""
    model, tokenizer = make_encoder(tmp_path / "rm", kind)
    path = str(tmp_path / "rm")
    checkpoints.check(path, reward_model=True)
    own = checkpoints.load_tokenizer(path)
    from align.data import chat

    rows = [
        sum(chat.encode_pair(own, [{"role": "user", "content": asked}], [{"role": "assistant", "content": said}]), [])
        for asked, said in (("what is the sky", "it is blue"), ("what is it", "no"))
    ]
    assert rows[0] == tokenizer("what is the sky", "it is blue")["input_ids"]
    expected = []
    for row in rows:
        with torch.no_grad():
            expected.append(model(input_ids=torch.tensor([row])).logits.item())
    scorer = checkpoints.load_trained(path, own, reward_model=True)
    assert heads.scores(scorer, rows, pad_id=own.pad_token_id).tolist() == pytest.approx(expected, abs=1e-5)
    frozen = roles.Frozen(checkpoints.load_reward_model(path, ModelConfig(), own), 64)
    batch = roles.Batch.of([row[:1] for row in rows], [row[1:] for row in rows], "cpu", packed=frozen.packs)
    assert frozen(batch).tolist() == pytest.approx(expected, abs=1e-5)


def make_masked(folder, kind, **settings):
    """The same encoder as it is published for masked words, without what its score is made of."""
    from transformers import AutoModelForMaskedLM

    make_encoder(folder, kind)
    config = AutoConfig.from_pretrained(folder)
    for name, value in settings.items():
        setattr(config, name, value)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "distilbert"])
def test_an_encoders_adapter_holds_all_that_was_new_in_its_score(tmp_path, kind):
    """Head and pooler are drawn when training begins; drawn again when it is loaded, the scores would be others."""
    path = make_masked(tmp_path / "encoder", kind)
    own, args = checkpoints.load_tokenizer(path), ModelConfig(path, use_peft=True, lora_r=4)
    torch.manual_seed(5)
    model = checkpoints.load_reward_model(path, args, own)
    trained = get_peft_model(model, checkpoints.lora_config(args, reward_model=True)).eval()
    expected = trained(input_ids=IDS).logits.item()
    trained.save_pretrained(tmp_path / "rm")
    torch.manual_seed(6)
    scorer = checkpoints.load_trained(str(tmp_path / "rm"), own, reward_model=True)
    assert heads.scores(scorer, IDS.tolist(), pad_id=0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_no_policy(tmp_path, kind):
    """Its tokens see the answer that they are to predict: the loss would fall, and nothing would be learnt."""
    path = make_masked(tmp_path / "encoder", kind)
    for load in (preflight.skeleton, lambda *_: checkpoints.load_trained(path, checkpoints.load_tokenizer(path))):
        with pytest.raises(ConfigError, match=f"is an encoder \\({kind}\\): each of its tokens sees those that follow"):
            load(path, ModelConfig(path))
    decoder = make_masked(tmp_path / "decoder", kind, is_decoder=True)
    preflight.skeleton(decoder, ModelConfig(decoder))


def test_a_decoder_that_was_turned_into_an_encoder_is_no_policy(base):
    change(base / "config.json", is_causal=False)
    with pytest.raises(ConfigError, match="is an encoder"):
        preflight.skeleton(str(base), ModelConfig(str(base)))
    with pytest.raises(ConfigError, match="model_config is an encoder"):
        pretrain.new_model({"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2}, make_tokenizer())


@pytest.mark.parametrize(("kind", "room"), [("bert", 64), ("roberta", 63)])
def test_more_than_an_encoder_can_read_is_refused(tmp_path, kind, room):
    """64 positions; RoBERTa's begin behind its pad token's, 0 here."""
    make_encoder(tmp_path / "rm", kind)
    own = checkpoints.load_tokenizer(str(tmp_path / "rm"))
    scorer = checkpoints.load_trained(str(tmp_path / "rm"), own, reward_model=True)
    assert heads.scores(scorer, [[5] * room], pad_id=0).isfinite().all()
    rows = splits.Splits(Dataset.from_dict({"input_ids": [[5] * (room + 1)]}), None, {})
    assert f"give --max_length {room} " in preflight._room(scorer.config, rows, 0)[0]
    with pytest.raises(RunError, match=f"has {room + 1} tokens, and the reward model .*rm reads {room}"):
        heads.scores(scorer, [[5] * (room + 1), [5]], pad_id=0)


def test_pad_is_no_stop_token_and_scores_are_read_at_the_end(tmp_path):
    """Qwen 3 names its pad token among its stop ids: an answer that ended with it was scored a token early."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
    tokenizer.chat_template = (files("trl") / "chat_templates" / "qwen3.jinja").read_text()
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = None, "<|im_end|>", "<|endoftext|>"
    both = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, eos_token_id=both[0],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = both, both[1]
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    make_reward(tmp_path / "qwen", tmp_path / "rm")
    (tmp_path / "rm/generation_config.json").write_text((tmp_path / "qwen/generation_config.json").read_text())
    assert checkpoints.named_stops(str(tmp_path / "qwen")) == both
    own = checkpoints.load_tokenizer(str(tmp_path / "rm"))
    assert own.pad_token_id not in both
    scorer = checkpoints.load_trained(str(tmp_path / "rm"), own, reward_model=True)
    row = [5, 6, 7, 8, both[1]]
    with torch.no_grad():
        hidden = scorer.model(input_ids=torch.tensor([row])).last_hidden_state
    expected = scorer.score(hidden[0, -1]).item()
    found = heads.scores(scorer, [row, row[:-1]], pad_id=own.pad_token_id)
    assert found[0].item() == pytest.approx(expected, abs=1e-6) and found[0] != found[1]


# ---- settings that transformers reads and does not write ----------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"temperature": 0.7, "top_p": 0.8}, {"temperature": 0.7, "top_p": 0.8, "do_sample": True}),
        ({"do_sample": False, "top_k": 20}, {"top_k": 20, "do_sample": True}),
        ({"typical_p": 0.3}, {"typical_p": 0.3, "do_sample": True}),
        ({"length_penalty": 0.5}, {}),  # of a beam search that is not asked for
        ({"early_stopping": True}, {}),
        ({"made_up": 3}, {}),
    ],
)
def test_a_parents_generation_config_is_made_one_that_can_be_saved(base, tmp_path, settings, kept):
    change(base / "generation_config.json", **settings)
    tokenizer = checkpoints.load_tokenizer(str(base))
    policy = checkpoints.load_policy(str(base), ModelConfig(), tokenizer)
    policy.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(made(tmp_path / "saved")), logits(policy))
    found = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert kept.items() <= found.items() and found["eos_token_id"] == [tokenizer.eos_token_id]


def test_a_merged_base_of_such_a_parent_is_saved_too(base, tmp_path):
    change(base / "generation_config.json", temperature=0.7)
    add_adapter(base, tmp_path / "adapter")
    whole = checkpoints.resolve_parent(str(tmp_path / "adapter"), str(tmp_path / "run"))
    assert made(whole).generation_config.do_sample is True


def test_generation_settings_in_the_models_config(base, tmp_path):
    change(base / "config.json", temperature=0.6, max_length=20)
    (base / "generation_config.json").unlink()
    policy = checkpoints.load_policy(str(base), ModelConfig(), checkpoints.load_tokenizer(str(base)))
    policy.save_pretrained(tmp_path / "saved")
    assert made(tmp_path / "saved").generation_config.temperature == 0.6


# ---- tokenizers with one special token ----------------------------------------------------------------------------


def make_gpt2(folder, tie=True, spare=0):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(
        ["what is the sky"] * 3,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer) + spare, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
                   eos_token_id=0, tie_word_embeddings=tie)
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@pytest.mark.parametrize("tie", [True, False])
def test_a_pad_token_is_added_with_a_row_that_nothing_learns(tmp_path, tie):
    rows = make_gpt2(tmp_path / "gpt2", tie)
    path = str(tmp_path / "gpt2")
    tokenizer = checkpoints.load_tokenizer(path)
    assert tokenizer.pad_token_id == rows and tokenizer.eos_token_id == 0
    policy = checkpoints.load_policy(path, ModelConfig(), tokenizer)
    assert policy.get_input_embeddings().num_embeddings == policy.get_output_embeddings().out_features == rows + 1
    assert torch.allclose(logits(policy)[..., :rows], logits(made(path)), atol=1e-5)
    # Jensen: a row that is the mean of V others has a probability of at most one in V
    assert logits(policy).softmax(-1)[..., rows].max() <= 1 / rows + 1e-6
    policy.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = checkpoints.load_tokenizer(str(tmp_path / "saved"))
    assert again.pad_token_id == rows
    assert torch.equal(logits(checkpoints.load_trained(str(tmp_path / "saved"), again)), logits(policy))


@pytest.mark.parametrize("tie", [True, False])
def test_an_adapter_of_a_grown_vocabulary_is_loaded_by_plain_peft(tmp_path, tie):
    from peft import AutoPeftModelForCausalLM, get_peft_model

    make_gpt2(tmp_path / "gpt2", tie)
    args = ModelConfig(str(tmp_path / "gpt2"), use_peft=True, lora_r=4, lora_target_modules=["c_attn"])
    path = str(tmp_path / "gpt2")
    tokenizer = checkpoints.load_tokenizer(path)
    whole = checkpoints.resolve_parent(path, str(tmp_path / "run"), args, tokenizer)
    assert whole == str(tmp_path / "run/base")
    policy = checkpoints.load_policy(whole, args, tokenizer)
    torch.manual_seed(5)
    config = checkpoints.lora_config(args)
    config.init_lora_weights = False
    model = get_peft_model(policy, config).eval()
    model.save_pretrained(tmp_path / "run/adapter")
    tokenizer.save_pretrained(tmp_path / "run/adapter")
    held = (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_size
    assert held < made(whole).get_input_embeddings().weight.numel() * 4  # no embeddings in it
    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "run/adapter"))
    assert torch.allclose(logits(plain), logits(model), atol=1e-5)
    ours = checkpoints.load_trained(str(tmp_path / "run/adapter"), tokenizer)
    assert torch.allclose(logits(ours), logits(model), atol=1e-5)


def test_embeddings_with_rows_to_spare_are_left_alone(tmp_path):
    rows = make_gpt2(tmp_path / "gpt2", spare=7)
    path = str(tmp_path / "gpt2")
    tokenizer = checkpoints.load_tokenizer(path)
    args = ModelConfig(use_peft=True, lora_target_modules=["c_attn"])
    assert checkpoints.resolve_parent(path, str(tmp_path / "run"), args, tokenizer) == path
    assert checkpoints.load_policy(path, args, tokenizer).get_input_embeddings().num_embeddings == rows + 7


# ---- what is measured ---------------------------------------------------------------------------------------------


def bench(reference, dtype):
    from align.evaluate.config import MeasureArguments
    from align.evaluate.policy import Bench

    args = MeasureArguments(dtype=dtype, max_new_tokens=8)
    return Bench(
        args, checkpoints.load_tokenizer(str(reference)), [{"input_ids": [5, 6], "prompt": "a"}], str(reference)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_models_kl_to_itself_is_nought_in_whatever_form(base, tmp_path, dtype):
    """An adapter that changes nothing, on its base; the weights are stored finer than bf16 can hold."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(made(base), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        tmp_path / "a"
    )
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "a")
    one = bench(base, dtype)
    policy = one.load(str(tmp_path / "a"))
    assert {w.dtype for name, w in policy.named_parameters() if "lora" not in name} == {getattr(torch, dtype)}
    assert {weight.dtype for weight in one.reference.parameters()} == {getattr(torch, dtype)}
    prompts, said = [[5, 6], [7]], [[8, 9, 10], [11, 12]]
    found = generate.sequence_statistics(policy, one.reference, prompts, said, pad_id=0)
    assert found["kl"].tolist() == [0.0, 0.0] and torch.equal(found["logps"], found["ref_logps"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kl_of_rounding_alone_is_reported(base, tmp_path, dtype):
    """A run that starts from an adapter and does not move has its weights merged: in bf16 they are other ones."""
    add_adapter(base, tmp_path / "sft")
    still = checkpoints.resolve_parent(str(tmp_path / "sft"), str(tmp_path / "run"))
    one = bench(tmp_path / "sft", dtype)
    said = generate.complete(
        one.reference, one.tokenizer, one.prompts, max_new_tokens=8, temperature=1.0, batch_size=64
    )
    ids = [found[0].ids for _, found in said]
    found = generate.sequence_statistics(one.load(still), one.reference, one.prompts, ids, pad_id=0)
    kl = found["kl"].item()
    if dtype == "float32":
        assert kl == pytest.approx(0, abs=1e-6) and one.rounding() == []
    else:
        said = float(re.search(r"is (\S+) nats a sequence", one.rounding()[0])[1])
        assert kl > 1e-6 and said == pytest.approx(kl, rel=0.5)
    assert bench(base, dtype).rounding() == []


def test_an_adapter_in_bf16_keeps_its_small_changes(base, tmp_path):
    """Merged in bf16, a change below a weight's last bit is lost; beside the weights it is not."""
    model = add_adapter(base, tmp_path / "a")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(1e-3)
    model.save_pretrained(tmp_path / "a")
    one = bench(base, "bfloat16")
    policy = one.load(str(tmp_path / "a"))
    layer = policy.model.layers[0].self_attn.q_proj
    x = torch.randn(4, 32)
    expected = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    assert layer.lora_A["default"].weight.dtype == torch.float32 and expected.abs().max() > 0
    assert (layer.base_layer.weight == one.reference.model.layers[0].self_attn.q_proj.weight).all()


def test_rows_to_spare_are_no_part_of_a_distribution(base):
    """A copy with seven more rows of logits says the same of every token that there is."""
    model, padded = made(base), made(base)
    padded.resize_token_embeddings(model.config.vocab_size + 7)
    found = generate.sequence_statistics(model, padded, [[5, 6]], [[7, 8]], pad_id=0)
    assert found["kl"].item() == pytest.approx(0, abs=1e-6)


# ---- recipes, launched --------------------------------------------------------------------------------------------

FEW = ["--max_length", "96", "--global_batch_size", "4", "--per_device_train_batch_size", "4", "--logging_steps", "1",
       "--disable_tqdm", "true"]  # fmt: skip


@pytest.mark.slow
def test_a_parent_that_samples_by_default_is_trained_saved_and_resumed(base, tmp_path):
    """Its generation config has a temperature and no `do_sample`, which is not saved as it is."""
    change(base / "generation_config.json", temperature=0.7, top_p=0.9)
    rows = write_rows(tmp_path / "rows.jsonl", conversations(16))
    command = ["--model_name_or_path", base, "--dataset_name", rows, *FEW, "--save_steps", "2", "--eval_strategy", "no"]
    run_recipe("sft", *command, "--output_dir", tmp_path / "whole", "--max_steps", "4")
    cut = [*command, "--output_dir", tmp_path / "cut", "--max_steps", "4", "--save_total_limit", "3"]
    run_recipe("sft", *cut)
    shutil.rmtree(tmp_path / "cut/checkpoint-4")
    change(tmp_path / "cut/run.json", status="interrupted")
    run_recipe("sft", *cut, "--resume_from_checkpoint", "last")
    found = made(tmp_path / "whole").generation_config
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.7, 0.9)
    assert made(tmp_path / "cut").generation_config.do_sample is True
    assert losses(tmp_path / "whole")[2:] == losses(tmp_path / "cut")[-2:]


@pytest.mark.slow
@pytest.mark.parametrize("adapters_only", [False, True])
def test_a_tokenizer_with_one_special_token_goes_all_the_way(tmp_path, adapters_only):
    """SFT, a reward model, DPO, PPO and sampling from a GPT-2, whole and as adapters that plain PEFT loads."""
    rows = make_gpt2(tmp_path / "gpt2")
    more = ["--use_peft", "--lora_r", "4"] if adapters_only else []
    chats = write_rows(tmp_path / "chats.jsonl", conversations(8))
    both = write_rows(tmp_path / "pairs.jsonl", pairs(8))
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": row["prompt"]} for row in pairs(8)])
    out = {name: str(tmp_path / name) for name in ("sft", "reward", "dpo", "ppo", "sample")}
    steps = [*FEW, "--max_steps", "2", "--eval_strategy", "no", *more]
    go = ["--accept_failed", out["sft"], out["reward"]]
    first = ["--model_name_or_path", out["sft"]]
    run_recipe(
        "sft", "--model_name_or_path", tmp_path / "gpt2", "--dataset_name", chats, "--output_dir", out["sft"], *steps
    )
    run_recipe("reward", *first, "--dataset_name", both, "--output_dir", out["reward"], *steps, *go)
    run_recipe("dpo", *first, "--dataset_name", both, "--output_dir", out["dpo"], *steps, *go)
    run_recipe(
        "ppo", *first, "--reward_model_path", out["reward"], "--dataset_name", asked, "--output_dir", out["ppo"],
        "--response_length", "4", "--num_ppo_epochs", "1", "--num_mini_batches", "1", *FEW[2:], *more, *go,
    )  # fmt: skip
    run_recipe(
        "sample", "--model_name_or_path", out["dpo"], "--dataset_name", asked, "--output_dir", out["sample"],
        "--max_new_tokens", "4", *go,
    )  # fmt: skip
    for name in ("sft", "dpo", "ppo"):
        model = made(out[name])  # of an adapter's folder: its base, with the adapter on it
        assert model.get_input_embeddings().num_embeddings == rows + 1
        assert AutoTokenizer.from_pretrained(out[name]).pad_token_id == rows
