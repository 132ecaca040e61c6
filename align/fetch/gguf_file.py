"""`align gguf runs/x --output file.gguf`: a model as the one file that llama.cpp, Ollama and LM Studio read.

The file is made beside its place, read back, compared, and moved there: what is not the model is not left behind.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.fetch import architectures, converting, modelfile, readback, vocabulary
from align.models import adapters, checkpoints, weights
from align.run import record
from align.run.arguments import RunArguments
from align.run.errors import ConfigError, RunError
from align.run.parse import parse
from align.run.received import ancestry, files, screen

KINDS = {"f16": ("MOSTLY_F16", 2.0), "q8_0": ("MOSTLY_Q8_0", 34 / 32)}  # llama.cpp's name, bytes a weight
BESIDE = "Modelfile"


@dataclass
class GgufConfig:
    """Which model, and where the file goes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A run, or any checkpoint; an adapter is merged first."}
    )
    output: str | None = field(default=None, metadata={"help": "The file to write, file.gguf."})
    type: str = field(
        default="f16",
        metadata={
            "help": "How matrices are stored: 16 bits a weight, or 8.5. All else is fp32.",
            "choices": list(KINDS),
        },
    )

    def __post_init__(self) -> None:
        if self.output and Path(self.output).suffix != ".gguf":
            raise ConfigError(f"--output {self.output}: llama.cpp's programs expect a name that ends in .gguf")


def main(argv: list[str]) -> None:
    """Look, load, write, read back, compare, move."""
    run_args, args = parse(RunArguments, GgufConfig, nano=None, required=("model_name_or_path", "output"), argv=argv)
    path, file = str(args.model_name_or_path), Path(str(args.output))
    check_place(file, overwrite=run_args.overwrite)
    converting.check_package()
    checkpoints.check(path)
    settings = architectures.settings_of(path)
    tokenizer = checkpoints.load_tokenizer(path)
    vocabulary.read(path, tokenizer)  # what it refuses comes before weights are loaded
    place = file.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    size = adapters.parameters(path) or 0
    converting.check_room(place, int(size * KINDS[args.type][1]), f"{file.name}")
    with record.stoppable(), tempfile.TemporaryDirectory(prefix=".gguf-", dir=place) as name:
        made = Path(name) / file.name
        model = load(path, len(tokenizer))
        generation = model.generation_config
        found = vocabulary.read(path, tokenizer, generation)
        asked = readback.ask(model, tokenizer, settings["max_position_embeddings"])
        count = write(path, model, tokenizer, found, args.type, made)
        settings = model.config.to_dict()
        del model
        print(f"{file.name} is written; reading it back", flush=True)
        agreement, other = check(path, made, settings, tokenizer, found, asked, args.type)
        beside, told = modelfile.write(file.name, tokenizer, found.stops, found.begins, generation)
        shutil.move(made, file)
        files.replace(file.with_name(BESIDE), beside)
    print(
        f"{file}: {path} as {architectures.ARCHITECTURES[settings['model_type']]}, {count:,} weights, {args.type}, "
        f"{file.stat().st_size / 1e6:.1f} MB, words cut as {found.cutting}\n  read back by transformers: {agreement}\n"
        f"  {other}\n  {file.with_name(BESIDE)}: {told}; ollama create NAME -f {file.with_name(BESIDE)}"
    )


def check_place(file: Path, *, overwrite: bool) -> None:
    """May the file and its Modelfile be written?

    Raises:
        ConfigError: if they would take the place of others.
    """
    if file.is_dir():
        raise ConfigError(f"--output {file} is a folder; name a file in it: {file / 'model.gguf'}")
    if overwrite:
        return
    if file.exists():
        raise ConfigError(f"--output {file} is there; name another file, or give --overwrite")
    beside = file.with_name(BESIDE)
    if beside.exists() and modelfile.of_another(files.text(beside), file.name):
        raise ConfigError(f"{beside} is there for another file; name another folder, or give --overwrite")


def load(path: str, tokens: int) -> Any:
    """The whole model in fp32, an adapter merged, with a row for each of its tokens: its tokenizer may have got a pad.

    Raises:
        ConfigError: if it cannot be.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = adapters.located(path)
    if folder is not None:
        model = adapters.merged(path, folder, torch.float32)
    else:
        model = weights.from_pretrained(AutoModelForCausalLM, path, dtype=torch.float32)
    architectures.check(path, model.config.to_dict())  # an adapter may have changed what its base said
    weights.grow(model, tokens)
    return model.eval()


def write(path: str, model: Any, tokenizer: Any, found: vocabulary.Vocabulary, kind: str, file: Path) -> int:
    """Write the file; how many weights it holds.

    Raises:
        ConfigError: for weights that cannot be written.
    """
    from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

    settings = model.config.to_dict()
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows >= len(found.tokens), (rows, len(found.tokens))
    writer = GGUFWriter(file, architectures.ARCHITECTURES[settings["model_type"]])
    writer.add_type("model")
    writer.add_name(screen.plain("/".join(Path(path).absolute().parts[-2:])))
    said = ancestry.licence(ancestry.line(path))
    if said:
        writer.add_license(screen.plain(said))
    writer.add_file_type(LlamaFileType[KINDS[kind][0]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    architectures.describe(writer, settings, rows)
    vocabulary.write(writer, found, tokenizer, rows)
    count = 0
    for name, values in architectures.tensors(path, model):
        stored, raw = architectures.packed(path, name, values, kind)
        writer.add_tensor(name, stored, raw_dtype=raw)
        count += values.size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


def check(
    path: str, file: Path, settings: dict[str, Any], tokenizer: Any, found: vocabulary.Vocabulary,
    asked: list[readback.Probed], kind: str,
) -> tuple[readback.Likeness, str]:  # fmt: skip
    """Read a file back, by transformers and where it is there by llama.cpp.

    Raises:
        RunError: if it is another model than the one that it was made of.
    """
    try:
        agreement = readback.compare(file, settings, tokenizer, found, asked)
        if problem := agreement.problem(kind):
            raise RunError(problem)
        return agreement, readback.by_llama_cpp(file, tokenizer, asked, kind)
    except RunError as error:
        raise RunError(f"{path}: {error}; the file was not kept") from error
