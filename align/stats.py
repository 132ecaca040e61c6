"""Statistics of the evaluation as pure functions: intervals, win rates, best-of-n, over-optimisation fits.

S seeds, N prompts, K completions per prompt. Every function is deterministic: the bootstrap draws from a seed of its
own. Student's t is scipy's, imported where it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Z95 = NormalDist().inv_cdf(0.975)
DRAWS = 2000  # of every bootstrap
ANY, POSITIVE, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 1.0)  # what a measure's values can be


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (None at both ends where there is none), and how many items it rests on.

    `prompts` is given where the items are of fewer prompts, and so are not independent.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    prompts: int | None = None

    def above(self, bound: float) -> bool:
        """Does the whole interval lie above `bound`?"""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Does the whole interval lie below `bound`?"""
        return self.high is not None and self.high < bound

    def as_dict(self) -> dict[str, Any]:
        """`{"value", "low", "high", "n"}` (and `prompts` where there is one), as JSON files hold it."""
        return {key: value for key, value in asdict(self).items() if key != "prompts" or value is not None}


def t95(freedom: int) -> float:
    """97.5 % point of Student's t with `freedom` degrees of freedom (at least 1): 12.71, 4.30, 3.18, … , 1.96."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def t90(freedom: int) -> float:
    """95 % point of Student's t with `freedom` degrees of freedom (at least 1): 6.31, 2.92, 2.35, … , 1.64."""
    from scipy.stats import t

    return float(t.ppf(0.95, freedom))


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927): `right` successes out of `n`, 95 % for z = 1.96."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(right: float, n: int) -> Estimate | None:
    """A proportion with Wilson's interval; None where there is nothing to count."""
    return Estimate(right / n, *wilson(right, n), n) if n else None


def mean(values: Any, *, seed: int = 0) -> Estimate | None:
    """Mean over items with a percentile bootstrap interval over them (Efron 1979). [N]; None where it is empty."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return None
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(array), (DRAWS, len(array)))
    low, high = np.quantile(array[picks].mean(1), (0.025, 0.975))
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def over_seeds(values: Any, *, within: tuple[float, float] = ANY, seed: int = 0) -> Estimate | None:
    """Mean over seeds and prompts, with a bootstrap interval over both.

    Each draw takes N prompts (the same for every seed: they are crossed) and S seeds. A few seeds resampled as they are
    vary too little: their deviations from the mean are widened by sqrt(S/(S-1)) and by t(S-1)/z, so that the seeds'
    part alone gives Student's interval. With one seed the interval is over prompts only.

    Args:
        values: [S, N], one row a seed. A prompt that has no value (NaN) for some seed is left out for all, and so is a
            seed that has none at all; `n` counts the prompts that are left.
        within: the bounds of what the values can be, and so of the interval: `ANY`, `POSITIVE`, `SHARE`.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    table = table[~np.isnan(table).all(1)]
    table = table[:, ~np.isnan(table).any(0)]
    if table.size == 0:
        return None
    seeds, prompts = table.shape
    rng = np.random.default_rng(seed)
    centre = float(table.mean())
    deviations = table.mean(1) - centre
    widen = math.sqrt(seeds / (seeds - 1)) * t95(seeds - 1) / Z95 if seeds > 1 else 0.0
    picks = rng.integers(0, prompts, (DRAWS, prompts))
    over_prompts = table.mean(0)[picks].mean(1)
    chosen = deviations[rng.integers(0, seeds, (DRAWS, seeds))].mean(1)
    low, high = np.quantile(over_prompts + widen * chosen, (0.025, 0.975))
    return Estimate(centre, max(float(low), within[0]), min(float(high), within[1]), prompts)


def prompts_needed(gap: float, variance: float, *, power: float = 0.8) -> int | None:
    """Prompts at which a difference of `gap`, with `variance` a prompt, is found at the 5 % level; None for no gap.

    n = (z_0.975 + z_power)^2 variance / gap^2. For two independent proportions, `variance` is p(1-p) + q(1-q).
    """
    if abs(gap) < 1e-9:
        return None
    z = Z95 + NormalDist().inv_cdf(power)
    return math.ceil(z * z * variance / gap**2)


def length_controlled(wins: Any, longer: Any, prompts: Any = None, *, seed: int = 0) -> Estimate | None:
    """Win rate that would be seen at equal lengths (Dubois et al. 2024, without their term for each prompt).

    A logistic regression of the win on tanh(d / sd(d)), d the difference in length; read off at d = 0. Ties count
    half. A small ridge keeps it finite where they are all alike. None where fewer than one pair in fifty is
    longer, or shorter: equal lengths would then be a guess beyond the data.

    Args:
        wins: [N], 1 for a win, 0.5 for a tie, 0 for a loss; NaN is left out.
        longer: [N], length of the completion less the other's, in tokens.
        prompts: [N], which prompt each is of (each its own by default). The bootstrap draws prompts with all that they
            have; `n` counts prompts.
    """
    y, d = np.asarray(wins, dtype=float).ravel(), np.asarray(longer, dtype=float).ravel()
    of = np.arange(len(y)) if prompts is None else np.asarray(prompts).ravel()
    y, d, of = y[~np.isnan(y)], d[~np.isnan(y)], of[~np.isnan(y)]
    if len(y) == 0 or (d.std() > 0 and min((d >= 0).mean(), (d <= 0).mean()) < 0.02):
        return None
    x = np.tanh(d / d.std()) if d.std() > 0 else np.zeros_like(d)
    rng = np.random.default_rng(seed)
    _, of = np.unique(of, return_inverse=True)
    size = int(of.max()) + 1
    weights = [np.bincount(pick, minlength=size)[of] for pick in rng.integers(0, size, (DRAWS // 10, size))]
    low, high = np.quantile([_at_equal_length(y, x, weight) for weight in weights], (0.025, 0.975))
    return Estimate(_at_equal_length(y, x, np.ones(len(y))), float(low), float(high), size)


def _at_equal_length(y: np.ndarray, x: np.ndarray, times: np.ndarray) -> float:
    """sigmoid(theta) of P(win) = sigmoid(theta + phi x), by Newton, small ridge; each row `times` over."""
    design = np.stack([np.ones_like(x), x], 1)
    weights = np.zeros(2)
    ridge = np.diag([0.5, 0.5])
    for _ in range(25):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (times * (y - p)) - ridge @ weights
        hessian = (design * (times * p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from what it samples from, in nats: log n - (n-1)/n (Stiennon et al. 2020, appendix G.3).

    Exact for a continuous score; an upper bound where completions repeat (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def best_of_n(scores: Any, values: Any, n: int) -> np.ndarray:
    """Expected value of the completion with the highest of n scores, prompt by prompt, from K >= n samples.

    The mean over all n-subsets of the K samples (Nakano et al. 2021, eq. 1): the sample of rank i from the top (0
    first) is the best of C(K-1-i, n-1) of the C(K, n) subsets. Samples with the same score share their weights.

    Args:
        scores: [N, K], what the best is chosen by.
        values: [N, K], what is averaged: the scores themselves, or a gold score of the same completions.

    Returns:
        [N], one expectation a prompt.
    """
    scores, values = np.asarray(scores, dtype=float), np.asarray(values, dtype=float)
    k = scores.shape[1]
    assert 1 <= n <= k, (n, k)
    weights = np.array([math.comb(k - 1 - i, n - 1) / math.comb(k, n) for i in range(k)])
    out = np.empty(len(scores))
    for row, (one, worth) in enumerate(zip(scores, values, strict=True)):
        order = np.argsort(-one, kind="stable")
        _, group = np.unique(-one[order], return_inverse=True)
        shared = np.bincount(group, weights) / np.bincount(group)
        out[row] = (shared[group] * worth[order]).sum()
    return out


@dataclass(frozen=True)
class Fit:
    """A fitted curve R(d) = d (alpha - beta log d) over d = sqrt(KL).

    `peak_sqrt_kl` = exp(alpha/beta - 1) is where it turns (None where beta <= 0), `d_max` the farthest point, `points`
    how many there are. `falls` says whether the turn is more than noise (`turns_down`), where that was asked.
    """

    alpha: float
    beta: float
    peak_sqrt_kl: float | None
    d_max: float
    points: int
    falls: bool | None = None

    def at(self, d: Any) -> Any:
        """Gain at distance d (a number or an array, in sqrt nats), 0 at 0."""
        d = np.asarray(d, dtype=float)
        return d * (self.alpha - self.beta * np.log(np.where(d > 0, d, 1.0)))


def over_optimisation(kl: Sequence[float], gain: Sequence[float]) -> Fit | None:
    """Fit R(d) = d (alpha - beta log d), d = sqrt(KL), by least squares (Gao et al. 2022, eq. 1 for RL).

    Args:
        kl: nats a sequence; points at KL 0 say nothing and are left out.
        gain: score less the reference's.

    Returns:
        The curve; None with fewer than three points or distances.
    """
    d = np.sqrt(np.clip(np.asarray(kl, dtype=float), 0, None))
    r = np.asarray(gain, dtype=float)[d > 1e-3]
    d = d[d > 1e-3]
    if len(d) < 3 or np.ptp(d) < 1e-3:
        return None
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * np.log(d)], 1), r, rcond=None)
    turns = beta > 0 and alpha / beta - 1 < 20
    peak = float(np.exp(alpha / beta - 1)) if turns else None
    return Fit(float(alpha), float(beta), peak, float(d.max()), len(d))


def turns_down(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> bool:
    """Can it be claimed that a score falls again as the policy moves away?

    Over-optimisation is easily seen in noise: a curve fitted to rising points turns inside the data more often than
    not. So two things are asked: the strength with the best mean is not the farthest one, and the farthest one's runs
    are worse by Welch's t at the 5 % level (one-sided). At least two runs of each.

    Args:
        groups: for each strength, its runs' KL and score.
    """
    known = [(float(np.mean(kl)), np.asarray(score, dtype=float)) for kl, score in groups if len(score) >= 2]
    if len(known) < 3:
        return False
    _, far = max(known, key=lambda group: group[0])
    best = max((score for _, score in known), key=lambda score: score.mean())
    if best is far:
        return False
    spread = [score.var(ddof=1) / len(score) for score in (best, far)]
    if sum(spread) == 0:
        return True
    freedom = sum(spread) ** 2 / sum(v**2 / (len(s) - 1) for v, s in zip(spread, (best, far), strict=True))
    return bool((best.mean() - far.mean()) / math.sqrt(sum(spread)) > t90(max(1, int(freedom))))


def ratio(numerators: Any, denominators: Any, *, seed: int = 0) -> Estimate | None:
    """Sum over sum (nats per token, say) with a percentile bootstrap interval over items. [N] and [N]."""
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if below.sum() == 0:
        return None
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):  # one at a time: all together are DRAWS x N numbers
        picks = rng.integers(0, len(above), len(above))
        drawn.append(above[picks].sum() / below[picks].sum())
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), len(above))
