"""Every recipe on twins of open checkpoints: what each family can do, in docs/checkpoints.md, is what is found here.

A cell of that table is `yes` where the recipe ran and what matters held, or the one sentence with which it refused.
`FAMILIES_WRITE=1 pytest tests/test_families.py -m "slow or not slow"` writes the table; otherwise it is compared.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, WORDS, write_rows
from families import FAMILIES, twin

from align.data import chat, prepare
from align.models import checkpoints
from align.run.arguments import DataArguments
from align.run.errors import ConfigError, RunError

FEW = ["--max_steps", "2", "--global_batch_size", "4", "--per_device_train_batch_size", "2", "--max_dropped", "0",
       "--disable_tqdm", "true", "--logging_steps", "1"]  # fmt: skip
SAY = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(3 + i % 4)) for i in range(len(WORDS))]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look at a place.",
                 "parameters": {"type": "object", "properties": {"where": {"type": "string", "description": "A place."}},
                                "required": ["where"]}},
}  # fmt: skip


def turn(role: str, content: str, **rest: Any) -> dict:
    return {"role": role, "content": content, **rest}


def ask(i: int) -> dict:
    return turn("user", f"what is {SAY[i]} no {i}")


def told(i: int) -> list[dict]:
    """A system message before every third prompt."""
    return [turn("system", f"please {SAY[i]}")] if i % 3 == 0 else []


def before(i: int) -> list[dict]:
    """An earlier question with its answer before every second prompt."""
    return [ask(i + 3), turn("assistant", SAY[i + 4])] if i % 2 else []


def called(i: int) -> list[dict]:
    call = {"id": "abcdef123", "type": "function", "function": {"name": "look", "arguments": {"where": SAY[i]}}}
    return [turn("assistant", "", tool_calls=[call]), turn("tool", SAY[-i], tool_call_id="abcdef123", name="look")]


# What demonstrations can hold, one kind a column of the table
DEMONSTRATIONS = {
    "SFT": lambda i: {"messages": [ask(i), turn("assistant", SAY[-i])]},
    "multi-turn": lambda i: {
        "messages": [ask(i), turn("assistant", SAY[-i]), ask(i + 7), turn("assistant", SAY[i - 9])]
    },
    "system": lambda i: {"messages": [turn("system", f"please {SAY[i]}"), ask(i), turn("assistant", SAY[-i])]},
    "reasoning": lambda i: {"messages": [ask(i), turn("assistant", SAY[-i], reasoning_content=f"where is {SAY[i]}")]},
    "tools": lambda i: {"messages": [ask(i), *called(i), turn("assistant", SAY[-i])], "tools": [TOOL]},
}
STAGES = ("reward", "DPO", "PPO", "sample", "eval")
COLUMNS = (*DEMONSTRATIONS, *STAGES)


def run(recipe: str, *arguments: Any) -> dict:
    """A recipe in this process (a second instead of ten), with what it recorded."""
    argv, said = [f"recipes/{recipe}.py", *map(str, arguments)], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", argv)
        patch.chdir(ROOT)
        runpy.run_path(f"recipes/{recipe}.py", run_name="a recipe")["main"]()
    out = Path(argv[argv.index("--output_dir") + 1])
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete"
    return record


class Twin:
    """One family's twin and what was made of it, stage by stage."""

    def __init__(self, name: str, folder: Path):
        self.family, self.folder = FAMILIES[name], folder
        self.base = twin(name, folder / "base")
        for kind, make in DEMONSTRATIONS.items():
            write_rows(folder / kind / "train.jsonl", [make(i) for i in range(1, 13)])
            write_rows(folder / kind / "test.jsonl", [make(i) for i in range(13, 15)])
        pairs = [{"prompt": before(i) + [ask(i)], "chosen": [turn("assistant", SAY[-i])],
                  "rejected": [turn("assistant", f"no {SAY[i]}")]} for i in range(1, 15)]  # fmt: skip
        write_rows(folder / "pairs" / "train.jsonl", pairs)
        lead = told if self.family.hears else lambda _: []
        write_rows(
            folder / "prompts" / "train.jsonl", [{"prompt": lead(i) + before(i) + [ask(i)]} for i in range(1, 13)]
        )
        write_rows(folder / "held" / "train.jsonl", [{"prompt": lead(i) + [ask(i)]} for i in range(15, 19)])
        write_rows(folder / "texts" / "train.jsonl", [{"text": ". ".join(SAY[i:])} for i in (0, 3, 8)])

    def at(self, name: str) -> Path:
        return self.folder / name

    def train(self, recipe: str, out: str, model: Path, rows: str, *rest: Any) -> dict:
        accepted = [self.at("sft"), self.at("reward-run")]
        return run(recipe, "--model_name_or_path", model, "--dataset_name", self.at(rows), "--output_dir", self.at(out),
                   "--accept_failed", *accepted, *FEW, *rest)  # fmt: skip

    def parent(self) -> Path:
        """The SFT model, made when first asked for."""
        if not self.at("sft").exists():
            self.cell("SFT")
        return self.at("sft")

    def cell(self, column: str) -> str:
        """`yes`, or the sentence with which the recipe refused."""
        return self.ends(getattr(self, f"stage_{column.lower()}", lambda: self.demonstrations(column)))

    def ends(self, check: Callable[[], None]) -> str:
        try:
            check()
        except (ConfigError, RunError) as error:
            return self.said(error)
        return "yes"

    def said(self, error: Exception) -> str:
        return sentence(error).replace(f"{self.folder}/", "")

    def demonstrations(self, kind: str) -> None:
        out = "sft" if kind == "SFT" else f"sft-{kind}"
        record = self.train("sft", out, self.base, kind)
        assert math.isfinite(record["metrics"]["train_loss"]) and record["dtype"] == "float32"
        check_rows(self, kind)
        check_saved(self, self.at(out))

    def stage_reward(self) -> None:
        record = self.train("reward", "reward-run", self.parent(), "pairs")
        assert math.isfinite(record["metrics"]["train_loss"])
        check_reward(self.at("reward-run"))

    def stage_dpo(self) -> None:
        check_pairs(self)
        for out, extra in (("dpo", ["--use_peft", "--lora_r", 4]), ("dpo-full", [])):
            record = self.train("dpo", out, self.parent(), "pairs", *extra)
            first = next(row for row in logged(self.at(out)) if "loss" in row)
            balance = 0.001 * first.get("aux_loss", 0)  # TRL's part of a mixture of experts' loss
            assert abs(first["loss"] - balance - math.log(2)) < 1e-4, first
            assert math.isfinite(record["metrics"]["train_loss"])
            check_saved(self, self.at(out))

    def stage_ppo(self) -> None:
        if not self.at("reward-run").exists():
            self.stage_reward()
        for out, extra in (("ppo", ["--use_peft", "--lora_r", 4]), ("ppo-full", [])):
            self.train("ppo", out, self.parent(), "prompts", "--reward_model_path", self.at("reward-run"),
                       "--response_length", 5, "--num_ppo_epochs", 1, *extra)  # fmt: skip
            first = next(row for row in logged(self.at(out)) if "objective/kl" in row)
            assert abs(first["objective/kl"]) < 1e-4, first
            check_saved(self, self.at(out))

    def stage_sample(self) -> None:
        run("sample", "--model_name_or_path", self.parent(), "--dataset_name", self.at("prompts"), "--num_generations", 2,
            "--max_new_tokens", 6, "--output_dir", self.at("sampled"), "--accept_failed", self.at("sft"))  # fmt: skip
        rows = [json.loads(line) for line in (self.at("sampled") / "data" / "train.jsonl").read_text().splitlines()]
        assert len(rows) == 12 and all(len(row["completions"]) == 2 for row in rows)

    def stage_eval(self) -> None:
        run("eval", "--models", f"base={self.base}", f"sft={self.parent()}", "--dataset_name", self.at("held"), "--max_new_tokens",
            6, "--texts", self.at("texts"), "--output_dir", self.at("eval"))  # fmt: skip
        models = json.loads((self.at("eval") / "results.json").read_text())["models"]
        words = checkpoints.load_tokenizer(
            str(self.base)
        )  # an added pad token takes at most one in V of what is likely
        for name in ("base", "sft"):
            assert math.isfinite(models[name]["sampled"]["kl"]["value"]) and models[name]["sampled"]["n"] == 4
            apart = abs(models[name]["tax"]["loss"]["value"] - language_loss(self, self.at(name)))
            assert apart < (1.5 / len(words) if len(words) > embedded(self.at(name)) else 1e-4), (name, apart)
        assert models["base"]["sampled"]["kl"]["value"] < 1e-6


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_rows(one: Twin, kind: str) -> None:
    """What is learnt begins with the very prompt that generation sees, ends with a stop, and has one BOS."""
    from transformers import AutoTokenizer

    tokenizer = checkpoints.load_tokenizer(str(one.base))
    plain = AutoTokenizer.from_pretrained(one.base)
    plain.chat_template = tokenizer.chat_template  # a family without one gets ours
    stops = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(one.family.stops))}
    assert tokenizer.pad_token_id not in stops
    found = prepare.rows(
        DataArguments(dataset_name=str(one.at(kind)), max_dropped=0), "sft", tokenizer, max_length=2048, seed=0
    ).train
    source = [json.loads(line) for line in (one.at(kind) / "train.jsonl").read_text().splitlines()]
    prompts = set()
    for row in source:
        for place, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                ids = plain.apply_chat_template(
                    row["messages"][:place], tools=row.get("tools"), add_generation_prompt=True, return_dict=False
                )
                prompts.add(tuple(ids))
    learnt = 0
    told = "".join(tokenizer.decode(row["input_ids"]) for row in found)
    spoken = "".join(tokenizer.decode([i for i in row["labels"] if i != -100]) for row in found)
    for row in source:
        for message in row["messages"]:
            assert message["content"] in (spoken if message["role"] == "assistant" else told), message
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in spoken and call["function"]["arguments"]["where"] in spoken, call
            assert message.get("reasoning_content", "") in spoken, message
        for tool in row.get("tools", ()):
            assert tool["function"]["description"] in told, tool
    for row in found:
        ids, labels = list(row["input_ids"]), list(row["labels"])
        begins = [t for t in range(len(ids)) if labels[t] != -100 and (t == 0 or labels[t - 1] == -100)]
        ends = [t for t in range(len(ids)) if labels[t] != -100 and (t + 1 == len(ids) or labels[t + 1] == -100)]
        assert begins and all(ids[end] in stops for end in ends)
        assert all(tuple(ids[:begin]) in prompts for begin in begins), tokenizer.decode(ids[: begins[-1]])
        assert tokenizer.pad_token_id not in ids
        if one.family.adds_bos:
            assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        learnt += len(begins)
    assert learnt == sum(message["role"] == "assistant" for row in source for message in row["messages"])


def check_pairs(one: Twin) -> None:
    """Pairs and prompts are asked as generation asks, and both answers end with a stop."""
    tokenizer = checkpoints.load_tokenizer(str(one.parent()))

    def read(rows: str, schema: str) -> list[tuple[list[int], dict]]:
        found = prepare.rows(DataArguments(dataset_name=str(one.at(rows))), schema, tokenizer, max_length=2048, seed=0)
        asked = [json.loads(line)["prompt"] for line in (one.at(rows) / "train.jsonl").read_text().splitlines()]
        ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in asked]
        assert len(found.train) == len(ids)
        return list(zip(ids, found.train, strict=True))

    for ids, row in read("pairs", "preference"):
        assert list(row["prompt_ids"]) == ids
        assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id
    for ids, row in read("prompts", "prompt"):
        assert list(row["input_ids"]) == ids


def check_saved(one: Twin, folder: Path) -> None:
    """What was saved loads without us and asks as it was trained."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cls = AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    model = cls.from_pretrained(folder)
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), checkpoints.load_tokenizer(str(one.base))
    messages = [ask(3), turn("assistant", "yes"), ask(4)]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == chat.encode_prompt(
        ours, messages
    )
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    assert tokenizer.eos_token_id in stops and set(one.family.stops) <= set(tokenizer.convert_ids_to_tokens(stops))
    assert tokenizer.pad_token_id not in stops and tokenizer.pad_token_id < model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        out = model.generate(torch.tensor([chat.encode_prompt(ours, messages)]), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 3


def embedded(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return config.get("text_config", config)["vocab_size"]


def language_loss(one: Twin, folder: Path) -> float:
    """Nats a token on the held-out text, one document at a time, by the model's own loss."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin = next(
        t for t in (tokenizer.bos_token_id, model.config.bos_token_id, tokenizer.eos_token_id) if t is not None
    )
    sums = count = 0
    for line in (one.at("texts") / "train.jsonl").read_text().splitlines():
        ids = torch.tensor([[begin, *tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            sums += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return sums / count


def check_reward(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7, 8]])).logits.shape == (1, 1)


# ------------------------------------------------------------------------------------------------ sampling and scoring


def loaded(name: str, folder: Path) -> tuple[Any, Any]:
    """A twin as the recipes that measure load it: tokenizer and policy."""
    base = twin(name, folder / "base")
    tokenizer = checkpoints.load_tokenizer(str(base))
    return tokenizer, checkpoints.load_trained(str(base), tokenizer)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("what is the cat", " a dog runs"),
        ("é ☃", " naïve 漢字  x"),
        ("the cat sits", "s on the mat"),
        ("what:\n", "the dog. "),
    ],
)
def test_plain_text_comes_back_as_it_was_sampled(name, prompt, said, tmp_path):
    """One BOS where the family adds one, the trained stop at the end, blanks as they were; learnt again, the same tokens."""
    tokenizer = checkpoints.load_tokenizer(str(twin(name, tmp_path / "base")))
    asked, answer = chat.encode_pair(tokenizer, prompt, said)
    if one := FAMILIES[name].adds_bos:
        assert asked.count(tokenizer.bos_token_id) == one and asked[0] == tokenizer.bos_token_id
    assert (
        answer[-1] == tokenizer.eos_token_id
        and tokenizer.decode(asked + answer, skip_special_tokens=True) == prompt + said
    )
    assert chat.decode_answer(tokenizer, asked, answer, True) == ("", said)
    assert chat.encode_pair(tokenizer, prompt, said) == (asked, answer)


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_of_any_kind_compute_what_the_model_computes_alone(name, tmp_path):
    """Left-padded batches with a cache, packed ones and padded ones, against one sequence at a time."""
    from align.models import generate, packing
    from align.ppo import roles

    tokenizer, policy = loaded(name, tmp_path)
    longer = turn("user", "where " + " ".join(SAY[:3]))
    prompts = [chat.encode_prompt(tokenizer, [ask(1)]), chat.encode_prompt(tokenizer, [longer])]
    told = generate.sample(policy, prompts, stops=[], pad_id=tokenizer.pad_token_id, max_new_tokens=14, temperature=0)
    logps = []
    for prompt, said in zip(prompts, told, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + said]), use_cache=False).logits[0].float()
        rows = logits[len(prompt) - 1 : -1]
        best = rows.max(-1).values
        assert torch.allclose(rows.gather(-1, torch.tensor(said)[:, None]).squeeze(-1), best, atol=1e-4)  # greedy
        logps.append(rows.log_softmax(-1).gather(-1, torch.tensor(said)[:, None]).squeeze(-1))
    found = generate.completion_logps(policy, prompts, told, pad_id=tokenizer.pad_token_id)
    assert torch.allclose(found, torch.stack([one.sum() for one in logps]), atol=1e-4)
    packs = packing.use(policy, max(map(len, prompts)) + 14)
    assert packs == (name not in WINDOWS)
    for packed in {False, packs}:
        batch = roles.Batch.of(prompts, told, "cpu", packed=packed)
        with torch.no_grad():
            ours = roles.logps_of(policy, batch, 1.0, entropy=False)[0]
        assert torch.allclose(ours, torch.cat(logps), atol=1e-4), (name, packed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reward_model_gives_one_score_however_it_is_asked(name, tmp_path):
    """Alone, in a padded batch, and as PPO asks it."""
    from align.models import heads
    from align.ppo import roles

    base = twin(name, tmp_path / "base", model="AutoModelForSequenceClassification", num_labels=1)
    tokenizer = checkpoints.load_tokenizer(str(base))
    scorer = checkpoints.load_trained(str(base), tokenizer, reward_model=True)
    rows = [sum(chat.encode_pair(tokenizer, [ask(i)], [turn("assistant", " ".join(SAY[:i]))]), []) for i in (1, 2, 5)]
    with torch.no_grad():
        alone = torch.cat([scorer(torch.tensor([row])).logits[0] for row in rows]).float()
    assert len(set(alone.tolist())) == 3
    assert torch.allclose(heads.scores(scorer, rows, pad_id=tokenizer.pad_token_id), alone, atol=1e-5)
    frozen = roles.Frozen(scorer, max(map(len, rows)))
    batch = roles.Batch.of([row[:1] for row in rows], [row[1:] for row in rows], "cpu", packed=frozen.packs)
    with torch.no_grad():
        assert torch.allclose(frozen(batch), alone, atol=1e-5)


def test_learned_positions_have_an_end_and_rotary_ones_do_not(tmp_path):
    """GPT-2's are rows of an embedding: a prompt of 5 and an answer of 8 fit into 13 of them, not into 12."""
    from transformers import AutoModelForCausalLM

    from align.models import generate

    def sample(name: str, **settings: int) -> int:
        model = AutoModelForCausalLM.from_pretrained(twin(name, tmp_path / f"{name}{settings}", **settings))
        told = generate.sample(model, [[5] * 5], stops=[], pad_id=0, max_new_tokens=8, temperature=0)
        return len(told[0])

    assert sample("gpt-2", n_positions=13) == 8
    assert sample("qwen2.5", max_position_embeddings=12) == 8
    with pytest.raises(
        ConfigError, match="gpt2 has learned positions for 12 tokens, so a prompt of 5 and an answer of up to 8"
    ):
        sample("gpt-2", n_positions=12)


# -------------------------------------------------------------------------------------------------- adapters, rewards


def hub(folder: Path, **repositories: Path) -> Path:
    """A local cache in which folders are `tiny/<name>` of the hub."""
    for name, source in repositories.items():
        repository = folder / f"models--tiny--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(source, repository / "snapshots" / ("0" * 40))
    return folder


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """`(base, adapter)` by kind: made by PEFT alone, as folders and as ids of a hub that is only a cache."""
    import huggingface_hub.constants
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = twin("llama-3.1", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = get_peft_model(model, lora)
    made.save_pretrained(tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "named")
    settings = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    (tmp_path / "named" / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "tiny/base"})
    )
    cache = hub(tmp_path / "cache", base=base, adapter=tmp_path / "named")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    with torch.no_grad():
        logits = made(torch.tensor([[5, 6, 7, 8, 9]])).logits
    return dict(zip(ADAPTERS, ((base, tmp_path / "adapter"), ("tiny/base", "tiny/adapter")), strict=True)), logits


@pytest.mark.parametrize("kind", ["folder", "id on the hub"])
def test_an_adapter_made_elsewhere_is_a_parent(kind, adapter, tmp_path):
    """Training without a learning rate leaves the adapter's own function, not its base's; evaluation sees it as well."""
    from transformers import AutoModelForCausalLM

    found, logits = adapter
    base, made = found[kind]
    rows = write_rows(tmp_path / "chats.jsonl", [DEMONSTRATIONS["SFT"](i) for i in range(1, 9)])
    out = tmp_path / "run"
    run(
        "sft", "--model_name_or_path", made, "--dataset_name", rows, "--output_dir", out, *FEW, "--learning_rate", 1e-12
    )
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(out)(torch.tensor([[5, 6, 7, 8, 9]])).logits
    assert torch.allclose(again, logits, atol=1e-4)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": [ask(i)]} for i in range(15, 19)])
    run("eval", "--models", f"base={base}", f"adapter={made}", "--dataset_name", prompts, "--max_new_tokens", 6,
        "--output_dir", tmp_path / "eval")  # fmt: skip
    models = json.loads((tmp_path / "eval" / "results.json").read_text())["models"]
    assert models["base"]["sampled"]["kl"]["value"] < 1e-6 < models["adapter"]["sampled"]["kl"]["value"]


def bert(folder: Path) -> Path:
    """An encoder with one score, as the reward models before the chat models were."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS), *"0123456789:."]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(names))
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    BertForSequenceClassification(BertConfig(vocab_size=len(names), num_labels=1, **sizes)).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def reward_model(kind: str, folder: Path) -> Path:
    if kind == "encoder":
        return bert(folder)
    outputs = 2 if "two outputs" in kind else 1
    made = twin("qwen2.5", folder, model="AutoModelForSequenceClassification", num_labels=outputs)
    if ".bin" in kind:
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return made


ADAPTERS = ("folder", "id on the hub")
REWARDS = ("one output", "one output, .bin", "two outputs", "encoder")


# ------------------------------------------------------------------------------------------------------- the table

FAST = ("qwen3", "gemma-3-1b", "gpt-2")  # thinking; windows and byte fallback; one special token and no template
TABLES = {"family": tuple(FAMILIES), "adapter made elsewhere": ADAPTERS, "reward model": REWARDS}
WINDOWS = ("gemma-2", "gemma-3-1b", "gemma-3-4b", "phi-3", "gpt-oss")  # shorter than the sequences here
PAGE = ROOT / "docs" / "checkpoints.md"
WRITES = os.environ.get("FAMILIES_WRITE") == "1"


def sentence(error: Exception) -> str:
    """What a refusal says, without the rows and counts of the day."""
    reasons = re.findall(r"^ *\d+ (.+?), the first:", str(error), re.MULTILINE)
    said = "; ".join(re.sub(r"^unusable \((.*)\)$", r"\1", reason) for reason in reasons) or str(error)
    return " ".join(said.split())


def known() -> dict[str, dict[str, str]]:
    """The table as it stands: `yes`, or the sentence that a letter stands for."""
    page = PAGE.read_text()
    notes = dict(re.findall(r"^- \*\*([a-z])\*\* (.+)$", page, re.MULTILINE))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    heads = {row[0]: row[1:] for row in rows if row[0] in TABLES}
    return {
        row[0]: {column: cell if cell == "yes" else notes[cell] for column, cell in zip(
            heads[next(head for head, names in TABLES.items() if row[0] in names)], row[1:], strict=True)}
        for row in rows if any(row[0] in names for names in TABLES.values())
    }  # fmt: skip


def compare(name: str, found: dict[str, str]) -> None:
    """A row of the table is what was found; when it is to be written, it becomes it."""
    if not WRITES:
        assert known()[name] == found
        return
    rows = known() | {name: found}
    sentences = sorted({cell for row in rows.values() for cell in row.values() if cell != "yes"})
    letters = {text: chr(ord("a") + place) for place, text in enumerate(sentences)}

    def table(head: str, names: tuple[str, ...], columns: tuple[str, ...]) -> str:
        lines = [[head, *columns], ["---"] * (len(columns) + 1)]
        lines += [[n, *(letters.get(rows[n][c], "yes") for c in columns)] for n in names if n in rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    text, _, _ = PAGE.read_text().partition("| family |")
    notes = "\n".join(f"- **{letter}** {text}" for text, letter in letters.items())
    columns = dict(zip(TABLES, (COLUMNS, ("SFT", *STAGES), ("PPO", "eval")), strict=True))
    tables = [table(head, names, columns[head]) for head, names in TABLES.items()]
    PAGE.write_text("\n\n".join([f"{text}{tables[0]}", *tables[1:], f"{notes}\n"]))


@pytest.mark.parametrize("name", FAST)
def test_a_few_families_go_through_every_recipe(name, tmp_path):
    one = Twin(name, tmp_path)
    for column in ("SFT", *STAGES):
        assert one.cell(column) == known()[name][column], column


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_through_every_recipe(name, tmp_path):
    one = Twin(name, tmp_path)
    compare(name, {column: one.cell(column) for column in COLUMNS})


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learnt_of_a_family_is_what_it_would_generate(name, tmp_path):
    """The rows of every column that is about rows, without training."""
    one = Twin(name, tmp_path)
    for kind in DEMONSTRATIONS:
        assert one.ends(lambda kind=kind: check_rows(one, kind)) == known()[name][kind], kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_made_elsewhere_goes_through_every_recipe(kind, adapter, tmp_path):
    """As the parent of each: DPO starts at ln 2 from it, PPO at a KL of 0, and its perplexity is its own."""
    from peft import AutoPeftModelForCausalLM

    made, one = adapter[0][kind][1], Twin("llama-3.1", tmp_path / "twin")
    whole = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload()
    whole.save_pretrained(one.at("sft"))  # by PEFT alone, to compare perplexities with
    checkpoints.load_tokenizer(str(one.base)).save_pretrained(one.at("sft"))
    one.parent = lambda: made

    def learnt() -> None:
        one.train("sft", "again", made, "SFT")
        check_saved(one, one.at("again"))

    compare(kind, {"SFT": one.ends(learnt)} | {column: one.cell(column) for column in STAGES})


@pytest.mark.slow
@pytest.mark.parametrize("kind", REWARDS)
def test_reward_models_made_elsewhere(kind, tmp_path):
    """Scores, or a sentence before anything is loaded."""
    one = Twin("llama-3.1", tmp_path)
    scorer = reward_model(kind, tmp_path / "my_reward_model")
    found = {}
    for column, arguments in {
        "PPO": ("ppo", "--model_name_or_path", one.parent(), "--accept_failed", one.at("sft"), "--dataset_name", one.at("prompts"),
                "--response_length", 5, "--num_ppo_epochs", 1, "--output_dir", one.at("ppo"), *FEW),
        "eval": ("eval", "--models", f"base={one.base}", "--dataset_name", one.at("held"), "--max_new_tokens", 6,
                 "--output_dir", one.at("eval")),
    }.items():  # fmt: skip
        try:
            run(*arguments, "--reward_model_path", scorer)
        except (ConfigError, RunError) as error:
            found[column] = one.said(error)
        else:
            found[column] = "yes"
    compare(kind, found)


@pytest.mark.slow
@pytest.mark.parametrize(("recipes", "name"), [("smollm2-135m", "smollm2-base"), ("qwen3-0.6b", "qwen3")])
def test_the_shipped_yaml_of_a_family(recipes, name, tmp_path):
    """Four stages as the YAML says: LoRA on LoRA, the SFT gate told, the parents recorded, stop and padding apart."""
    from transformers import AutoTokenizer

    one = Twin(name, tmp_path)

    def stage(recipe: str, model: Path, rows: str, *rest: Any) -> dict:
        long = (
            [] if recipe == "ppo" else ["--max_length", 128]
        )  # the twins' rows are longer than film reviews' sentences
        record = one.train(
            recipe, recipe, model, rows, "--config", ROOT / "recipes" / recipes / f"{recipe}.yaml", *rest, *long
        )
        assert (one.at(recipe) / "adapter_config.json").exists()
        return record

    one.at("reward-run").symlink_to(one.at("reward"))  # whose gate two steps do not pass either
    record = stage("sft", one.base, "SFT")
    assert record["trainable"] < record["parameters"] and record["config"]["learning_rate"] == (
        2e-4 if recipes == "qwen3-0.6b" else 5e-4  # LoRA's default, and what the file says
    )
    gate = json.loads((one.at("sft") / "gate.json").read_text())
    assert not gate["passed"] and gate["checks"][0]["name"] == "stops"  # two steps teach nobody to stop
    stage("reward", one.at("sft"), "pairs")
    stage("dpo", one.at("sft"), "pairs")
    record = stage("ppo", one.at("sft"), "prompts", "--reward_model_path", one.at("reward"), "--response_length", 6)
    assert set(record["parents"]) == {"model", "reference", "reward_model", "data"}
    tokenizer = AutoTokenizer.from_pretrained(one.at("dpo"))
    assert tokenizer.eos_token == ("<|im_end|>" if name == "qwen3" else "<|endoftext|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
