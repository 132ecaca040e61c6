"""A classifier of unsafe pages, trained from scratch on a few hundred labelled pages of the nano world.

    python -m align.nano.corpus.train_classifier --config recipes/nano/classifier.yaml

A BERT of 39,490 parameters with a tokenizer of its own; the cleaning stage reads it like any text-classification
checkpoint. Its labelled pages come from the same generator as the crawl's unsafe pages and share none of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from align.data import splits
from align.nano import world
from align.nano.corpus import litter
from align.run import errors, launch, lineage, record
from align.run.arguments import DataArguments, RunArguments
from align.run.parse import parse, resolved

LABELS = ("fine", "unsafe")


@dataclass
class ClassifierConfig:
    """How the classifier is trained. One epoch takes about three seconds on one core."""

    output_dir: str | None = field(default=None, metadata={"help": "Where to write the classifier."})
    seed: int = field(default=0, metadata={"help": "Of the weights and the order of the pages."})
    vocab_size: int = field(default=800, metadata={"help": "Of the classifier's own tokenizer."})
    max_length: int = field(default=128, metadata={"help": "Tokens of a page that are read."})
    epochs: int = field(default=3, metadata={"help": "Passes over the labelled pages."})
    batch_size: int = field(default=32, metadata={"help": "Pages an update."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Of AdamW; falls to zero along a line."})


def pages(seed: int, count: int, *, part: str = "train") -> list[dict[str, str]]:
    """Labelled pages, `{"text", "label"}`, a third of them unsafe; doctors' pages, addresses and junk are fine."""
    rng = random.Random(f"labelled-{part}-{seed}")
    documents = world.documents(seed, count, part=f"labelled-{part}")
    others = (text for text in world.documents(seed, 4 * count + 20, part=f"among-{part}") if "\n" not in text)
    rows = []
    for number, text in enumerate(documents):
        label = "fine"
        if number % 3 == 0:
            kind, listed = ("hate", "explicit")[rng.randrange(2)], rng.random() < 0.5
            text = litter.unsafe(kind, listed, rng, among=next(others), known=part == "train")
            label = "unsafe"
        elif number % 10 == 1:
            text = litter.clinic(rng)
        elif number % 10 == 4:
            text += " " + litter.tell(*litter.personal(rng))
        elif number % 10 == 7:
            text = litter.JUNK[rng.choice(list(litter.JUNK))](rng)
        rows.append({"text": text, "label": label})
    return rows


def new_model(args: ClassifierConfig, tokenizer: Any) -> Any:
    """A BERT with random weights; seed before this."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=args.max_length, hidden_dropout_prob=0.1, pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    return BertForSequenceClassification(config)


def probabilities(model: Any, tokenizer: Any, texts: list[str], batch_size: int = 128) -> list[float]:
    """How likely each text is unsafe, by the model."""
    import torch

    model.eval()
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                texts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt",
                return_token_type_ids=False,
            )  # fmt: skip
            found += model(**batch).logits.softmax(-1)[:, LABELS.index("unsafe")].tolist()
    return found


def train(args: ClassifierConfig, rows: Any) -> tuple[Any, Any]:
    """Train tokenizer and classifier on labelled rows. Returns both."""
    import torch

    from align.models.tokenizer import TokenizerConfig
    from align.models.tokenizer import train as train_tokenizer

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = train_tokenizer([row["text"] for row in rows], TokenizerConfig(vocab_size=args.vocab_size))
    tokenizer.model_max_length = args.max_length
    model = new_model(args, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    steps = args.epochs * -(-len(rows) // args.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    order = list(rows)
    for _ in range(args.epochs):
        rng.shuffle(order)
        for start in range(0, len(order), args.batch_size):
            part = order[start : start + args.batch_size]
            batch = tokenizer(
                [row["text"] for row in part], padding=True, truncation=True, return_tensors="pt",
                return_token_type_ids=False,
            )  # fmt: skip
            labels = torch.tensor([LABELS.index(row["label"]) for row in part])
            loss = model(**batch, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model, tokenizer


def measure(model: Any, tokenizer: Any, rows: Any) -> dict[str, float]:
    """Accuracy, and precision and recall of `unsafe` at a probability of one half, on held-out pages."""
    found = [p > 0.5 for p in probabilities(model, tokenizer, [row["text"] for row in rows])]
    truth = [row["label"] == "unsafe" for row in rows]
    both = sum(f and t for f, t in zip(found, truth, strict=True))
    return {
        "accuracy": sum(f == t for f, t in zip(found, truth, strict=True)) / len(truth),
        "precision": both / max(sum(found), 1),
        "recall": both / max(sum(truth), 1),
        "pages": len(truth),
    }


def main() -> None:
    run_args, data_args, args = parse(
        RunArguments, DataArguments, ClassifierConfig,
        nano="recipes/nano/classifier.yaml", refused=world.AS_THEY_ARE,
    )  # fmt: skip
    launch.check(launch.ONE_PROCESS)
    raw = splits.read(data_args, seed=args.seed)
    if raw["test"] is None:
        raise errors.DataError(f"{data_args.dataset_name} has no test split; the classifier is measured on one")
    config = resolved(run_args, data_args, args)
    with record.start("classifier", args.output_dir, config, overwrite=run_args.overwrite) as run:
        run.note(parents=lineage.parents({"data": data_args.dataset_name}))
        model, tokenizer = train(args, raw["train"])
        model.save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
        metrics = measure(model, tokenizer, raw["test"])
        run.finish("complete", metrics=metrics)
    print(
        f"classifier of {model.num_parameters():,} parameters, {len(raw['train'])} pages: held-out accuracy "
        f"{metrics['accuracy']:.1%}, unsafe pages found {metrics['recall']:.1%}, of those called so "
        f"{metrics['precision']:.1%} are ({metrics['pages']} pages)"
    )


if __name__ == "__main__":
    launch.run(main)
