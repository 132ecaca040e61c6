"""Xu et al.'s small table: who moves probability to responses that no pair is about."""

import outside
import torch


def test_dpo_raises_responses_outside_the_pairs_and_ppo_does_not():
    """PPO raises none where its reward model says nothing of them, and some where it guesses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rises = [outside.run(seed)["rise"] for seed in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert max(rise["ppo"] for rise in rises) < 0
    assert sum(rise["dpo"] > 0.1 for rise in rises) >= 2
    assert sum(rise["ppo_network"] > 0.1 for rise in rises) >= 2


def test_the_pairs_cover_the_best_response_and_two_others_at_most():
    covered, (prompts, winners, losers) = outside.world(0)
    assert covered.diagonal().all() and covered.sum(1).max() <= 3
    assert covered[prompts, winners].all() and covered[prompts, losers].all() and (winners != losers).all()
    assert all(
        (winner == prompt)
        for prompt, winner, loser in zip(prompts, winners, losers, strict=True)
        if prompt in (winner, loser)
    )


def test_scores_of_what_was_never_compared_stay_at_zero():
    covered, pairs = outside.world(0)
    table = torch.zeros(outside.P, outside.R, requires_grad=True)
    scores = outside.fitted(lambda: table, [table], pairs, 1e-3)
    assert (scores[~covered] == 0).all() and (scores.diagonal() > 0).all()
