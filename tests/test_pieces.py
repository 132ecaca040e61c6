"""Log-probabilities in pieces, forward and backward, against autograd on whole logits; and in the place of TRL's."""

from __future__ import annotations

import pytest
import torch

from align.train import logits, pieces

ALL = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.fixture
def layer(monkeypatch):
    monkeypatch.setattr(pieces, "LOGITS_AT_ONCE", 70)  # two rows of 30 at once
    torch.manual_seed(0)
    hidden = torch.randn(17, 8, requires_grad=True)
    head = torch.nn.Linear(8, 30)
    return hidden, head, torch.randint(30, (17,))


def whole(z: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """All five outputs from whole logits."""
    logp = z.log_softmax(-1)
    picked = logp.gather(-1, targets[:, None]).squeeze(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return [picked, entropy, (2 * logp).logsumexp(-1), z.mean(-1), z.argmax(-1) == targets]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(layer, temperature, scale, cap, bias):
    hidden, head, targets = layer
    given = [hidden, head.weight, *([head.bias] if bias else [])]
    found = pieces.HeadLogps.apply(
        hidden, head.weight, head.bias if bias else None, targets, temperature, cap, scale, ALL
    )
    z = scale * torch.nn.functional.linear(hidden, head.weight, head.bias if bias else None)
    expected = whole((z if cap is None else cap * torch.tanh(z / cap)) / temperature, targets)
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain)
    slopes = torch.randn(2, 17)
    for weights in ((1, 0), (0, 1), (1, 1)):
        mine = torch.autograd.grad(
            sum(w * (s * x).sum() for w, s, x in zip(weights, slopes, found[:2], strict=True)), given, retain_graph=True
        )
        plain = torch.autograd.grad(
            sum(w * (s * x).sum() for w, s, x in zip(weights, slopes, expected[:2], strict=True)),
            given,
            retain_graph=True,
        )
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-4)
    assert not any(x.requires_grad for x in found[2:])


def test_only_what_is_asked_for_and_nothing_of_no_position(layer):
    hidden, head, targets = layer
    found = pieces.HeadLogps.apply(hidden, head.weight, None, targets)
    assert found[0] is not None and found[1:] == (None,) * 4
    nothing = pieces.HeadLogps.apply(hidden[:0], head.weight, None, targets[:0], 1.0, None, 1.0, ALL)
    (slope,) = torch.autograd.grad(nothing[0].sum(), [hidden])
    assert nothing[0].shape == (0,) and slope.abs().sum() == 0


def test_the_gradient_of_the_matrix_is_added_up_in_fp32(layer):
    """In bf16, one piece after the other, what is small beside the sum would be lost."""
    torch.manual_seed(1)
    hidden, weight = torch.randn(4000, 8), torch.nn.Parameter(torch.randn(30, 8))
    targets = torch.randint(30, (4000,))
    with torch.autocast("cpu", torch.bfloat16):
        logps, *_ = pieces.HeadLogps.apply(hidden, weight, None, targets)
    (mine,) = torch.autograd.grad(logps.sum(), [weight])
    z = torch.nn.functional.linear(hidden, weight)
    (plain,) = torch.autograd.grad(z.log_softmax(-1).gather(-1, targets[:, None]).sum(), [weight])
    assert mine.dtype == torch.float32 and (mine - plain).norm() < 0.01 * plain.norm()


@pytest.mark.skipif(not logits.fused(), reason="TRL before 1.15 keeps logits")
@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "gpt2"])
def test_in_the_place_of_trls_function(kind, monkeypatch):
    """A model's forward pass with TRL's fused head gives the same with ours, and looks at labelled positions only."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer import utils

    more = dict(gemma2=dict(final_logit_softcapping=3.0, head_dim=16), granite=dict(logits_scaling=4.0)).get(kind, {})
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                                  num_key_value_heads=1, vocab_size=50, **more)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(50, (3, 9))
    labels = ids.masked_fill(torch.rand(3, 9) < 0.5, -100)
    monkeypatch.setattr(
        utils,
        "_ChunkedLogProbFunction",
        getattr(utils._ChunkedLogProbFunction, "theirs", utils._ChunkedLogProbFunction),
    )
    monkeypatch.setattr(utils, "_use_triton", lambda _: False)
    utils.add_fused_lm_head(model, outputs=ALL)

    def run() -> tuple:
        model.zero_grad()
        out = model(input_ids=ids, labels=labels, fused_lm_head=True)
        out.loss.backward()
        return out, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    theirs, slopes = run()
    seen = []
    real = pieces._logits
    monkeypatch.setattr(
        pieces, "_logits", lambda ctx, hidden, *rest: (seen.append(len(hidden)), real(ctx, hidden, *rest))[1]
    )
    logits.lighten()
    assert isinstance(utils._ChunkedLogProbFunction, logits._OnCpu)
    ours, mine = run()
    assert sum(seen) == 2 * int((labels[:, 1:] != -100).sum()), "forward and backward, positions with a label"
    for name in ("loss", *ALL):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-4, msg=name)
    for one, other in zip(mine, slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
