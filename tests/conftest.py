"""Tiny models, tokenizers and rows, made here: no test needs a network, and none needs another's leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # exact to the last digit, so on a CPU everywhere; a GPU has benchmarks/gpu.py

import pytest
from hypothesis import settings

# The same examples every time; `pytest --hypothesis-profile default` looks for others
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
# Programs that the tests interrupt inherit what a shell set for jobs in its background: to ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
STATE = tempfile.TemporaryDirectory()  # pages keep their tokens among the user's own files
os.environ["XDG_STATE_HOME"] = STATE.name
ROOT = Path(__file__).resolve().parent.parent
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "sits",
    "runs",
    "sings",
    "on",
    "in",
    "mat",
    "tree",
    "house",
    "what",
    "is",
    "where",
    "who",
    "hello",
    "sorry",
    "no",
    "yes",
    "please",
    "help",
]


def pytest_runtest_setup(item):
    from align.run.checks import versions

    if item.get_closest_marker("parity") and versions.without_baseline():
        pytest.skip("needs TRL 1.12's PPO: make parity")


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_tokenizer(template: str | None = None):
    """A byte-level BPE tokenizer with our special tokens, trained on a few words."""
    from align.models.tokenizer import TokenizerConfig, train

    return train([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))], TokenizerConfig(vocab_size=320))


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers with random weights, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversations(n: int) -> list[dict]:
    said = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i % 5)) for i in range(n)]
    return [
        {
            "messages": [
                {"role": "user", "content": f"what is {said[i]}"},
                {"role": "assistant", "content": said[-i - 1]},
            ]
        }
        for i in range(n)
    ]


def pairs(n: int) -> list[dict]:
    rows = conversations(n)
    return [
        {
            "prompt": row["messages"][:1],
            "chosen": row["messages"][1:],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for row in rows
    ]


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with a checkpoint, a reward model and every kind of rows, for recipes to start from."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("world")
    make_checkpoint(folder / "base")
    torch.manual_seed(1)
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    reward.save_pretrained(folder / "rm")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "rm")
    for split, n in (("train", 48), ("test", 16)):
        write_rows(folder / "chats" / f"{split}.jsonl", conversations(n))
        write_rows(folder / "pairs" / f"{split}.jsonl", pairs(n))
        write_rows(folder / "prompts" / f"{split}.jsonl", [{"prompt": row["prompt"]} for row in pairs(n)])
        texts = [{"text": " ".join(m["content"] for m in row["messages"]) + "."} for row in conversations(n * 4)]
        write_rows(folder / "texts" / f"{split}.jsonl", texts)
    return folder


SMALL = ["--global_batch_size", "8", "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "8",
         "--logging_steps", "1", "--disable_tqdm", "true", "--lr_scheduler_type", "constant"]  # fmt: skip


def stage_arguments(stage: str, world: Path) -> list[str]:
    """The arguments with which a recipe runs on the test world, without its output folder."""
    base = ["--model_name_or_path", str(world / "base")]
    return {
        "pretrain": [*base, "--dataset_name", str(world / "texts"), "--max_length", "32", *SMALL],
        "sft": [*base, "--dataset_name", str(world / "chats"), "--max_length", "64", *SMALL],
        "reward": [*base, "--dataset_name", str(world / "pairs"), "--max_length", "64", "--learning_rate", "1e-3", *SMALL],
        "dpo": [*base, "--dataset_name", str(world / "pairs"), "--max_length", "64", *SMALL],
        "ppo": [*base, "--reward_model_path", str(world / "rm"), "--dataset_name", str(world / "prompts"),
                "--response_length", "6", "--num_ppo_epochs", "2", "--num_mini_batches", "1", *SMALL],
        "rloo": [*base, "--reward_model_path", str(world / "rm"), "--dataset_name", str(world / "prompts"),
                 "--max_completion_length", "6", *SMALL],
    }[stage]  # fmt: skip


def launch(
    command: list[str], *, cwd: Path = ROOT, check: bool = True, env: dict | None = None
) -> subprocess.CompletedProcess:
    """Run a command as a user would and return it with its output; with `check`, it must succeed."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=settings, capture_output=True, text=True, timeout=580)
    if check and done.returncode:
        raise AssertionError(f"{command}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return done


def run_recipe(stage: str, *arguments, check: bool = True, env: dict | None = None) -> subprocess.CompletedProcess:
    """`python recipes/<stage>.py …` in a process of its own."""
    return launch([sys.executable, f"recipes/{stage}.py", *arguments], check=check, env=env)


def losses(run: Path) -> list[float]:
    """The loss trace of a run, from its metrics.jsonl."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if any("loss" in row for row in rows):
        return [row["loss"] for row in rows if "loss" in row]
    return [row["loss/policy_avg"] + row["loss/value_avg"] for row in rows if "loss/policy_avg" in row]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that need it are skipped where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync.sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def serve():
    """Start OpenAI-compatible servers that behave as told."""
    from test_judge import Server

    servers = []

    def start(behave) -> Any:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()
