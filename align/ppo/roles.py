"""Policy, value, reference and reward model: with LoRA all four on one frozen backbone.

    adapter `default`   the policy, trained
    adapter `value`     the critic, trained, where it is asked for
    adapter `reward`    the reward model, frozen, where it was trained as an adapter of the same weights
    no adapter          the reference

Without LoRA, policy and value head share a trunk (or the critic is a model of its own), and the reference is a second,
frozen copy. Letters as in `align.ppo.maths`; W tokens of prompt and completion together.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align.models import generate, heads, packing
from align.models.packing import Packing
from align.ppo import maths
from align.ppo.shared.folding import folded
from align.ppo.shared.switching import Switch
from align.run.errors import ConfigError

CRITIC = re.compile(r"\.value(\.|$)|(^|\.)value_head\.|^critic\.")


@dataclass
class Batch:
    """Prompts with their completions, in one row [1, N] without padding, or [B, W] padded on the right. Where the
    completions lie is carried, not guessed from token ids."""

    ids: Tensor
    packing: Packing
    begins: Tensor  # [B], where the completion starts: the prompt's length
    lengths: Tensor  # [B], of the completion

    @classmethod
    def of(cls, prompts: list[list[int]], completions: list[list[int]], device: Any, *, packed: bool) -> Batch:
        """Token ids of each prompt and its completion, row by row."""
        rows = [p + c for p, c in zip(prompts, completions, strict=True)]
        packing = Packing([len(row) for row in rows], device)
        ids = torch.tensor(sum(rows, []), device=device)
        if not packed:  # 0 on padding: right of a causal model's tokens, nothing can see it
            ids = ids.new_zeros(packing.count * packing.width).index_copy(0, packing.places, ids)
        begins, lengths = torch.tensor([len(p) for p in prompts]), torch.tensor([len(c) for c in completions])
        return cls(ids.view(1 if packed else len(rows), -1), packing, begins.to(device), lengths.to(device))

    @property
    def packed(self) -> bool:
        """One row for all sequences?"""
        return len(self.ids) != self.packing.count or self.packing.count == 1

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Where every completion token lies among all positions of `ids`, row after row, and its id; both [N]."""
        steps = torch.arange(int(self.lengths.max()), device=self.ids.device)
        rows, t = (steps < self.lengths[:, None]).nonzero(as_tuple=True)
        where = self._start(rows) + self.begins[rows] + t
        return where, self.ids.view(-1)[where]

    def last(self) -> Tensor:
        """Where each sequence's last token lies, [B]."""
        return self._start(torch.arange(len(self.begins), device=self.ids.device)) + self.begins + self.lengths - 1

    def _start(self, rows: Tensor) -> Tensor:
        return self.packing.starts[rows] if self.packed else rows * self.packing.width

    def hidden(self, trunk: Any) -> Tensor:
        """The last hidden state at every position of `ids`, [positions, H]."""
        extra = self.packing.arguments(trunk.config._attn_implementation) if self.packed else {"use_cache": False}
        return trunk(input_ids=self.ids, **extra).last_hidden_state.flatten(0, 1)

    def to(self, device: Any) -> Batch:
        """The same batch elsewhere."""
        widths = (self.begins + self.lengths).tolist()
        return Batch(self.ids.to(device), Packing(widths, device), self.begins.to(device), self.lengths.to(device))


def trunk_of(language_model: Any) -> Any:
    """The layers without the head, of a bare or a PEFT model."""
    bare = language_model.get_base_model() if hasattr(language_model, "peft_config") else language_model
    return getattr(bare, bare.base_model_prefix)


def head_of(language_model: Any) -> Callable[[Tensor], Tensor]:
    """Hidden states [N, H] to logits [N, V], with what some families do after the matrix (Gemma's cap, Cohere's,
    Granite's and Falcon-H1's scale). `check_head` compares it with the model's own forward pass before a run starts."""
    config = language_model.config.get_text_config()
    matrix = language_model.get_output_embeddings()
    if copies := getattr(matrix, "modules_to_save", None):  # a head that is trained whole: whose turn it is
        matrix = matrix.original_module if matrix.disable_adapters else copies[matrix.active_adapters[0]]
    cap = getattr(config, "final_logit_softcapping", None)
    factors = [getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier")]
    scale = next(filter(None, factors), 1 / (getattr(config, "logits_scaling", None) or 1))
    if cap is None and scale == 1:
        return matrix

    def head(hidden: Tensor) -> Tensor:
        logits = matrix(hidden) * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return head


def logps_of(language_model: Any, batch: Batch, temperature: float, *, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One pass: log-probs [N], entropies [N] and the hidden states [N, H] they came from."""
    where, targets = batch.tokens()
    hidden = packing.gather(batch.hidden(trunk_of(language_model)), where - 1)
    logps, spread = maths.token_logps(
        hidden, targets, head_of(language_model), temperature=temperature, entropy=entropy
    )
    return logps, spread, hidden


class Frozen(nn.Module):
    """A whole reference or reward model of its own. Everything goes through `forward`, so that sharding sees it."""

    def __init__(self, inner: Any, longest: int):
        super().__init__()
        self.inner = inner.requires_grad_(False).eval()
        self.config = inner.config
        # an encoder's head reads the whole sequence, in its own way and without packing
        self.encodes = heads.encodes(inner)
        self.packs = not self.encodes and packing.use(inner, longest)

    def forward(self, batch: Batch, temperature: float | None = None) -> Tensor:
        """With a temperature, the reference's log-probs [N]; without, the reward model's scores [B]."""
        if temperature is not None:
            return logps_of(self.inner, batch, temperature, entropy=False)[0]
        if self.encodes:
            heads.check_length(self.inner, batch.ids.shape[1])
            seen = torch.arange(batch.ids.shape[1], device=batch.ids.device) < (batch.begins + batch.lengths)[:, None]
            return self.inner(input_ids=batch.ids, attention_mask=seen.long()).logits.squeeze(-1).float()
        return last_score(trunk_of(self.inner), self.inner.score, batch)

    def follow(self, policy: Any, alpha: float) -> None:
        """EMA reference: ref <- alpha policy + (1 - alpha) ref (Xu et al. 2024, section 4.3; TRL's flags)."""
        with torch.no_grad():
            for theirs, ours in zip(self.inner.parameters(), policy.parameters(), strict=True):
                theirs.lerp_(ours.to(theirs.device, theirs.dtype), alpha)


def last_score(trunk: Any, head: Any, batch: Batch) -> Tensor:
    """The score read at each row's last real token, [B]."""
    hidden = batch.hidden(trunk)[batch.last()]
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(head.weight.dtype)).squeeze(-1).float()


class ActorCritic(nn.Module):
    """Policy and critic, and with LoRA the reference and perhaps the reward model, in one module."""

    def __init__(self, policy: Any, value_model: str, critic: Any, longest: int):
        super().__init__()
        self.policy = policy
        self.config = policy.config
        self._no_split_modules = policy._no_split_modules  # FSDP2 wraps layer by layer
        self.generation_config = getattr(policy, "generation_config", None)
        self.is_gradient_checkpointing = False  # read by TRL's helper; we sample in eval mode, where there is none
        self.packs = packing.use(policy, longest) and (critic is None or packing.use(critic, longest))
        self.value_model = value_model
        self.critic = critic
        self.switch = Switch(policy)
        width = policy.config.get_text_config().hidden_size
        self.value_head = None if critic is not None else nn.Linear(width, 1)
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.reward_head: nn.Linear | None = None
        self.starts_as_reward_model = False
        self.only_values = False  # while the critic warms up, it does not move a trunk that it shares
        self.values_shift, self.values_scale = 0.0, 1.0  # from the reward model's units to normalised ones

    def forward(self, task: str, *arguments: Any) -> Any:
        """Every use goes through here: DDP, ZeRO and FSDP hang their work on `forward`."""
        return getattr(self, task)(*arguments)

    def actions(self, batch: Batch, temperature: float, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, entropies and values at every completion token, each [N], in one pass where trunks are shared."""
        logps, spread, hidden = logps_of(self.policy, batch, temperature, entropy=entropy)
        return logps, spread, self._values(batch, hidden)

    def _values(self, batch: Batch, hidden: Tensor) -> Tensor:
        head: Any = self.value_head
        if self.value_model != "head":
            where, _ = batch.tokens()
            with self.switch.using("value") if self.critic is None else contextlib.nullcontext():
                trunk = trunk_of(self.policy if self.critic is None else self.critic)
                hidden = packing.gather(batch.hidden(trunk), where - 1)
            head = self.value_head if self.critic is None else self.critic.score
        elif self.only_values:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            values = head(hidden.to(head.weight.dtype)).squeeze(-1).float()
        return (values - self.values_shift) / self.values_scale

    def reference(self, batch: Batch, temperature: float) -> Tensor:
        """Log-probs under the backbone without any adapter, [N]."""
        with self.switch.using(None):
            return logps_of(self.policy, batch, temperature, entropy=False)[0]

    def score(self, batch: Batch) -> Tensor:
        """Scores of the reward model that shares the backbone, [B]."""
        with self.switch.using("reward"):
            return last_score(trunk_of(self.policy), self.reward_head, batch)

    def sample(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[list[int]]:
        """`generate.sample` with the policy."""
        bare = self.policy.get_base_model() if hasattr(self.policy, "peft_config") else self.policy
        with folded(self.switch):
            return generate.sample(bare, prompts, **settings)

    def checkpoint_activations(self) -> None:
        """In every model that learns: compute layers again in the backward pass instead of keeping what they made."""
        settings = {"use_reentrant": False}
        for model in filter(None, (self.policy, self.critic)):
            again = {"context_fn": self.switch.recomputing} if model is self.policy else {}
            model.activation_checkpointing_enable(settings | again)

    def sampled_logps(self, ids: list[int]) -> Tensor:
        """Log-probs [len(ids) - 1] of one sequence under the very modules that `sample` runs."""
        bare = self.policy.get_base_model() if hasattr(self.policy, "peft_config") else self.policy
        row = torch.tensor([ids], device=bare.device)
        with folded(self.switch):
            logps = bare(input_ids=row, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        return logps.gather(-1, row[0, 1:, None]).squeeze(-1)

    def check_head(self, prompt: list[int]) -> None:
        """Our log-probs against the model's own forward pass, on one prompt.

        Raises:
            ConfigError: for a family that does something to its logits which `head_of` does not know.
        """
        device = next(self.policy.parameters()).device
        prompt = prompt[:64]
        batch = Batch.of([prompt[:1], prompt[:1]], [prompt[1:], prompt[1:2]], device, packed=self.packs)
        ours = logps_of(self.policy, batch, 1.0, entropy=False)[0][: len(prompt) - 1]
        theirs = self.sampled_logps(prompt)
        rounds = ours.device.type != "cpu" or torch.is_autocast_enabled("cpu") or self.policy.dtype != torch.float32
        if (ours - theirs).abs().max() > (0.2 if rounds else 1e-3):
            raise ConfigError(
                f"{self.config.model_type} models change their logits in a way that align.ppo does not know "
                f"(log-probs differ by {(ours - theirs).abs().max():.2g} nats); use engine=trl, or another base"
            )
