"""A tokenizer as GGUF holds it: its tokens, what each is for, how pieces are joined, and how text is cut into words.

Two kinds can be written: byte-level BPE (`gpt2` there), where llama.cpp knows the cutting by a name, and BPE that falls
back to bytes as sentencepiece's models do (`llama` there), where pieces are joined by their scores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from align.data import chat
from align.run.errors import ConfigError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's types of tokens
BLANK = "\u2581"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
SPLIT_BYTES = ("bytes", False)
# How text is cut into words: llama.cpp's names, by the steps of tokenizer.json. Two that cut alike differ in whether a
# word that is a token is taken whole, whatever the merges say: `llama-bpe` does, `dbrx` does not.
CUTTINGS: dict[tuple[Any, ...], dict[bool, str]] = {
    (("bytes", True),): {False: "gpt-2"},
    (("digits", True), ("bytes", True)): {False: "smollm"},
    (("split", LLAMA3), SPLIT_BYTES): {False: "dbrx", True: "llama-bpe"},
    (("split", QWEN2), SPLIT_BYTES): {False: "qwen2"},
}
OTHERWISE = "llama.cpp would read text otherwise than the model has learnt to, so it is not written"


@dataclass
class Vocabulary:
    """What the file says of a tokenizer."""

    kind: str  # gpt2 or llama
    cutting: str  # its name in llama.cpp; `default` of the kind llama, which cuts nothing
    tokens: list[str]
    types: list[int]
    stops: list[int]  # ids that end an answer, the trained one first
    begins: bool  # does the tokenizer put its BOS before a text?
    ends: bool  # and its EOS after it?
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    prefix: bool = False  # a blank before the first word?


def read(path: str, tokenizer: Any, generation_config: Any = None) -> Vocabulary:
    """A tokenizer's files as what GGUF says of it.

    Raises:
        ConfigError: for one that llama.cpp would not read as transformers does.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = core["model"], core.get("added_tokens") or []
    byte_level = any(step["type"] == "ByteLevel" for step in _steps(core.get("pre_tokenizer"), "pretokenizers"))
    if model["type"] != "BPE" or not (byte_level or model.get("byte_fallback")):
        raise ConfigError(
            f"the tokenizer of {path} is of the kind {model['type']}{'' if byte_level else ' without bytes'}; GGUF is "
            "written of byte-level BPE and of sentencepiece's BPE"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(f"the tokenizer of {path} marks pieces inside of words; {OTHERWISE}")
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise ConfigError(f"the tokenizer of {path}: {token['content']!r} takes blanks beside it; {OTHERWISE}")
    stops = chat.stop_ids(tokenizer, generation_config)
    begins, ends = _around(path, tokenizer)
    tokens, types = _tokens(tokenizer, added, byte_level)
    found = Vocabulary("gpt2" if byte_level else "llama", "default", tokens, types, stops, begins, ends)
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if byte_level:
        found.cutting, found.merges = _cutting(path, core), [" ".join(pair) for pair in pairs]
    else:
        found.prefix, found.scores = _prefix(path, core), _scores(tokens, types, pairs)
        _check_behind(path, tokenizer, found)
    return found


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, sequences taken apart."""
    if part is None:
        return []
    return [one for step in part[inner] for one in _steps(step, inner)] if part["type"] == "Sequence" else [part]


def _cutting(path: str, core: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts text into words."""
    changes = [step["type"] for step in _steps(core.get("normalizer"), "normalizers")]
    steps = tuple(_step(step) for step in _steps(core["pre_tokenizer"], "pretokenizers"))
    name = CUTTINGS.get(steps, {}).get(bool(core["model"].get("ignore_merges")))
    if name is None or changes not in ([], ["NFC"]):  # llama.cpp composes no characters, and most text is composed
        known = ", ".join(one for names in CUTTINGS.values() for one in names.values())
        raise ConfigError(
            f"the tokenizer of {path} cuts text into words as none does that is known by name in llama.cpp ({known}); "
            f"{OTHERWISE}"
        )
    return name


def _step(step: dict[str, Any]) -> tuple[Any, ...]:
    if step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
        return ("bytes", step.get("use_regex", True))
    if step["type"] == "Digits":
        return ("digits", step["individual_digits"])
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
        return ("split", step["pattern"].get("Regex"))
    return (step["type"],)


def _prefix(path: str, core: dict[str, Any]) -> bool:
    """Does a tokenizer of sentencepiece's kind put a blank before the first word?"""
    changes = [(step["type"], step.get("prepend"), step.get("content")) for step in
               _steps(core.get("normalizer"), "normalizers")]  # fmt: skip
    cuts = _steps(core.get("pre_tokenizer"), "pretokenizers")
    blanks = ("Replace", None, BLANK)
    if len(cuts) == 1 and not changes and cuts[0]["type"] == "Metaspace" and not cuts[0].get("split"):
        return cuts[0]["prepend_scheme"] != "never"
    idle = not cuts or [(c["type"], c.get("pattern")) for c in cuts] == [("Split", {"String": " "})]  # none are left
    if idle and changes == [("Prepend", BLANK, None), blanks]:
        return True
    if idle and changes == [blanks]:
        return False
    raise ConfigError(f"the tokenizer of {path} changes text before it cuts it, other than blanks; {OTHERWISE}")


def _check_behind(path: str, tokenizer: Any, found: Vocabulary) -> None:
    """Where llama.cpp puts a blank before the first word, it puts one behind every special token as well: is that what
    the tokenizer does, or are there none in a conversation?"""
    text = chat.render(tokenizer, [{"role": "user", "content": "a"}], generation_prompt=True)
    special = {number for number, kind in enumerate(found.types) if kind == CONTROL}
    used = special & {*tokenizer(text, add_special_tokens=False)["input_ids"]}
    behind = [
        tokenizer(f"{found.tokens[number]}a", add_special_tokens=False)["input_ids"][1] for number in sorted(used)
    ]
    if found.prefix and not all(found.tokens[number].startswith(BLANK) for number in behind):
        raise ConfigError(
            f"the tokenizer of {path} puts no blank behind the special tokens of a conversation, where llama.cpp puts "
            f"one; {OTHERWISE}"
        )


def _around(path: str, tokenizer: Any) -> tuple[bool, bool]:
    """Does it put BOS before a text, and EOS behind?"""
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for begins in (False, True):
        for ends in (False, True):
            before, after = [tokenizer.bos_token_id] * begins, [tokenizer.eos_token_id] * ends
            if full == [*before, *bare, *after]:
                return begins, ends
    raise ConfigError(f"the tokenizer of {path} puts more around a text than its BOS and its EOS; {OTHERWISE}")


def _tokens(tokenizer: Any, added: list[dict[str, Any]], byte_level: bool) -> tuple[list[str], list[int]]:
    """Every token by its id, and its type; ids without a token are filled up."""
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    special = {token["id"]: token["special"] for token in added}
    ids = chat_ids(tokenizer)
    tokens, types = [], []
    for number in range(max(names) + 1):
        token = names.get(number)
        kind = NORMAL
        if token is None:
            token, kind = filler(number), UNUSED
        elif not byte_level and number == tokenizer.unk_token_id:
            kind = UNKNOWN
        elif special.get(number) or number in ids:
            kind = CONTROL
        elif number in special:
            token, kind = token if byte_level else token.replace(BLANK, " "), USER_DEFINED
        elif not byte_level and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kind = BYTE
        tokens.append(token)
        types.append(kind)
    return tokens, types


def chat_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that stand for no words."""
    return {number for number in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            if number is not None}  # fmt: skip


def filler(number: int) -> str:
    """The name of a row that no token has, as llama.cpp's own converter gives it."""
    return f"[PAD{number}]"


def _scores(tokens: list[str], types: list[int], pairs: list[Any]) -> list[float]:
    """Of each token, the higher the sooner it is joined: by the first merge that makes it, then what no merge makes."""
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        first.setdefault(left + right, rank)
    return [
        -float(first.get(token, len(pairs) + number)) if kind == NORMAL else 0.0
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
    ]


def write(writer: Any, found: Vocabulary, tokenizer: Any, rows: int) -> None:
    """Say it to a GGUF writer. `rows`: of the embedding, which may have more than there are tokens."""
    spare = range(len(found.tokens), rows)
    writer.add_tokenizer_model(found.kind)
    writer.add_tokenizer_pre(found.cutting)
    writer.add_token_list([*found.tokens, *map(filler, spare)])
    writer.add_token_types([*found.types, *[UNUSED] * len(spare)])
    if found.kind == "gpt2":
        writer.add_token_merges(found.merges)
    else:
        writer.add_token_scores([*found.scores, *[-1e4] * len(spare)])
        writer.add_add_space_prefix(found.prefix)
    for name, number in (
        ("bos", tokenizer.bos_token_id), ("unk", tokenizer.unk_token_id), ("pad", tokenizer.pad_token_id),
        *zip(("eos", "eot", "eom"), found.stops, strict=False),
    ):  # fmt: skip
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(found.begins)
    writer.add_add_eos_token(found.ends)
    writer.add_chat_template(tokenizer.chat_template)
