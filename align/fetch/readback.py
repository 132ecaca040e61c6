"""Does a GGUF file say what the model says? It is read again, and asked the same, in logits and in greedy answers.

Both models go over the same texts: a prompt and the first model's own greedy answer to it. Where the second would go on
with another token, that is a tie or it is another model: how far the first one's logits lie apart there is counted.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.data import chat
from align.fetch import converting
from align.fetch.vocabulary import Vocabulary
from align.run.errors import FOREIGN, RunError
from align.run.received import permission

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "In 2026, 3.14 of 1,000 people said: \"It's not what we'd do!\"\n\n\tfor i in range(10):\n        print(i)",
    "Ärger über Öl, naïve café, 東京で。",
)
ASKED = [{"role": "user", "content": "What is the capital of France? Answer in a word."}]
ANSWER = 16  # tokens of each greedy answer
# How far apart logits may be, as a share of the largest, and the KL of next tokens in nats, by rounding alone
APART = {"f16": 0.005, "q8_0": 0.1}
KL = {"f16": 1e-4, "q8_0": 0.02}
# What llama.cpp reads of the file and transformers does not: it comes from the checkpoint when the two are compared
NOT_READ = (
    "head_dim", "rope_parameters", "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping",
    "final_logit_softcapping",
)  # fmt: skip


@dataclass
class Probed:
    """What was asked, as ids, and what the model said."""

    ids: list[int]  # the prompt and its greedy answer
    prompt: int  # tokens of the prompt
    logits: Any  # [T, V], fp32


@dataclass
class Likeness:
    """How far a file is from its model."""

    apart: float  # most that two logits differ
    largest: float  # of the model's own logits
    kl: float  # of the file's next tokens from the model's, nats, mean over tokens
    same: int  # greedy tokens that are the same
    of: int
    gap: float  # most that the model prefers its own token where the file's is another one
    not_read: list[str]  # settings that the comparison took from the checkpoint

    def __str__(self) -> str:
        lent = f" (transformers reads no {', '.join(self.not_read)} of it: taken from the checkpoint)"
        return (
            f"logits within {self.apart:.2g} of {self.largest:.3g}, KL {self.kl:.1e} nats a token, {self.same} of "
            f"{self.of} greedy tokens the same{lent if self.not_read else ''}"
        )

    def problem(self, kind: str) -> str | None:
        """Why the file is another model; None where rounding to `kind` explains all."""
        most = APART[kind] * self.largest
        if not self.apart <= most:
            return f"its logits are {self.apart:.3g} apart, where rounding makes {most:.3g}"
        if not self.kl <= KL[kind]:
            return f"its next tokens are {self.kl:.3g} nats away, where rounding makes {KL[kind]:.3g}"
        if self.gap > 2 * most:
            return f"its greedy answers differ at tokens that the model prefers by {self.gap:.3g}"
        return None


def texts(tokenizer: Any) -> list[list[int]]:
    """The prompts as ids: plain texts, and a question as the chat template writes it."""
    asked = chat.render(tokenizer, ASKED, generation_prompt=True)
    return [tokenizer(text)["input_ids"] for text in TEXTS] + [tokenizer(asked, add_special_tokens=False)["input_ids"]]


def ask(model: Any, tokenizer: Any, most: int) -> list[Probed]:
    """Greedy answers of a model, and its logits over prompt and answer. `most`: tokens that it can read."""
    found = []
    for prompt in texts(tokenizer):
        prompt = prompt[: max(1, most - ANSWER)]
        ids = [*prompt]
        for _ in range(min(ANSWER, most - len(prompt))):
            ids.append(int(logits(model, ids)[-1].argmax()))
        found.append(Probed(ids, len(prompt), logits(model, ids)))
    return found


def logits(model: Any, ids: list[int]) -> Any:
    """Of a text, [T, V], fp32."""
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].float()


def compare(file: Path, settings: dict[str, Any], tokenizer: Any, found: Vocabulary, asked: list[Probed]) -> Likeness:
    """Read a file by transformers, its tokenizer too, and ask it the same.

    Raises:
        RunError: if transformers cannot read it, or reads text, template or stop otherwise.
    """
    try:
        with converting.quietly(), converting.alone(file) as (folder, name):
            model, words, lent = _read(folder, name, settings)
    except (OSError, NotImplementedError, *FOREIGN) as error:
        raise RunError(f"transformers cannot read the file that was written ({permission.reason(error)})") from error
    _check_words(tokenizer, words, found)
    apart, largest, kl, same, of, gap = 0.0, 0.0, 0.0, 0, 0, 0.0
    for one in asked:
        theirs = logits(model, one.ids)[:, : one.logits.shape[-1]]
        ours = one.logits[:, : theirs.shape[-1]]
        apart, largest = max(apart, (ours - theirs).abs().max().item()), max(largest, ours.abs().max().item())
        p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
        kl += (p.exp() * (p - q)).sum(-1).mean().item() / len(asked)
        for at in range(one.prompt - 1, len(one.ids) - 1):
            mine, other = one.ids[at + 1], int(theirs[at].argmax())
            same, of = same + (mine == other), of + 1
            gap = max(gap, (ours[at, mine] - ours[at, other]).item())
    return Likeness(apart, largest, max(kl, 0.0), same, of, gap, lent)


def _read(folder: str, name: str, settings: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """Model and tokenizer of a file, and which settings the model has from the checkpoint instead."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder, gguf_file=name, **permission.code(folder))
    config = AutoConfig.from_pretrained(folder, gguf_file=name, **permission.code(folder))
    read, lent = config.to_dict(), []
    for key in NOT_READ:
        if key in settings and not _alike(settings[key], read.get(key)):
            setattr(config, key, settings[key])
            lent.append(key)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, config=config, dtype=torch.float32, output_loading_info=True, **permission.code(folder)
    )
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise RunError(
            f"of the file that was written transformers misses {len(lacking)} weights, the first {lacking[0]}"
        )
    return model, words, lent


def _alike(one: Any, other: Any) -> bool:
    """Two settings, numbers to what fp32 holds."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= 1e-6 * max(1.0, abs(one))
    return one == other


def _check_words(tokenizer: Any, words: Any, found: Vocabulary) -> None:
    for text in (*TEXTS, chat.render(tokenizer, ASKED, generation_prompt=True)):
        if tokenizer(text)["input_ids"] != words(text)["input_ids"]:
            raise RunError(
                f"the file that was written is another tokenizer to transformers: it cuts {text[:40]!r} otherwise"
            )
    if words.chat_template != tokenizer.chat_template:
        raise RunError("the file that was written has another chat template")
    if words.eos_token_id != found.stops[0]:
        raise RunError("the file that was written ends an answer with another token")


def by_llama_cpp(file: Path, tokenizer: Any, asked: list[Probed], kind: str) -> str:
    """What llama.cpp itself answers, where llama-cpp-python is installed; in words.

    Raises:
        RunError: if it reads a text otherwise, or answers otherwise where the model is sure.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed, so llama.cpp itself was not asked"
    from llama_cpp import Llama

    try:
        engine = Llama(
            model_path=str(file), n_ctx=max(len(one.ids) for one in asked) + 1, n_gpu_layers=0, verbose=False
        )
    except FOREIGN as error:
        raise RunError(f"llama.cpp cannot read the file that was written ({permission.reason(error)})") from error
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(engine.tokenize(text.encode(), add_bos=False, special=True)) != ids:
            raise RunError(f"llama.cpp cuts {text[:40]!r} otherwise than the tokenizer; the file was not kept")
    same = of = 0
    for one in asked:
        answer = one.ids[one.prompt :]
        told = engine.generate(one.ids[: one.prompt], top_k=1, temp=0.0, repeat_penalty=1.0)
        for at, (mine, other) in enumerate(zip(answer, told, strict=False), start=one.prompt - 1):
            same, of = same + (mine == other), of + 1
            if mine != other:
                row = one.logits[at]
                gap, most = (row[mine] - row[other]).item(), APART[kind] * one.logits.abs().max().item()
                if gap > 2 * most:
                    raise RunError(f"llama.cpp answers otherwise, at a token that the model prefers by {gap:.3g}")
                break  # from here on the two are asked different things
    return f"llama.cpp: {same} of {of} greedy tokens the same"
