"""Responses outside the preference data: a small table in which DPO raises some and PPO does not.

    python benchmarks/outside.py                    # a quarter of a minute: benchmarks/outside.json, docs/outside.svg

After Xu et al. 2024, section 4. P prompts, R responses each; the best response to prompt i is response i. Pairs cover
the best one and two others, the rest is outside the data. The policy is a small network over all prompts, so what is
learnt of one prompt moves the others. Three ways from the same reference: DPO on the pairs; PPO against a reward model
with one number for each response, which says 0 of what it never saw; and PPO against a network that was trained on the
same pairs and has an opinion on everything.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from align.ppo import maths

ROOT = Path(__file__).resolve().parent.parent
P = R = 8
OTHERS, WIDTH = 2, 32  # responses in the pairs beside the best one; of the network
BETA, RATE, STEPS, SAMPLES = 0.5, 1e-2, 600, 32  # strength of both methods; steps; PPO's samples of each prompt
WAYS = {
    "dpo": "DPO",
    "ppo": "PPO, reward model\nsilent outside",
    "ppo_network": "PPO, reward model\nthat guesses outside",
}


def network(seed: int) -> nn.Module:
    """One-hot prompts [P, P] to logits, or scores, of their responses [P, R]."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(P, WIDTH), nn.Tanh(), nn.Linear(WIDTH, R))


def logps(policy: nn.Module) -> Tensor:
    """Log-probability of every response to every prompt, [P, R]."""
    found: Tensor = policy(torch.eye(P)).log_softmax(-1)
    return found


def world(seed: int) -> tuple[Tensor, list[Tensor]]:
    """Which responses are covered [P, R], and the pairs: prompts, winners, losers [pairs]."""
    random = torch.Generator().manual_seed(seed)
    value = torch.rand(P, R, generator=random) + 2 * torch.eye(P)
    covered = torch.eye(P, dtype=torch.bool)
    for prompt in range(P):
        covered[prompt, torch.randperm(R, generator=random)[:OTHERS]] = True
    better = value[:, :, None] > value[:, None, :]
    pairs = (better & covered[:, :, None] & covered[:, None, :]).nonzero().T
    return covered, list(pairs)


def descend(parameters: Any, loss_of: Any, steps: int, rate: float = RATE) -> None:
    """Adam on a loss that is computed anew at every step."""
    optimizer = torch.optim.Adam(parameters, rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()


def dpo(reference: nn.Module, pairs: list[Tensor]) -> Tensor:
    """Rafailov et al. 2023, eq. 7, on all pairs at once; the policy's probabilities [P, R] afterwards."""
    (prompts, winners, losers), start = pairs, logps(reference).detach()
    policy = copy.deepcopy(reference)

    def loss() -> Tensor:
        ratio = logps(policy) - start
        return -logsigmoid(BETA * (ratio[prompts, winners] - ratio[prompts, losers])).mean()

    descend(policy.parameters(), loss, STEPS)
    return logps(policy).detach().exp()


def fitted(scores: Any, parameters: Any, pairs: list[Tensor], penalty: float) -> Tensor:
    """Bradley and Terry's scores [P, R], with a penalty on their squares."""
    prompts, winners, losers = pairs

    def loss() -> Tensor:
        found: Tensor = scores()
        return -logsigmoid(found[prompts, winners] - found[prompts, losers]).mean() + penalty * found.square().sum()

    descend(parameters, loss, 300, 3e-2)
    found: Tensor = scores().detach()
    return found


def ppo(reference: nn.Module, scores: Tensor, seed: int) -> Tensor:
    """Clipped PPO with the KL to the reference in the reward; the policy's probabilities [P, R] afterwards."""
    start, policy = logps(reference).detach(), copy.deepcopy(reference)
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    for _ in range(STEPS // 2):
        old = logps(policy).detach()
        said = torch.multinomial(old.exp(), SAMPLES, replacement=True, generator=random)
        before = old.gather(1, said)
        rewards = scores.gather(1, said) - BETA * (before - start.gather(1, said))
        advantages = rewards - rewards.mean(1, keepdim=True)
        advantages = (advantages / (advantages.std() + 1e-8)).flatten()
        for _ in range(2):
            now = logps(policy).gather(1, said).flatten()
            optimizer.zero_grad()
            maths.policy_loss(now, before.flatten(), advantages, 0.2)[0].mean().backward()
            optimizer.step()
    return logps(policy).detach().exp()


def run(seed: int) -> dict[str, Any]:
    """All three ways from one reference: probabilities [P, R] by name, and how far a response outside rose at most."""
    covered, pairs = world(seed)
    reference = network(seed)
    start = logps(reference).detach().exp()
    table = torch.zeros(P, R, requires_grad=True)
    judge = network(seed + 1000)
    known = fitted(lambda: table, [table], pairs, 1e-3)
    guessed = fitted(lambda: judge(torch.eye(P)), judge.parameters(), pairs, 0.0)
    guessed = guessed - (start * guessed).sum(1, keepdim=True)  # 0 on the reference's own
    found = {
        "reference": start, "dpo": dpo(reference, pairs), "ppo": ppo(reference, known, seed),
        "ppo_network": ppo(reference, guessed, seed),
    }  # fmt: skip
    rise = {name: (found[name] - start)[~covered].max().item() for name in WAYS}
    best = {name: found[name].diagonal().mean().item() for name in found}
    return {"covered": covered, "probabilities": found, "rise": rise, "best": best}


def picture(found: dict[str, Any], path: Path) -> None:
    """One seed's tables side by side: frames around what the pairs cover, crosses on what rose by a tenth outside."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    names, tables = {"reference": "reference", **WAYS}, found["probabilities"]
    with style.context(["default", {"font.size": 9, "svg.hashsalt": "align"}]):
        figure = Figure((9, 2.7), layout="constrained")
        for ax, (name, title) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
            ax.imshow(tables[name], cmap="Blues", vmin=0, vmax=1)
            ax.set_title(title, fontsize=9)
            ax.set(xticks=[], yticks=[], xlabel="responses")
            for prompt, response in found["covered"].nonzero().tolist():
                ax.add_patch(
                    Rectangle((response - 0.46, prompt - 0.46), 0.92, 0.92, fill=False, color="#777777", lw=0.8)
                )
            rose = (tables[name] - tables["reference"] > 0.1) & ~found["covered"]
            ax.plot(*rose.nonzero().T.flip(0), "x", color="#d55e00", markersize=7, markeredgewidth=2)
        figure.axes[0].set_ylabel("prompts")
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", default=str(ROOT / "benchmarks/outside.json"))
    parser.add_argument("--picture", default=str(ROOT / "docs/outside.svg"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [run(seed) for seed in range(args.seeds)]
    rows = [{"seed": seed, "rise": one["rise"], "best": one["best"]} for seed, one in enumerate(runs)]
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")
    print("how far the likeliest response outside the pairs rose at most; probability of the best response, mean")
    for row in rows:
        print(
            f"seed {row['seed']}  "
            + "  ".join(f"{name} {row['rise'][name]:+.2f} {row['best'][name]:.2f}" for name in WAYS)
        )
    picture(runs[0], Path(args.picture))


if __name__ == "__main__":
    main()
