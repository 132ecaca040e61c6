"""`align merge-adapter`: what is written says what the adapter said, is a run of its own, and loads plainly."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import make_checkpoint

from align.fetch import whole
from align.run.errors import ConfigError


@pytest.fixture
def adapter(tmp_path):
    """A checkpoint, and a LoRA adapter of it that changes what it says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make_checkpoint(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_whole_says_what_the_adapter_said(adapter, tmp_path, dtype, capsys):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out/whole"
    whole.main(["--adapter", str(adapter), "--output_dir", str(out), "--dtype", dtype])
    assert f"in {dtype}; logits within" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == getattr(torch, dtype) and not (out / "adapter_config.json").exists()
    ids = AutoTokenizer.from_pretrained(out)("what is a cat", return_tensors="pt")
    with torch.no_grad():
        said = model(**ids).logits.float()
        meant = AutoPeftModelForCausalLM.from_pretrained(adapter)(**ids).logits
        plain = AutoModelForCausalLM.from_pretrained(adapter.parent / "base")(**ids).logits
    apart, moved = (said - meant).abs().max(), (plain - meant).abs().max()
    assert apart < (1e-5 if dtype == "float32" else 0.05) and moved > 10 * apart
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"] == "merge-adapter" and record["status"] == "complete"
    assert record["parents"]["model"]["path"] == str(adapter)


def test_what_cannot_be_merged_leaves_nothing(adapter, tmp_path):
    with pytest.raises(ConfigError, match="is no adapter: its weights are whole already"):
        whole.main(["--adapter", str(adapter.parent / "base"), "--output_dir", str(tmp_path / "out")])
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="without its weights"):
        whole.main(["--adapter", str(adapter), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="does not exist"):
        whole.main(["--adapter", str(tmp_path / "gone"), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
