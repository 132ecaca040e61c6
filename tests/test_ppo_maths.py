"""PPO's maths against numbers worked out by hand, and what must hold for any numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.ppo import maths
from align.train import pieces

FAR = 1e3  # what padding holds in these tests: anything that leaks is seen


def close(found, expected, **kw):
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(expected), atol=1e-5, rtol=1e-5, **kw)


def test_token_logps_of_even_logits():
    """Four equal logits: log p = -ln 4 and the entropy is ln 4, at any temperature."""
    head = torch.nn.Linear(2, 4, bias=False)
    torch.nn.init.zeros_(head.weight)
    logps, entropy = maths.token_logps(torch.randn(3, 2), torch.tensor([0, 1, 3]), head, temperature=0.5)
    close(logps, [-math.log(4)] * 3)
    close(entropy, [math.log(4)] * 3)


def test_token_logps_at_a_temperature():
    """Logits (ln 3, 0) at temperature 1: p = 3/4, 1/4. At temperature 1/2 logits double: p = 9/10, 1/10."""
    logits = torch.tensor([[math.log(3), 0.0]])
    for temperature, p in ((1.0, 0.75), (0.5, 0.9)):
        logps, entropy = maths.token_logps(logits, torch.tensor([0]), lambda x: x, temperature=temperature)
        close(logps, [math.log(p)])
        close(entropy, [-p * math.log(p) - (1 - p) * math.log(1 - p)])


@pytest.mark.parametrize("bare", [True, False])
def test_token_logps_in_pieces_is_autograd_at_once(monkeypatch, bare):
    """Values and gradients, for hidden states and matrix, by both ways and with several pieces."""
    for module in (maths, pieces):
        monkeypatch.setattr(module, "LOGITS_AT_ONCE", 70)
    torch.manual_seed(0)
    hidden, head = torch.randn(17, 8, requires_grad=True), torch.nn.Linear(8, 30, bias=False)
    targets, slope = torch.randint(30, (17,)), torch.randn(17)
    logps, _ = maths.token_logps(hidden, targets, head if bare else lambda h: head(h), temperature=0.7)
    found = torch.autograd.grad((logps * slope).sum(), [hidden, head.weight])
    plain = (head(hidden) / 0.7).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    expected = torch.autograd.grad((plain * slope).sum(), [hidden, head.weight])
    torch.testing.assert_close(logps, plain)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_kl_estimators():
    """logp = ln 1/2, reference ln 1/4: r = -ln 2, k1 = ln 2, k3 = 1/2 - 1 + ln 2."""
    logps, reference = torch.tensor([[math.log(0.5)]]), torch.tensor([[math.log(0.25)]])
    close(maths.kl_per_token(logps, reference, "k1"), [[math.log(2)]])
    close(maths.kl_per_token(logps, reference, "k3"), [[-0.5 + math.log(2)]])


def test_the_score_lands_on_the_last_real_token():
    """KL 1, 2, 3 at coefficient 0.1; two real tokens in the second row: -0.1, -0.2 + score, nothing on padding."""
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, FAR]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    rewards = maths.place_rewards(kl, torch.tensor([10.0, 20.0]), mask, 0.1)
    close(rewards, [[-0.1, -0.2, 9.7], [-0.1, 19.8, 0.0]])


def test_gae():
    """Values 1/2, reward 1 at the end, gamma 1, lambda 1/2, from the back:
    delta_2 = 1 - 1/2 = 1/2, A_2 = 1/2; delta_1 = 1/2 - 1/2 = 0, A_1 = 1/4; A_0 = 1/8. Returns A + 1/2."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.5, FAR]])
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    advantages, returns = maths.gae(rewards, values, mask, gamma=1.0, lam=0.5)
    close(advantages, [[0.125, 0.25, 0.5, 0.0]])
    close(returns, [[0.625, 0.75, 1.0, 0.0]])


def test_gae_discounts():
    """gamma 1/2, lambda 1, values 0, rewards 4 and 8: A_1 = 8, A_0 = 4 + 8/2 = 8."""
    advantages, _ = maths.gae(
        torch.tensor([[4.0, 8.0]]), torch.zeros(1, 2), torch.ones(1, 2).bool(), gamma=0.5, lam=1.0
    )
    close(advantages, [[8.0, 8.0]])


def test_whiten():
    """1, 2, 3: mean 2, variance (1 + 0 + 1) / 2 = 1. Without the shift the mean of 2 comes back."""
    x, mask = torch.tensor([[1.0, 2.0], [3.0, FAR]]), torch.tensor([[1, 1], [1, 0]]).bool()
    close(maths.whiten(x, mask), [[-1.0, 0.0], [1.0, 0.0]])
    close(maths.whiten(x, mask, shift_mean=False), [[1.0, 2.0], [3.0, 0.0]])


def test_whiten_over_processes():
    """Two processes that sum with each other whiten as one."""
    x, mask = torch.randn(4, 3), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    shares = []

    def record(sums):
        shares.append(sums.clone())
        return sums

    maths.whiten(x[2:], mask[2:], total=record)
    count_and_sum = shares[0]
    mean = (x * mask).sum() / mask.sum()
    square = ((x[2:] - mean) * mask[2:]).double().square().sum()
    calls = iter([count_and_sum, square])
    one = maths.whiten(x[:2], mask[:2], total=lambda sums: sums + next(calls))
    torch.testing.assert_close(one, maths.whiten(x, mask)[:2])


def test_policy_loss():
    """Ratio 3/2, eps 0.2. A = 1: max(-1.5, -1.2) = -1.2, the clip binds. A = -1: max(1.5, 1.2) = 1.5, it does not."""
    losses, clipped = maths.policy_loss(torch.full((2,), math.log(1.5)), torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2)
    close(losses, [-1.2, 1.5])
    assert clipped.tolist() == [True, False]


def test_value_loss():
    """V = 2, old 1, return 3, eps 0.2: clipped value 1.2; 1/2 max(1, 1.8^2 = 3.24) = 1.62. And V = 1.1: 1/2 1.9^2."""
    losses, clipped = maths.value_loss(torch.tensor([2.0, 1.1]), torch.ones(2), torch.full((2,), 3.0), 0.2)
    close(losses, [1.62, 1.805])
    assert clipped.tolist() == [True, False]


def test_the_kl_coefficient_adapts():
    """KL 12 for a target of 6: error clipped to 0.2; 512 episodes of 10,000: 0.1 (1 + 0.2 * 0.0512) = 0.101024.
    KL 5.7: error -0.05, 0.1 (1 - 0.00256)."""
    assert maths.next_kl_coef(0.1, 12, target=6, episodes=512, horizon=10_000) == pytest.approx(0.101024)
    assert maths.next_kl_coef(0.1, 5.7, target=6, episodes=512, horizon=10_000) == pytest.approx(0.099744)


def test_explained_variance():
    returns = torch.tensor([1.0, 3.0])
    assert maths.explained_variance(returns, returns) == 1
    assert maths.explained_variance(returns, torch.tensor([2.0, 2.0])) == 0
    assert maths.explained_variance(returns, torch.tensor([3.0, 1.0])) == -3  # residuals -2 and 2, variance 4 over 1


lengths = st.lists(st.integers(1, 6), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 4), st.integers(0, 1000))
def test_padding_changes_nothing(lengths, extra, seed):
    """More columns of padding, holding anything: the same rewards, advantages, returns, whitened advantages."""
    g = torch.Generator().manual_seed(seed)
    width = max(lengths)
    kl, values = torch.randn(len(lengths), width, generator=g), torch.randn(len(lengths), width, generator=g)
    scores = torch.randn(len(lengths), generator=g)

    def everything(kl, values, width):
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        rewards = maths.place_rewards(kl, scores, mask, 0.1)
        advantages, returns = maths.gae(rewards, values, mask, gamma=0.9, lam=0.8)
        return [x[mask] for x in (rewards, advantages, returns, maths.whiten(advantages, mask))]

    wide = [torch.cat([x, torch.full((len(lengths), extra), FAR)], 1) for x in (kl, values)]
    for one, other in zip(everything(kl, values, width), everything(*wide, width + extra), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(0, 1000))
def test_gamma_and_lambda_one_give_plain_returns(lengths, seed):
    """The return at t is the sum of the rewards from t on, whatever the values."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rewards, values = torch.randn(mask.shape, generator=g) * mask, torch.randn(mask.shape, generator=g)
    _, returns = maths.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    expected = rewards.flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, expected, atol=1e-4, rtol=1e-4)


def test_masked_positions_get_no_gradient():
    """Neither from the rewards' KL nor from the values that the advantages look at."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    kl, values = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    rewards = maths.place_rewards(kl, torch.ones(2), mask, 0.1)
    advantages, returns = maths.gae(rewards, values, mask, gamma=0.9, lam=0.9)
    (maths.whiten(advantages, mask).square().sum() + returns.sum()).backward()
    for x in (kl, values):
        assert (x.grad[~mask] == 0).all() and x.grad[mask].any()
