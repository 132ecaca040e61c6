"""A text-classification checkpoint as a rule: drop what it is sure of, send what it is unsure of to people.

B windows of a batch, T tokens of a window, L labels. A long text is scored in windows of T tokens, of which each
shares an eighth with the next; the worst window decides, and its characters are what a reviewer sees.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from align.clean.rules.ruling import KEEP, Ruling
from align.run.errors import ConfigError, RunError
from align.run.received import permission

WINDOW = (
    512  # tokens at most: a short bad passage drowns in a longer window, and attention's cost grows with its square
)
PIECE = 100_000  # characters that are tokenised at once, so that memory does not grow with a 100 MB line
OFFSET = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "data2vec-text"}
# What one text can raise in a tokenizer or a model: lone surrogates and non-texts (TypeError, UnicodeError, which is a
# ValueError), ids outside the vocabulary (IndexError, KeyError), too long for the model or for memory (RuntimeError,
# torch's and CUDA's own; OverflowError). Another text is not to pay for it.
FAILURES = (TypeError, ValueError, IndexError, KeyError, RuntimeError, OverflowError)
ALL_FAIL = 16  # texts in a row from the beginning that fail: then it is the checkpoint, not the texts


class Classifier:
    """`rule` on texts by one label of a checkpoint's head."""

    def __init__(
        self,
        path: str,
        *,
        label: str | int | None = None,
        threshold: float = 0.5,
        review: tuple[float, float] | None = None,
        batch_size: int = 32,
        window: int = WINDOW,
    ):
        """
        Args:
            path: a checkpoint with a classification head: a folder or a hub id.
            label: which of its labels is unwanted, by name or number; may be left out where it has one.
            threshold: score from which a document is dropped: a probability, or, for a head with one raw score
                (regression), that score.
            review: scores from low to high go to people instead; it must hold the threshold.
            batch_size: windows scored together.
            window: tokens of a window; less where the model takes less.

        Raises:
            ConfigError: for a checkpoint without a head, an unknown label, an impossible band: before any document.
        """
        self.low, self.high = _band(threshold, review)
        check(path, label, threshold=threshold, review=review)
        self.path, self.threshold, self.batch_size = path, threshold, batch_size
        self.tokenizer, self.model = _load(path)
        self.label = _label(self.model.config, label, path)
        self.name = str(self.model.config.id2label[self.label])
        self.window = _window(self.model.config, self.tokenizer, window)
        self.failures: Counter[str] = Counter()  # texts that could not be scored, by reason
        self.scored = 0

    def rule(self, texts: list[str]) -> list[Ruling | None]:
        """A ruling for each text, in order; None where the tokenizer or the model failed on it (see `failures`).

        Raises:
            RunError: where the first texts fail one and all.
        """
        windows: list[tuple[int, int, int, list[int]]] = []  # text, start, end, ids
        failed: set[int] = set()
        for number, text in enumerate(texts):
            try:
                windows += ((number, *window) for window in self._windows(text))
            except FAILURES as error:
                failed.add(number)
                self._fail(error)
        windows.sort(key=lambda w: len(w[3]))  # alike lengths together: least padding
        worst: dict[int, tuple[float, int, int]] = {}
        for at in range(0, len(windows), self.batch_size):
            batch = windows[at : at + self.batch_size]
            for (number, start, end, _), score in zip(batch, self._try(batch), strict=True):
                if isinstance(score, Exception):
                    if number not in failed:
                        failed.add(number)
                        self._fail(score)
                elif number not in worst or (-score, start) < (-worst[number][0], worst[number][1]):
                    worst[number] = (score, start, end)
        self.scored += len(texts) - len(failed)
        if not self.scored and sum(self.failures.values()) >= ALL_FAIL:
            raise RunError(f"the classifier {self.path} fails on every document: {self.failures.most_common(1)[0][0]}")
        return [None if n in failed else self._ruling(worst[n]) if n in worst else KEEP for n in range(len(texts))]

    def _ruling(self, worst: tuple[float, int, int]) -> Ruling:
        score, start, end = worst
        reason = f"classifier_{re.sub(r'[^a-z0-9]+', '_', self.name.lower()).strip('_')}"
        banded = self.low < self.high
        if banded and self.low <= score <= self.high:
            detail = f"“{self.name}” {score:.3f}, unsure between {self.low:g} and {self.high:g}"
            return Ruling("review", reason, detail, ((start, end),), score)
        if score >= self.high:
            return Ruling("drop", reason, f"“{self.name}” {score:.3f}, at most {self.high:g}", ((start, end),), score)
        return Ruling("keep", score=score)

    def _fail(self, error: Exception) -> None:
        text = (str(error).splitlines() or [""])[0]
        self.failures[f"{type(error).__name__}: {text}"[:160]] += 1

    def _windows(self, text: str) -> Iterator[tuple[int, int, list[int]]]:
        """Windows of a text: `(start, end, ids)` in characters, ids with the special tokens. None for an empty text."""
        if not isinstance(text, str):
            raise TypeError(f"expected text, got {type(text).__name__}")
        at = 0
        while at < len(text):
            piece = text[at : at + PIECE]
            if at + PIECE < len(text) and (space := max(piece.rfind(" "), piece.rfind("\n"))) > PIECE // 2:
                piece = piece[: space + 1]
            encoded = self.tokenizer(
                piece, truncation=True, max_length=self.window, stride=self.window // 8,
                return_overflowing_tokens=True, return_offsets_mapping=True, return_attention_mask=False,
            )  # fmt: skip
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                ends = [pair for pair in offsets if pair[1] > pair[0]]
                if ends:
                    yield at + ends[0][0], at + ends[-1][1], ids
            at += len(piece)

    def _try(self, batch: list[tuple[int, int, int, list[int]]]) -> list[float | Exception]:
        """Scores of a batch. Where it fails, each window is tried by itself, and costs only its own text."""
        ids = [window[3] for window in batch]
        try:
            scores: list[float | Exception] = list(self._scores(ids))
        except FAILURES as error:
            scores = [error] if len(ids) == 1 else [self._try([window])[0] for window in batch]
        return [
            ValueError("the score is not a number") if isinstance(score, float) and math.isnan(score) else score
            for score in scores
        ]

    def _scores(self, ids: list[list[int]]) -> list[float]:
        """Scores of the label for B windows of token ids. [B]"""
        import torch

        device = self.model.device
        longest = max(map(len, ids))
        left = self.tokenizer.padding_side == "left"
        rows = torch.full((len(ids), longest), self.tokenizer.pad_token_id)  # [B, T]; not tokenizer.pad: slow
        mask = torch.zeros_like(rows)
        for row, found in enumerate(ids):
            at = longest - len(found) if left else 0
            rows[row, at : at + len(found)] = torch.tensor(found)
            mask[row, at : at + len(found)] = 1
        with torch.inference_mode():
            logits = self.model(input_ids=rows.to(device), attention_mask=mask.to(device)).logits.float()  # [B, L]
        config = self.model.config
        if config.num_labels == 1 and config.problem_type in (None, "regression"):
            return logits[:, 0].tolist()
        several = config.problem_type == "multi_label_classification" or config.num_labels == 1
        return (logits.sigmoid() if several else logits.softmax(-1))[:, self.label].tolist()


def check(
    path: str,
    label: str | int | None = None,
    *,
    threshold: float = 0.5,
    review: tuple[float, float] | None = None,
) -> None:
    """Look at a checkpoint's files, before anything is loaded and any document is read.

    Raises:
        ConfigError: for a folder without a model, a tokenizer or a classification head; for an unknown label; for a
            band that does not hold the threshold. (Weights that lack the head are found when they are loaded.)
    """
    _band(threshold, review)
    from transformers import AutoConfig

    from align.models import adapters, checkpoints

    checkpoints.check(path)
    if adapters.is_adapter(path):
        raise ConfigError(
            f"classifier {path} is an adapter: merge it first (merge_and_unload(), then save_pretrained) and name that"
        )
    try:
        config = AutoConfig.from_pretrained(path, **permission.code(path))
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"classifier {path} cannot be loaded: {permission.reason(error, flag=False)}") from error
    kinds = config.architectures or []
    if not any("SequenceClassification" in kind for kind in kinds):
        raise ConfigError(
            f"classifier {path} has no classification head (it is {', '.join(kinds) or 'of no stated kind'}): name a "
            "text-classification checkpoint, or train one with AutoModelForSequenceClassification"
        )
    _label(config, label, path)


def _load(path: str) -> tuple[Any, Any]:
    """Tokenizer and model, frozen, on the GPU where there is one. A head that is not in the weights is refused."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from align.run.device import has_gpu

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, **permission.code(path))
            model, told = AutoModelForSequenceClassification.from_pretrained(
                path, output_loading_info=True, dtype=torch.float32, **permission.code(path)
            )
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"classifier {path} cannot be loaded: {permission.reason(error, flag=False)}") from error
    missing = sorted({*told["missing_keys"], *(str(key[0]) for key in told["mismatched_keys"])})
    if missing:
        raise ConfigError(
            f"classifier {path} lacks weights ({', '.join(missing[:3])}): they would be random. Name a trained "
            "text-classification checkpoint"
        )
    if not tokenizer.is_fast:
        raise ConfigError(f"classifier {path} has no fast tokenizer (tokenizer.json), which says where a window stands")
    if tokenizer.pad_token is None:
        if model.config.pad_token_id is None and tokenizer.eos_token is None:
            raise ConfigError(f"classifier {path} has no pad token; set tokenizer.pad_token and save it there")
        pad = model.config.pad_token_id
        tokenizer.pad_token = tokenizer.eos_token if pad is None else tokenizer.convert_ids_to_tokens(pad)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    device = torch.accelerator.current_accelerator() if has_gpu() else "cpu"
    return tokenizer, model.to(device).eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's report on missing weights (ours is an error) and its bar."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _band(threshold: float, review: tuple[float, float] | None) -> tuple[float, float]:
    """The scores that go to people, low to high; both are the threshold where none do."""
    low, high = review or (threshold, threshold)
    if not low <= threshold <= high:
        raise ConfigError(
            f"classifier: the review band {low:g} to {high:g} must hold the threshold {threshold:g}, for example "
            f"{threshold - 0.1:.2g} to {threshold + 0.1:.2g}"
        )
    return float(low), float(high)


def _label(config: Any, label: str | int | None, path: str) -> int:
    """The number of a label given by name or number."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    if label is None and len(names) == 1:
        return 0
    for number, name in names.items():
        if str(label).lower() in (name.lower(), str(number)):
            return number
    listed = ", ".join(f"{name} ({number})" for number, name in sorted(names.items()))
    asked = "which label is unwanted?" if label is None else f"there is no label {label!r}."
    raise ConfigError(f"classifier {path}: {asked} Its labels are {listed}")


def _window(config: Any, tokenizer: Any, asked: int) -> int:
    """Tokens of a window: what was asked for, or what model and tokenizer take."""
    positions = getattr(config, "max_position_embeddings", None) or asked
    if config.model_type in OFFSET:  # their positions begin behind the pad token's
        positions -= (config.pad_token_id or 0) + 1
    return min(asked, int(positions), int(min(tokenizer.model_max_length, 1 << 30)))
