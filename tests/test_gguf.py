"""`align gguf`: the file says what the model says, whoever reads it; what it cannot say is refused before weights load."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_checkpoint, make_tokenizer
from families import twin

from align.data import chat
from align.fetch import architectures, gguf_file, modelfile, readback, vocabulary
from align.models import checkpoints
from align.run.errors import ConfigError, RunError

gguf = pytest.importorskip("gguf")
GEMMA3 = dict(num_hidden_layers=6, layer_types=["sliding_attention"] * 5 + ["full_attention"])
# Twins, what is set in their configuration, and how their file says that text is cut into words
TWINS = {
    "smollm2": ({}, "gpt-2"),  # transformers' own class for it does not cut off digits
    "qwen2.5": ({}, "qwen2"),
    "qwen3": ({}, "qwen2"),
    "llama-3.1": ({}, "dbrx"),
    "llama-3.2": ({}, "dbrx"),
    "gemma-2": ({}, "default"),
    "gemma-3-1b": (GEMMA3, "default"),
}


def export(model: Path, file: Path, *more: str) -> Path:
    gguf_file.main(["--model_name_or_path", str(model), "--output", str(file), *more])
    return file


def said(file: Path) -> dict:
    """What a file's keys say."""
    reader = gguf.GGUFReader(file)
    return {name: field.contents() for name, field in reader.fields.items()}


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].float()


def of_file(file: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


def of_folder(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("name", TWINS)
def test_a_file_says_what_its_checkpoint_says(name, kind, tmp_path, capsys):
    settings, cutting = TWINS[name]
    model = twin(name, tmp_path / "model", **settings)
    file = export(model, tmp_path / "out/twin.gguf", "--type", kind)
    keys, tokenizer = said(file), checkpoints.load_tokenizer(str(model))
    assert (
        keys["general.architecture"]
        == architectures.ARCHITECTURES[json.loads((model / "config.json").read_text())["model_type"]]
    )
    assert keys["tokenizer.ggml.pre"] == cutting and keys["tokenizer.chat_template"] == tokenizer.chat_template
    assert (
        keys["tokenizer.ggml.tokens"][: len(tokenizer)] != []
        and len(keys["tokenizer.ggml.tokens"]) == of_folder(model).get_input_embeddings().weight.shape[0]
    )
    stops = chat.stop_ids(tokenizer, of_folder(model).generation_config)
    assert [keys.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")][: len(stops)] == stops[:3]
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert types["blk.0.attn_q.weight"] == {"f16": "F16", "q8_0": "Q8_0"}[kind] and types["output_norm.weight"] == "F32"
    out = capsys.readouterr().out
    share = re.search(r"(\d+) of (\d+) greedy tokens the same", out)
    assert share and int(share[2]) == 64 and int(share[1]) >= (64 if kind == "f16" else 48)
    assert sorted(path.name for path in file.parent.iterdir()) == ["Modelfile", "twin.gguf"]
    assert "FROM ./twin.gguf" in (file.parent / "Modelfile").read_text()


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_read_plainly_it_is_the_same_model(name, tmp_path):
    """By transformers' own reader alone, nothing lent: a random model's logits, f16 against fp32."""
    from transformers import AutoTokenizer

    model = twin(name, tmp_path / "model")
    file = export(model, tmp_path / "twin.gguf")
    words, own = AutoTokenizer.from_pretrained(tmp_path, gguf_file="twin.gguf"), AutoTokenizer.from_pretrained(model)
    text = "what is the cat? the dog sits on the mat."
    assert words(text)["input_ids"] == own(text)["input_ids"]
    ids = own(text)["input_ids"]
    ours, theirs = logits(of_folder(model), ids), logits(of_file(file), ids)
    assert (ours - theirs).abs().max() < 1e-3 < ours.std()


def test_the_demos_model_can_be_taken_away(tmp_path, capsys):
    """A Llama with a tokenizer of our own recipe, as in the nano chain."""
    file = export(make_checkpoint(tmp_path / "model"), tmp_path / "nano.gguf")
    assert said(file)["tokenizer.ggml.pre"] == "gpt-2" and "64 of 64 greedy tokens the same" in capsys.readouterr().out
    assert (tmp_path / "Modelfile").read_text() == (
        'FROM ./nano.gguf\nTEMPLATE """<|bos|>{{ if .System }}{{ .System }}\n{{ end }}{{ range .Messages }}'
        '{{ if eq .Role "user" }}User: {{ .Content }}\n{{ else if eq .Role "assistant" }}Assistant: {{ .Content }}<|eos|>\n'
        '{{ end }}{{ end }}Assistant:"""\nPARAMETER stop "<|eos|>"\nPARAMETER temperature 1.0\n'
    )


def test_an_adapter_is_merged_first_and_a_licence_goes_along(tmp_path):
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

    base = make_checkpoint(tmp_path / "base")
    record = {"recipe": "fetch", "status": "complete", "origin": {"of": "a/b", "from": "x", "licence": "mit"}}
    (base / "run.json").write_text(json.dumps(record))
    model = get_peft_model(of_folder(base), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    model.save_pretrained(tmp_path / "sft")
    parents = {"model": {"path": str(base)}}
    (tmp_path / "sft/run.json").write_text(json.dumps({"recipe": "sft", "status": "complete", "parents": parents}))
    file = export(tmp_path / "sft", tmp_path / "sft.gguf")
    ids = make_tokenizer()("what is the cat?")["input_ids"]
    meant, there, plain = logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "sft"), ids), logits(of_file(file), ids), logits(of_folder(base), ids)  # fmt: skip
    assert (meant - there).abs().max() < 0.01 < (plain - there).abs().max()
    assert said(file)["general.license"] == "mit"


# ------------------------------------------------------------------------------------------- what is wrong does not stay


def test_another_model_is_not_kept(tmp_path, monkeypatch):
    """Here q and k stay as transformers has them; they are large enough for attention to be more than a mean."""
    model = twin("smollm2", tmp_path / "model")
    strong = of_folder(model)
    for name, weight in strong.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data *= 40
    strong.save_pretrained(model)
    export(model, tmp_path / "right/x.gguf")
    monkeypatch.setattr(architectures, "interleaved", lambda weight, heads: weight)
    with pytest.raises(RunError, match="(apart|nats away), where rounding makes .*; the file was not kept"):
        export(model, tmp_path / "out/x.gguf")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda found: found.merges.reverse(), "is another tokenizer to transformers: it cuts"),
        (lambda found: found.stops.insert(0, 5), "ends an answer with another token"),
    ],
)
def test_another_tokenizer_is_not_kept(spoil, sentence, tmp_path, monkeypatch):
    model, real = make_checkpoint(tmp_path / "model"), vocabulary.write

    def write(writer, found, *rest):
        spoiled = vocabulary.Vocabulary(**{**vars(found), "merges": [*found.merges], "stops": [*found.stops]})
        spoil(spoiled)
        real(writer, spoiled, *rest)

    monkeypatch.setattr(vocabulary, "write", write)
    with pytest.raises(RunError, match=f"{sentence}.*the file was not kept"):
        export(model, tmp_path / "out/x.gguf")
    assert not list((tmp_path / "out").iterdir())


def test_a_tie_is_no_disagreement_and_a_sure_token_is():
    """Largest logit 10: f16 may move each by 0.05, so two tokens that are 0.1 apart may change places."""
    near = readback.Likeness(apart=0.05, largest=10.0, kl=1e-6, same=63, of=64, gap=0.09, not_read=[])
    assert near.problem("f16") is None
    assert "prefers by 0.11" in readback.Likeness(0.05, 10.0, 1e-6, 63, 64, 0.11, []).problem("f16")
    assert "0.2 apart, where rounding makes 0.05" in readback.Likeness(0.2, 10.0, 1e-6, 64, 64, 0.0, []).problem("f16")
    assert "nats away" in readback.Likeness(0.05, 10.0, 0.1, 64, 64, 0.0, []).problem("q8_0")
    assert "apart" in readback.Likeness(float("nan"), 10.0, 0.0, 64, 64, 0.0, []).problem("q8_0")


def test_halves_of_a_head_are_laid_beside_each_other():
    """Two heads of four rows: 0 1 | 2 3 becomes 0 2 1 3, as llama.cpp's neighbours."""
    rows = np.arange(8).reshape(8, 1)
    assert architectures.interleaved(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_llama_3s_scaling_is_written_as_how_much_slower(tmp_path):
    """Base 5e5, D = 16: wavelengths 2 pi 5e5^(i/8). 6.3 is under 8192/4, and kept; 6.1e5 is over 8192, and slowed by 8."""
    found = architectures.slower(
        of_folder(folder := twin("llama-3.1", tmp_path)), json.loads((folder / "config.json").read_text())
    )
    assert found.shape == (8,) and found[0] == pytest.approx(1.0) and found[-1] == pytest.approx(8.0, rel=1e-5)
    assert (np.diff(found) >= -1e-6).all()


def test_scores_follow_the_merges():
    """`ab` is joined before `abc`, and what no merge makes comes last."""
    tokens, pairs = ["a", "b", "c", "ab", "abc", "</s>"], [["a", "b"], ["ab", "c"]]
    found = vocabulary._scores(tokens, [1, 1, 1, 1, 1, 3], pairs)
    assert found == [-2.0, -3.0, -4.0, 0.0, -1.0, 0.0]


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.fixture
def unloaded(monkeypatch):
    def load(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(gguf_file, "load", load)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpt-2", "is a model of the kind gpt2; GGUF is written of llama, mistral, qwen2"),
        ("gpt-oss", "is a model of the kind gpt_oss"),
        ("gemma-3-4b", "is a model of the kind gemma3; "),
        ("phi-3", "is a model of the kind phi3"),
        ("gemma-3-1b", "layer_types other than each 6th full"),
        ("mistral-v0.3", "puts no blank behind the special tokens of a conversation, where llama.cpp puts one"),
        ("vicuna-1.5", "puts no blank behind the special tokens of a conversation"),
    ],
)
def test_models_that_cannot_be_written(name, sentence, tmp_path, unloaded):
    model = twin(name, tmp_path / "model")
    with pytest.raises(ConfigError, match=re.escape(sentence)) as found:
        export(model, tmp_path / "out/x.gguf")
    assert "\n" not in str(found.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(attention_bias=True), "has attention_bias=True, which a llama file cannot say"),
        (dict(hidden_act="gelu"), "hidden_act=gelu"),
        (dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=2.0)), "rope_type=yarn"),
    ],
)
def test_settings_that_no_key_says(settings, sentence, tmp_path, unloaded):
    model = twin("smollm2", tmp_path / "model", **settings)
    with pytest.raises(ConfigError, match=sentence):
        export(model, tmp_path / "x.gguf")


def test_reward_models(world, tmp_path, unloaded):
    with pytest.raises(ConfigError, match="is a reward model, and llama.cpp has no use for its scores"):
        export(world / "rm", tmp_path / "x.gguf")


def change(folder: Path, how) -> Path:
    core = json.loads((folder / "tokenizer.json").read_text())
    how(core)
    (folder / "tokenizer.json").write_text(json.dumps(core))
    return folder


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            lambda core: core.update(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"}, core["pre_tokenizer"]],
                }
            ),
            "cuts text into words as none does that is known by name in llama.cpp",
        ),
        (lambda core: core.update(normalizer={"type": "Lowercase"}), "cuts text into words as none does"),
        (lambda core: core["added_tokens"][0].update(lstrip=True), "takes blanks beside it"),
    ],
)
def test_tokenizers_that_llama_cpp_would_read_otherwise(how, sentence, tmp_path, unloaded):
    model = change(make_checkpoint(tmp_path / "model"), how)
    with pytest.raises(ConfigError, match=sentence):
        export(model, tmp_path / "x.gguf")


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize(
    ("steps", "whole", "name"),
    [
        ([BYTES | {"use_regex": True}], False, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}], False, "smollm"),
        ([{"type": "Split", "pattern": {"Regex": vocabulary.LLAMA3}, "behavior": "Isolated", "invert": False}, BYTES | {"use_regex": False}], False, "dbrx"),
        ([{"type": "Split", "pattern": {"Regex": vocabulary.LLAMA3}, "behavior": "Isolated", "invert": False}, BYTES | {"use_regex": False}], True, "llama-bpe"),
        ([{"type": "Split", "pattern": {"Regex": vocabulary.QWEN2}, "behavior": "Isolated", "invert": False}, BYTES | {"use_regex": False}], False, "qwen2"),
    ],
)  # fmt: skip
def test_how_text_is_cut_has_a_name(steps, whole, name, tmp_path):
    def how(core):
        core["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
        core["model"]["ignore_merges"] = whole

    model = change(make_checkpoint(tmp_path / "model"), how)
    assert vocabulary.read(str(model), checkpoints.load_tokenizer(str(model))).cutting == name


def test_wordpiece(tmp_path, unloaded):
    from align.models.tokenizer import TokenizerConfig, train

    model = make_checkpoint(tmp_path / "model")
    train(["the cat sits"], TokenizerConfig(vocab_size=100, tokenizer_type="wordpiece")).save_pretrained(model)
    with pytest.raises(ConfigError, match="is of the kind WordPiece without bytes; GGUF is written of byte-level BPE"):
        export(model, tmp_path / "x.gguf")


def test_nothing_of_others_is_written_over(tmp_path, unloaded):
    model = make_checkpoint(tmp_path / "model")
    (tmp_path / "x.gguf").write_text("mine")
    with pytest.raises(ConfigError, match="x.gguf is there; name another file, or give --overwrite"):
        export(model, tmp_path / "x.gguf")
    with pytest.raises(ConfigError, match="a name that ends in .gguf"):
        export(model, tmp_path / "x.bin")
    (tmp_path / "y.gguf").mkdir()
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        export(model, tmp_path / "y.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./other.gguf\n")
    with pytest.raises(ConfigError, match="Modelfile is there for another file"):
        export(model, tmp_path / "z.gguf")
    assert (tmp_path / "x.gguf").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------------ Modelfile


def speaking(template: str, *, bos: bool = False):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return modelfile.recognised(tokenizer, bos)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"


def test_a_form_is_told_by_what_a_template_writes():
    assert speaking(CHATML)[0].name == "ChatML" and speaking(CHATML)[1:] == ("", "")
    form, start, system = speaking("{{ bos_token }}" + OWN + CHATML)
    assert (form.name, start, system) == ("ChatML", "<|bos|>", "Be kind.")
    assert speaking("{{ bos_token }}" + OWN + CHATML, bos=True)[1] == "", "the tokenizer writes it"
    assert speaking(CHATML.replace("m['content']", "m['content'] | upper")) is None
    assert speaking("{{ 'Today is Monday.' }}" + CHATML) is None
    once = CHATML.replace("{% for", "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}{% for")
    assert speaking(once) is None


def test_the_template_of_chatml_by_hand():
    form, start, _ = speaking(CHATML)
    assert modelfile.template(form, start) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}'
        "{{ end }}<|im_start|>assistant\n"
    )


def test_a_modelfile_for_what_cannot_be_translated_says_so():
    from transformers import GenerationConfig

    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ 'x' }}" + CHATML
    warm = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1)
    text, told = modelfile.write("a.gguf", tokenizer, [tokenizer.eos_token_id, tokenizer.bos_token_id], False, warm)
    assert "TEMPLATE" not in text and "of no form that could be translated" in told and "ollama show --template" in text
    assert text.splitlines()[-5:] == [
        'PARAMETER stop "<|eos|>"', 'PARAMETER stop "<|bos|>"', "PARAMETER temperature 0.6", "PARAMETER top_k 20",
        "PARAMETER repeat_penalty 1.1",
    ]  # fmt: skip


def test_what_a_template_says_cannot_end_the_modelfiles_text():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = OWN.replace("Be kind.", 'x"""\\nFROM evil') + CHATML
    text, _ = modelfile.write("a.gguf", tokenizer, [], False, None)
    assert "evil" not in text
    assert modelfile.quoted('a"b') == '"""a"b"""' and modelfile.quoted("a\x1bb") == '"a\\u001bb"'


# ------------------------------------------------------------------------------------------------------------ llama.cpp


@pytest.fixture
def engine(monkeypatch):
    """A stand-in for llama-cpp-python: the file as transformers reads it, or something else."""
    spoilt = SimpleNamespace(words=False, answers=False)

    class Llama:
        def __init__(self, model_path, **_):
            from transformers import AutoTokenizer

            path = Path(model_path)
            self.model = of_file(path)
            self.words = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

        def tokenize(self, text, add_bos, special):
            assert special and not add_bos
            ids = self.words(text.decode(), add_special_tokens=False)["input_ids"]
            return ids[::-1] if spoilt.words else ids

        def generate(self, ids, **_):
            ids = [*ids]
            while True:
                found = logits(self.model, ids)[-1]
                ids.append(int(found.argmin() if spoilt.answers else found.argmax()))
                yield ids[-1]

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama, __spec__=SimpleNamespace()))
    return spoilt


def test_llama_cpp_is_asked_where_it_is_there(engine, tmp_path, capsys):
    model = make_checkpoint(tmp_path / "model")
    export(model, tmp_path / "x.gguf")
    assert "llama.cpp: 64 of 64 greedy tokens the same" in capsys.readouterr().out
    engine.words = True
    with pytest.raises(RunError, match="llama.cpp cuts .* otherwise than the tokenizer"):
        export(model, tmp_path / "words/x.gguf")
    engine.words, engine.answers = False, True
    with pytest.raises(RunError, match="llama.cpp answers otherwise, at a token that the model prefers by"):
        export(model, tmp_path / "answers/x.gguf")
    assert not [*(tmp_path / "words").iterdir(), *(tmp_path / "answers").iterdir()]


def test_without_it_that_is_said(tmp_path, capsys):
    if "llama_cpp" in sys.modules:
        pytest.skip("it is there")
    export(make_checkpoint(tmp_path / "model"), tmp_path / "x.gguf")
    assert "llama-cpp-python is not installed, so llama.cpp itself was not asked" in capsys.readouterr().out
