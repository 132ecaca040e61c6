"""Train a tokenizer with the `tokenizers` library, and say how well it fits a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from align.data import chat

BOS, EOS, PAD, UNK = "<|bos|>", "<|eos|>", "<|pad|>", "[UNK]"


@dataclass
class TokenizerConfig:
    """What the tokenizer recipe takes beside the data's arguments."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the tokenizer and its record."})
    tokenizer_type: Literal["bpe", "wordpiece"] = field(
        default="bpe", metadata={"help": "Byte-level BPE, or WordPiece."}
    )
    vocab_size: int = field(default=32000, metadata={"help": "Tokens in all, the special ones included."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "A .jinja file; the plain template by default."}
    )
    seed: int = field(default=0, metadata={"help": "Of the mixture, where there is one."})


def train(texts: list[str], args: TokenizerConfig, date: str | None = None) -> Any:
    """Train on `texts` and return a fast tokenizer with special tokens, template, and pad apart from eos."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, BOS, EOS]
    if args.tokenizer_type == "bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte, so that no text is unknown
        trainer: Any = trainers.BpeTrainer(
            vocab_size=args.vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        special.append(UNK)
        core = Tokenizer(models.WordPiece(unk_token=UNK))
        core.normalizer = normalizers.NFC()
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=args.vocab_size, special_tokens=special, show_progress=False)
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS,
        unk_token=UNK if args.tokenizer_type == "wordpiece" else None,
    )  # fmt: skip
    chat.set_up_tokenizer(tokenizer, args.chat_template_path, date=date)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id, tokenizer.special_tokens_map
    return tokenizer


def measure(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Fertility (tokens per whitespace-separated word) and bytes of UTF-8 per token, over `texts`."""
    some = (list(texts[at : at + 1_000]) for at in range(0, len(texts), 1_000))  # a column that is read when asked for
    tokens = sum(len(ids) for batch in some for ids in tokenizer(batch, add_special_tokens=False)["input_ids"])
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    return {
        "vocab_size": len(tokenizer),
        "fertility": tokens / max(words, 1),
        "bytes_per_token": size / max(tokens, 1),
        "texts": len(texts),
    }
