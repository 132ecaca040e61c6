"""Numbers worked out by hand: packing, intervals, baselines, log-probabilities, ranks, the launch's bookkeeping."""

from __future__ import annotations

import math
import random

import pytest
import torch
from conftest import make_checkpoint
from datasets import Dataset

from align import stats
from align.models import generate, heads
from align.nano import rank
from align.run import launch
from align.run.errors import RunError
from align.train import pretrain, reward
from align.train.dpo import check_first_margin


def test_pack_restarts_positions_at_every_document():
    """Documents of 3, 2 and 4 tokens in blocks of 4: [a a a b][b c c c]; the last token of c is left over."""
    blocks = list(pretrain.pack([[1, 2, 3], [4, 5], [6, 7, 8, 9]], 4))
    assert [b["input_ids"] for b in blocks] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [b["position_ids"] for b in blocks] == [[0, 1, 2, 0], [0, 0, 1, 2]]
    labels = pretrain.collate(blocks)["labels"].tolist()
    assert labels == [[-100, 2, 3, -100], [-100, -100, 7, 8]]


def test_packed_documents_do_not_see_each_other(tmp_path):
    """The packed loss is the token-weighted mean of the documents' own losses, to rounding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_checkpoint(tmp_path / "m")).eval()
    generator = random.Random(0)
    documents = [[generator.randrange(3, 200) for _ in range(n)] for n in (5, 9, 2, 16)]
    batch = pretrain.collate(list(pretrain.pack(documents, 32)))
    packed = model(**batch).loss.item()
    total = sum(
        model(input_ids=torch.tensor([d]), labels=torch.tensor([d])).loss.item() * (len(d) - 1) for d in documents
    )
    assert packed == pytest.approx(total / sum(len(d) - 1 for d in documents), abs=1e-5)
    other = [[3] * len(documents[0]), *documents[1:]]
    changed = model(**pretrain.collate(list(pretrain.pack(other, 32)))).logits
    torch.testing.assert_close(model(**batch).logits[:, 5:], changed[:, 5:])


def test_bits_per_byte():
    """ln 4 nats for each of 3 predicted tokens is 6 bits; over 12 bytes that is half a bit a byte."""
    rows = [{"input_ids": [4, 1, 2, 3], "position_ids": [0, 1, 2, 3]}]
    metrics = pretrain.text_metrics(math.log(4), rows, 12)
    assert metrics["bits_per_byte"] == pytest.approx(0.5) and metrics["perplexity"] == pytest.approx(4)


def test_wilson_interval():
    """8 of 10 at z = 1.96: centre (0.8 + 0.19208)/1.38416 = 0.71674, half width 0.22658 (Wilson 1927)."""
    low, high = stats.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert stats.wilson(0, 0) == (0.0, 1.0)


def test_length_baseline_learns_its_direction_from_the_training_pairs():
    def rows(*lengths):
        return Dataset.from_list([{"chosen_ids": [0] * a, "rejected_ids": [0] * b} for a, b in lengths])

    assert reward.length_baseline(rows((1, 2), (1, 3)), rows((1, 2), (2, 1), (2, 2))) == 0.5
    assert reward.length_baseline(rows((3, 2)), rows((1, 2), (2, 1), (5, 1), (2, 1))) == 0.75


def test_ranks_and_ties():
    assert rank.ranks([0.5, 2.0, 0.5]) == [2, 1, 2]
    assert rank.ranks([0.5, 2.0, 0.4, -3.0], 0.2) == [2, 1, 2, 4]


def test_the_labeler_follows_bradley_and_terry():
    """Gold 1 against -1 at temperature 1: the better one wins in sigmoid(2) = 88.1 % of the comparisons."""
    rng = random.Random(0)
    wins = sum(a > b for a, b in (rank.perceived([1.0, -1.0], 1.0, rng) for _ in range(20000)))
    assert wins / 20000 == pytest.approx(1 / (1 + math.exp(-2)), abs=0.01)
    assert rank.perceived([1.0, -1.0], 0.0, rng) == [1.0, -1.0]


def test_dpo_must_start_at_margin_zero():
    check_first_margin(1e-5)
    with pytest.raises(RunError, match="differ before the first step"):
        check_first_margin(0.3)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    from align.models.checkpoints import load_tokenizer, load_trained

    folder = str(make_checkpoint(tmp_path_factory.mktemp("frozen") / "m"))
    tokenizer = load_tokenizer(folder)
    return load_trained(folder, tokenizer), tokenizer


def test_log_probabilities_do_not_depend_on_padding(frozen):
    model, tokenizer = frozen
    prompts, tails = [[5, 6, 7], [8], [9] * 12], [[10, 11], [12, 13, 14], [15]]
    together = generate.completion_logps(model, prompts, tails, pad_id=tokenizer.pad_token_id)
    for i in range(3):
        alone = generate.completion_logps(model, prompts[i : i + 1], tails[i : i + 1], pad_id=tokenizer.pad_token_id)
        assert together[i].item() == pytest.approx(alone[0].item(), abs=1e-4)
        ids = torch.tensor([prompts[i] + tails[i]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        assert alone[0].item() == pytest.approx(logps[len(prompts[i]) - 1 :].sum().item(), abs=1e-4)


def test_sampling_is_the_same_whoever_does_it(frozen):
    """Two processes, or one that goes on after an interruption, sample what one process would."""
    model, tokenizer = frozen
    prompts = [[5 + i % 7] * (1 + i % 4) for i in range(23)]

    def sample(**kwargs):
        found = generate.complete(
            model, tokenizer, prompts, max_new_tokens=5, temperature=1.0, per_prompt=2, batch_size=4, seed=3, **kwargs
        )
        return {index: [c.ids for c in completions] for index, completions in found}

    whole = sample()
    assert sorted(whole) == list(range(23)) and all(len(c) == 2 for c in whole.values())
    assert {**sample(share=(0, 2)), **sample(share=(1, 2))} == whole
    half = dict(list(sample().items())[:8])
    assert {**half, **sample(skip=set(half))} == whole


def test_scores_do_not_depend_on_the_batch(world):
    """Traps d1 and d2: the score is read at the last real token, whatever the padding and the batch size."""
    from align.models.checkpoints import load_tokenizer, load_trained

    tokenizer = load_tokenizer(str(world / "rm"))
    model = load_trained(str(world / "rm"), tokenizer, reward_model=True)
    rows = [[5, 6, 7, 8], [9, 10], [11] * 9]
    together = heads.scores(model, rows, pad_id=tokenizer.pad_token_id)
    alone = [heads.scores(model, [row], pad_id=tokenizer.pad_token_id).item() for row in rows]
    assert together.tolist() == pytest.approx(alone, abs=1e-5) and len(set(alone)) == 3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, "single")),
        ({"WORLD_SIZE": "2"}, (2, "ddp")),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, (2, "zero3")),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, (2, "fsdp2")),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, (0, "ddp")),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, (1, "single")),
    ],
)
def test_what_the_launcher_was_asked_for(environment, expected):
    assert launch.asked(environment) == expected
