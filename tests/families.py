"""Twins of open checkpoints: tiny and random, with the family's own classes, tokens, template and generation settings.

What a family's files say is kept (configuration class, kind of tokenizer, special tokens, which of them are padding and
stops, the sampling that it recommends, weights in bf16), what costs time is not (width, depth, vocabulary). Templates
are those that TRL ships with; the three that it does not have are written here as short as their model cards allow.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from conftest import WORDS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MISTRAL = (  # v0.3: the system message stands in the last user turn, and only while that is the last turn of all
    "{% set lead = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if lead else messages %}{% set asked = turns | selectattr('role', 'equalto', 'user') | list %}"
    "{{ bos_token }}{% for turn in turns %}{% if turn['role'] == 'user' %}"
    "{% if tools and turn == asked[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + (lead if loop.last else '') + turn['content'] + '[/INST]' }}"
    "{% elif turn['tool_calls'] %}{{ '[TOOL_CALLS] ' + (turn['tool_calls'] | tojson) + eos_token }}"
    "{% elif turn['role'] == 'assistant' %}{{ ' ' + turn['content'] + eos_token }}"
    "{% elif turn['role'] == 'tool' %}{{ '[TOOL_RESULTS] ' + turn['content'] + '[/TOOL_RESULTS]' }}"
    "{% else %}{{ raise_exception('Only user, assistant and tool messages may follow the system message') }}{% endif %}{% endfor %}"
)
SMOLLM = (  # a system message of its own where the conversation has none
    "{% for turn in messages %}{% if loop.first and turn['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OLMO = (  # roles are words, not tokens; one token is BOS and EOS
    "{{ bos_token }}{% for turn in messages %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] }}"
    "{% if turn['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not (turn['role'] == 'assistant' and loop.last) %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
HEADS = dict(num_attention_heads=2, num_key_value_heads=1)
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
GEMMA_ROLES, GEMMA_STOPS = dict(bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>"), ("<eos>", "<end_of_turn>")
GEMMA3 = dict(
    head_dim=16, query_pre_attn_scalar=16, sliding_window=12, _sliding_window_pattern=2,
    layer_types=["sliding_attention", "full_attention"], **HEADS,
)  # fmt: skip
GEMMA3_WARM = dict(do_sample=True, top_p=0.95, top_k=64, cache_implementation="hybrid")
SIZE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, max_position_embeddings=2048)


@dataclass(frozen=True)
class Family:
    """What the files of one family of checkpoints say."""

    name: str
    config: str  # transformers' configuration class
    settings: dict[str, Any]  # what its config.json says beside the sizes
    words: str  # how text becomes words before BPE: a regex, `gpt2`, `digits`, or sentencepiece's `first`, `always`, `never`
    tokens: tuple[str, ...]  # special tokens
    tokenizer_class: str
    roles: dict[str, str | None]  # bos, eos, pad, unk of the tokenizer
    stops: tuple[str, ...]  # of generation_config.json
    sampling: dict[str, Any] = field(default_factory=dict)  # what else generation_config.json says
    template: str | None = None  # Jinja, or a file of TRL's
    adds_bos: bool = False  # does the tokenizer put a BOS before whatever it is given?
    swallows: bool = False  # do its special tokens swallow the blanks behind them?
    begins: str | None = None  # BOS of config.json where the tokenizer has none
    hears: bool = True  # does its template take a system message?
    binary: bool = False  # are its weights pickled, as those of old checkpoints?
    sees: bool = False  # is the language model one part of a model that sees images?


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = dict(tie_word_embeddings=True, use_sliding_window=False, max_window_layers=2, sliding_window=4096, **HEADS)
LLAMA3 = dict(
    rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                         original_max_position_embeddings=8192), max_position_embeddings=131072, **HEADS)  # fmt: skip
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
                 "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>")  # fmt: skip
LLAMA3_ROLES = dict(bos="<|begin_of_text|>", eos="<|eot_id|>")
LLAMA3_STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
WARM = dict(do_sample=True, temperature=0.6, top_p=0.9)

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llama-3.1", "LlamaConfig", LLAMA3, LLAMA3_WORDS, LLAMA3_TOKENS, "PreTrainedTokenizerFast", LLAMA3_ROLES,
            LLAMA3_STOPS, WARM, "llama3_1.jinja", adds_bos=True,
        ),
        Family(
            "llama-3.2", "LlamaConfig", LLAMA3 | dict(tie_word_embeddings=True), LLAMA3_WORDS, LLAMA3_TOKENS,
            "PreTrainedTokenizerFast", LLAMA3_ROLES, LLAMA3_STOPS, WARM, "llama3_2.jinja", adds_bos=True,
        ),
        Family(
            "qwen2.5", "Qwen2Config", QWEN, QWEN_WORDS, CHATML, "Qwen2Tokenizer",
            dict(eos="<|im_end|>", pad="<|endoftext|>"), ("<|im_end|>", "<|endoftext|>"),
            dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1), "qwen2_5.jinja",
            begins="<|endoftext|>",
        ),
        Family(
            "qwen3", "Qwen3Config", QWEN | dict(head_dim=16), QWEN_WORDS, (*CHATML, "<think>", "</think>"),
            "Qwen2Tokenizer", dict(eos="<|im_end|>", pad="<|endoftext|>"), ("<|im_end|>", "<|endoftext|>"),
            dict(do_sample=True, temperature=0.6, top_p=0.95, top_k=20), "qwen3.jinja", begins="<|endoftext|>",
        ),
        Family(
            "gemma-2", "Gemma2Config",
            dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=12, attn_logit_softcapping=50.0,
                 final_logit_softcapping=0.5, **HEADS),
            "never", GEMMA_TOKENS, "GemmaTokenizer", GEMMA_ROLES, GEMMA_STOPS,
            dict(cache_implementation="hybrid"), "gemma.jinja", adds_bos=True, hears=False,
        ),
        Family(
            "gemma-3-1b", "Gemma3TextConfig", GEMMA3, "never", GEMMA_TOKENS, "GemmaTokenizer", GEMMA_ROLES, GEMMA_STOPS,
            GEMMA3_WARM, "gemma3.jinja", adds_bos=True,
        ),
        Family(
            "gemma-3-4b", "Gemma3TextConfig", GEMMA3, "never", GEMMA_TOKENS, "GemmaTokenizer", GEMMA_ROLES, GEMMA_STOPS,
            GEMMA3_WARM, "gemma3.jinja", adds_bos=True, sees=True,
        ),
        Family(
            "smollm2", "LlamaConfig", dict(tie_word_embeddings=True, **HEADS), "digits", CHATML, "GPT2Tokenizer",
            dict(bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>", unk="<|endoftext|>"), ("<|im_end|>",), {}, SMOLLM,
        ),
        Family(
            "smollm2-base", "LlamaConfig", dict(tie_word_embeddings=True, **HEADS), "digits", CHATML, "GPT2Tokenizer",
            dict(bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"), ("<|endoftext|>",),
        ),
        Family(
            "mistral-v0.3", "MistralConfig", dict(sliding_window=None, **HEADS), "first",
            ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
             "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            "LlamaTokenizer", dict(bos="<s>", eos="</s>", unk="<unk>"), ("</s>",), {}, MISTRAL, adds_bos=True,
        ),
        Family(
            "vicuna-1.5", "LlamaConfig", HEADS, "always", ("<unk>", "<s>", "</s>"), "LlamaTokenizer",
            dict(bos="<s>", eos="</s>", pad="<unk>", unk="<unk>"), ("</s>",), dict(temperature=0.9, top_p=0.6),
            adds_bos=True, binary=True,
        ),
        Family(
            "phi-3", "Phi3Config", dict(sliding_window=12, num_attention_heads=2, num_key_value_heads=2), "always",
            ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
            "LlamaTokenizer", dict(bos="<s>", eos="<|endoftext|>", pad="<|endoftext|>", unk="<unk>"),
            ("<|endoftext|>", "<|assistant|>", "<|end|>"), {}, "phi3.jinja", swallows=True,
        ),
        Family(
            "gpt-2", "GPT2Config", {}, "gpt2", ("<|endoftext|>",), "GPT2Tokenizer",
            dict(bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"), ("<|endoftext|>",),
        ),
        Family(
            "pythia", "GPTNeoXConfig", dict(num_attention_heads=2, use_parallel_residual=True, tie_word_embeddings=False),
            "gpt2", ("<|endoftext|>", "<|padding|>"), "GPTNeoXTokenizer",
            dict(bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>"), ("<|endoftext|>",),
        ),
        Family(
            "olmo-2", "Olmo2Config", HEADS, LLAMA3_WORDS, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"),
            "GPT2Tokenizer", dict(bos="<|endoftext|>", eos="<|endoftext|>", pad="<|pad|>", unk="<|endoftext|>"),
            ("<|endoftext|>",), {}, OLMO,
        ),
        Family(
            "r1-distill", "Qwen2Config", QWEN | dict(tie_word_embeddings=False), QWEN_WORDS,
            ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<think>", "</think>"),
            "LlamaTokenizerFast",
            dict(bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>", pad="<｜end▁of▁sentence｜>"),
            ("<｜end▁of▁sentence｜>",), dict(do_sample=True, temperature=0.6, top_p=0.95), "deepseek_r1_distill.jinja",
            adds_bos=True,
        ),
        Family(
            "gpt-oss", "GptOssConfig",
            dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=12,
                 max_position_embeddings=131072, **HEADS), LLAMA3_WORDS,
            ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
             "<|message|>", "<|call|>"),
            "PreTrainedTokenizerFast", dict(bos="<|startoftext|>", eos="<|return|>", pad="<|endoftext|>"),
            ("<|return|>", "<|endoftext|>", "<|call|>"), dict(do_sample=True), "gptoss.jinja",
        ),
    )
}  # fmt: skip
ORDINARY = ("<think>", "</think>")  # tokens of their own, and not special ones: decoding keeps them


def template(family: Family) -> str | None:
    """The family's chat template."""
    if family.template is None or not family.template.endswith(".jinja"):
        return family.template
    return (files("trl") / "chat_templates" / family.template).read_text()


@functools.cache
def _tokenizer(family_name: str) -> Tokenizer:
    """A BPE of the family's kind over a few words and its own template."""
    family = FAMILIES[family_name]
    texts = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] + [template(family) or ""]
    made = _sentencepiece(family, texts) if family.words in ("first", "always", "never") else _byte_level(family, texts)
    made.add_tokens([AddedToken(t, special=t not in ORDINARY, normalized=False, rstrip=family.swallows and t != "<s>")
                     for t in family.tokens])  # fmt: skip
    bos = family.roles.get("bos")
    if family.adds_bos:
        bos_id = made.token_to_id(bos)
        made.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, bos_id)])
    return made


def _byte_level(family: Family, texts: list[str]) -> Tokenizer:
    byte_level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if family.words in ("gpt2", "digits"):
        words = byte_level()
        if family.words == "digits":
            words = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    else:
        split = pre_tokenizers.Split(Regex(family.words), "isolated")
        words = pre_tokenizers.Sequence([split, byte_level(use_regex=False)])
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = words, decoders.ByteLevel()
    if family.tokenizer_class == "Qwen2Tokenizer":
        made.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    return made


def _sentencepiece(family: Family, texts: list[str]) -> Tokenizer:
    """As sentencepiece's models come out of the conversion: blanks are `▁`, unknown characters are bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [t for t in family.tokens if t in ("<unk>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "<mask>")]
    names += [f"<0x{byte:02X}>" for byte in range(256)] + sorted(model["vocab"], key=model["vocab"].get)
    made = Tokenizer(models.BPE(
        {name: i for i, name in enumerate(names)}, [tuple(pair) for pair in model["merges"]], unk_token="<unk>",
        fuse_unk=True, byte_fallback=True,
    ))  # fmt: skip
    blanks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if family.words == "first":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif family.words == "always":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(blanks + ([] if family.words == "never" else [decoders.Strip(" ", 1, 0)]))
    return made


def twin(name: str, folder: Path, *, model: str = "AutoModelForCausalLM", **settings: Any) -> Path:
    """Write the family's twin to `folder`. `model` is the auto class, `settings` go into its configuration."""
    import torch
    import transformers

    family, folder = FAMILIES[name], Path(folder)
    words = _tokenizer(name)
    ids = {role: words.token_to_id(token) for role, token in family.roles.items()}
    stops = [words.token_to_id(token) for token in family.stops]
    sizes = dict(n_embd=32, n_layer=2, n_head=2, n_positions=1024) if family.config == "GPT2Config" else SIZE
    padded = (
        (words.get_vocab_size() + 63) // 64 * 64 if name in ("pythia", "qwen2.5", "qwen3") else words.get_vocab_size()
    )
    config = getattr(transformers, family.config)(
        vocab_size=padded, bos_token_id=ids.get("bos", family.begins and words.token_to_id(family.begins)), eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=ids.get("pad"), **{**sizes, **family.settings, **settings},
    )  # fmt: skip
    if family.sees:
        tower = dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        config = transformers.Gemma3Config(
            text_config=config, vision_config=tower, mm_tokens_per_image=4, bos_token_id=ids["bos"], pad_token_id=ids["pad"],
            eos_token_id=stops, boi_token_index=10, eoi_token_index=11, image_token_index=12, tie_word_embeddings=True,
            **settings,
        )  # fmt: skip
    torch.manual_seed(0)
    made = getattr(transformers, model).from_config(config, dtype=torch.bfloat16)
    made.save_pretrained(folder)
    if family.binary:
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    words.save(str(folder / "tokenizer.json"))
    says = {f"{role}_token": token for role, token in family.roles.items()}
    says |= dict(tokenizer_class=family.tokenizer_class, clean_up_tokenization_spaces=False, model_max_length=10**30)
    if family.adds_bos and family.tokenizer_class.startswith("Llama"):
        says |= dict(add_bos_token=True, legacy=False)
    if (chat := template(family)) is not None:
        says["chat_template"] = chat
    (folder / "tokenizer_config.json").write_text(json.dumps(says))
    generation = dict(bos_token_id=ids.get("bos"), pad_token_id=ids.get("pad"), eos_token_id=config.eos_token_id)
    generation = {key: value for key, value in generation.items() if value is not None} | family.sampling
    if model == "AutoModelForCausalLM":
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
