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
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from align.models import checkpoints, generate, packing
from align.models.packing import Packing
from align.ppo import maths
from align.run.errors import ConfigError

TRAINED = re.compile(r"(lora_|modules_to_save).*\.(default|value)(\.|$)|^value_head\.|^critic\.")

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
    """Hidden states to logits, with what some families do after the matrix (Gemma's cap, Cohere's and Granite's scale).
    `check_head` compares it with the model's own forward pass before a run starts."""
    config = language_model.config.get_text_config()
    matrix = language_model.get_output_embeddings()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    if cap is None and scale == 1:
        return matrix

    def head(hidden: Tensor) -> Tensor:
        logits = matrix(hidden) * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return head


def logps_of(language_model: Any, batch: Batch, temperature: float, *, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One pass: log-probs [N], entropies [N] and the hidden states [N, H] they came from."""
    where, targets = batch.tokens()
    hidden = batch.hidden(trunk_of(language_model))[where - 1]
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
        self.packs = packing.use(inner, longest)

    def forward(self, batch: Batch, temperature: float | None = None) -> Tensor:
        """With a temperature, the reference's log-probs [N]; without, the reward model's scores [B]."""
        if temperature is not None:
            return logps_of(self.inner, batch, temperature, entropy=False)[0]
        return last_score(trunk_of(self.inner), self.inner.score, batch)


def last_score(trunk: Any, head: Any, batch: Batch) -> Tensor:
    """The score read at each row's last real token, [B]."""
    return head(batch.hidden(trunk)[batch.last()]).squeeze(-1).float()


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
            with self.using("value") if self.critic is None else contextlib.nullcontext():
                trunk = trunk_of(self.policy if self.critic is None else self.critic)
                hidden = batch.hidden(trunk)[where - 1]
            head = self.value_head if self.critic is None else self.critic.score
        elif self.only_values:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            values = head(hidden.to(head.weight.dtype)).squeeze(-1).float()
        return (values - self.values_shift) / self.values_scale

    def reference(self, batch: Batch, temperature: float) -> Tensor:
        """Log-probs under the backbone without any adapter, [N]."""
        with self.using(None):
            return logps_of(self.policy, batch, temperature, entropy=False)[0]

    def score(self, batch: Batch) -> Tensor:
        """Scores of the reward model that shares the backbone, [B]."""
        with self.using("reward"):
            return last_score(trunk_of(self.policy), self.reward_head, batch)

    def sample(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[list[int]]:
        """`generate.sample` with the policy."""
        bare = self.policy.get_base_model() if hasattr(self.policy, "peft_config") else self.policy
        with self._folded():
            return generate.sample(bare, prompts, **settings)

    @contextlib.contextmanager
    def _folded(self) -> Iterator[None]:
        """While sampling in fp32, one matrix W + BA instead of three: a third off the time of a token. The sums are
        laid beside the weights and dropped, never subtracted, so that the backbone stays the reference to the bit. In
        lower precision the sum would be rounded, and another policy than the one that learns would sample."""
        from peft.tuners.lora import Linear
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers: list[Any] = [part for part in self.policy.modules() if isinstance(part, BaseTunerLayer)]
        weights = [layer.get_base_layer().weight for layer in layers]
        if (
            any(type(layer) is not Linear for layer in layers)
            or any(weight.dtype != torch.float32 or type(weight) is not nn.Parameter for weight in weights)
            or any(
                hasattr(weight, "ds_id") or layer.lora_bias["default"]
                for layer, weight in zip(layers, weights, strict=True)
            )
        ):
            yield
            return
        before = [weight.data for weight in weights]
        for layer, weight in zip(layers, weights, strict=True):
            weight.data = weight.data + layer.get_delta_weight("default")
        try:
            with self.using(None):
                yield
        finally:
            for weight, data in zip(weights, before, strict=True):
                weight.data = data

    @contextlib.contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Run the backbone with another adapter, or with none. PEFT's own `set_adapter` and `disable_adapter` also turn
        gradients on and off, which an optimizer and a sharded model must not see."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [layer for layer in self.policy.modules() if isinstance(layer, BaseTunerLayer)]
        before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [adapter or "default"], adapter is None
        try:
            yield
        finally:
            for layer, (active, disabled) in zip(layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled

    def check_head(self, prompt: list[int]) -> None:
        """Our log-probs against the model's own forward pass, on one prompt.

        Raises:
            ConfigError: for a family that does something to its logits which `head_of` does not know.
        """
        device = next(self.policy.parameters()).device
        batch = Batch.of([prompt[:1], prompt[:1]], [prompt[1:], prompt[1:2]], device, packed=self.packs)
        ours = logps_of(self.policy, batch, 1.0, entropy=False)[0][: len(prompt) - 1]
        ids = torch.tensor([prompt], device=device)
        theirs = self.policy(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        theirs = theirs.gather(-1, ids[0, 1:, None]).squeeze(-1)
        if (ours - theirs).abs().max() > (1e-3 if ours.device.type == "cpu" else 0.2):
            raise ConfigError(
                f"{self.config.model_type} models change their logits in a way that align.ppo does not know "
                f"(log-probs differ by {(ours - theirs).abs().max():.2g} nats); use engine=trl, or another base"
            )


def build(
    parent: str,
    reward_path: str | None,
    value_model: str,
    model_args: Any,
    tokenizer: Any,
    *,
    longest: int,
    cast_adapters: bool,
    output_dir: str,
) -> ActorCritic:
    """Load the policy and put critic and reward adapter beside it. Seed before: heads and adapters are new.

    Args:
        parent: whole weights that the policy starts from and that the reference is.
        reward_path: the reward model's folder or hub id, or None where functions give the reward.
        longest: tokens of the longest prompt with the longest completion.
        cast_adapters: keep adapters in fp32 on a bf16 backbone (not under ZeRO-3 and FSDP2, which want one dtype).
        output_dir: where a reward adapter's merged weights go, if the critic starts from them.
    """
    from peft import get_peft_model

    policy = checkpoints.load_policy(parent, model_args, tokenizer)
    lora = checkpoints.lora_config(model_args)
    critic, start = None, parent
    if value_model == "full":
        if reward_path and same_tokens(reward_path, tokenizer):
            start = checkpoints.resolve_parent(reward_path, output_dir, role="reward")
        critic = checkpoints.load_reward_model(start, model_args, tokenizer)
        if start == parent:
            nn.init.zeros_(critic.score.weight)
    if lora is not None:
        policy = get_peft_model(policy, lora, autocast_adapter_dtype=cast_adapters)
    both = ActorCritic(policy, value_model, critic, longest)
    both.starts_as_reward_model = critic is not None and start != parent
    if lora is not None and value_model == "adapter":
        policy.add_adapter("value", lora)
    if lora is not None and reward_path and shares_backbone(reward_path, parent):
        _add_reward_adapter(both, reward_path)
    for name, weight in both.named_parameters():
        weight.requires_grad_(bool(TRAINED.search(name)) if lora is not None else True)
    _without_dropout(both)
    return both


def same_tokens(path: str, tokenizer: Any) -> bool:
    """Does the checkpoint read the policy's token ids as they are?"""
    return checkpoints.load_tokenizer(path).get_vocab() == tokenizer.get_vocab()


def _without_dropout(module: nn.Module) -> None:
    """Ratios are between two passes over the same tokens: nothing random may lie between them."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0


def shares_backbone(reward_path: str, parent: str) -> bool:
    """Is the reward model an adapter of the very weights that the policy starts from? Told by the files' contents."""
    from align.run.lineage import hash_weights

    if not checkpoints.is_adapter(reward_path):
        return False
    base = json.loads((Path(reward_path) / "adapter_config.json").read_text())["base_model_name_or_path"]
    if Path(base).is_dir() and Path(parent).is_dir():
        return Path(base).resolve() == Path(parent).resolve() or hash_weights(Path(base)) == hash_weights(Path(parent))
    return base == parent


def _add_reward_adapter(both: ActorCritic, path: str) -> None:
    """Put a trained reward adapter and its head beside the policy's adapter, frozen."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = LoraConfig.from_pretrained(path)
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
    weights = load_file(str(Path(path) / "adapter_model.safetensors"))
    head = [name for name in weights if re.search(r"(^|\.)score(\.|$)", name)]
    if len(head) != 1:
        raise ConfigError(f"{path}: expected one score head in the adapter, found {head}")
    score = weights.pop(head[0])
    both.policy.add_adapter("reward", config)
    loaded = set_peft_model_state_dict(both.policy, weights, adapter_name="reward")
    if loaded.unexpected_keys:
        raise ConfigError(f"{path}: the reward adapter has weights that the policy lacks: {loaded.unexpected_keys[:3]}")
    both.reward_head = nn.Linear(score.shape[1], score.shape[0], bias=False, dtype=score.dtype)
    both.reward_head.weight.data.copy_(score)


def save(both: ActorCritic, weights: dict[str, Tensor], folder: Path) -> None:
    """The policy as plain `from_pretrained` (or PEFT) loads it, the critic in `critic/`.

    Args:
        weights: the whole state dict of `both`, gathered from wherever it is sharded.
    """
    from safetensors.torch import save_file

    lora = hasattr(both.policy, "peft_config")
    mine = {name.removeprefix("policy."): w for name, w in weights.items() if name.startswith("policy.")}
    only = {"selected_adapters": ["default"]} if lora else {}
    both.policy.save_pretrained(folder, state_dict=mine, **only)
    critic = folder / "critic"
    if both.critic is not None:
        parts = {name.removeprefix("critic."): w for name, w in weights.items() if name.startswith("critic.")}
        both.critic.save_pretrained(critic, state_dict=parts)
    critic.mkdir(exist_ok=True)
    parts = {n: w.contiguous() for n, w in weights.items() if n.startswith("value_head.") or ".value." in n}
    if parts:
        save_file(parts, str(critic / "value.safetensors"))
    facts = dict(value_model=both.value_model, shift=both.values_shift, scale=both.values_scale)
    (critic / "critic.json").write_text(json.dumps(facts) + "\n")


def restore(both: ActorCritic, folder: Path) -> None:
    """The opposite of `save`, into a freshly built module: for resuming, and for a critic to be used again.

    Raises:
        ConfigError: if the folder's critic is of another kind.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    facts = json.loads((folder / "critic" / "critic.json").read_text())
    if facts["value_model"] != both.value_model:
        raise ConfigError(f"{folder}: its critic is a {facts['value_model']}, this run asks for {both.value_model}")
    both.values_shift, both.values_scale = facts["shift"], facts["scale"]
    if hasattr(both.policy, "peft_config"):
        set_peft_model_state_dict(both.policy, load_file(str(folder / "adapter_model.safetensors")), "default")
    else:
        _load_whole(both.policy, folder)
    if both.critic is not None:
        _load_whole(both.critic, folder / "critic")
    if (folder / "critic" / "value.safetensors").is_file():
        _, unknown = both.load_state_dict(load_file(str(folder / "critic" / "value.safetensors")), strict=False)
        assert not unknown, unknown


def _load_whole(target: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= load_file(str(file))
    missing, unknown = target.load_state_dict(found, strict=False)
    tied = set(getattr(target, "_tied_weights_keys", None) or {})
    assert found and not unknown and not set(missing) - tied, (folder, missing, unknown)
