"""The model card of a finished run, `README.md` in its folder, as the hub shows it: what the record knows, and no more.

`card` is a pure function of what was recorded; `write` reads that and puts the file in its place. Whatever came from
others (names, sources, reasons) is escaped, and paths of this machine are cut to their ends: cards are for sending.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from align.report import card_parts, markdown, numerals
from align.report.markup import Table
from align.report.untrusted import encodable
from align.run import gates
from align.run.errors import RunError
from align.run.received import ancestry, files
from align.run.received.ancestry import Ancestor
from align.run.received.screen import plain

NAME = "README.md"
METHODS = {
    "pretrain": "a language model, pretrained on plain text",
    "sft": "a language model, fine-tuned on demonstrations (SFT)",
    "reward": "a reward model: it gives one score to an answer",
    "dpo": "a language model, trained on preferences by direct preference optimisation (DPO)",
    "ppo": "a language model, trained by PPO against a reward",
    "rloo": "a language model, trained by REINFORCE leave-one-out (RLOO) against a reward",
    "merge-adapter": "an adapter (LoRA) and its base as one checkpoint",
}
STAMP = "\n<!-- align-recipes wrote what is above, {}; of a card that was changed an evaluation keeps away -->\n"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write(folder: Path, record: dict[str, Any], measured: str | None = None) -> str:
    """Put the card of a finished run into its folder, in the place of any that a trainer left there; its text.

    Args:
        folder: of the run.
        record: of the run.
        measured: what an evaluation found, as Markdown.
    """
    parents = record.get("parents") or {}
    model = (parents.get("model") or {}).get("path")
    above = ancestry.line(model)
    others = {role: ancestry.of(entry["path"], entry) for role, entry in parents.items()
              if role != "model" and entry.get("path")}  # fmt: skip
    text = card(record, above, others, gates.read(folder), measured)
    files.replace(folder / NAME, text + STAMP.format(_hash(text)))
    return text


def untouched(folder: Path) -> bool:
    """Is the folder's card as it was written here, by nobody changed?"""
    try:
        found = files.text(folder / NAME)
    except (OSError, RunError):
        return False
    text, mark, _ = found.rpartition(STAMP.partition("{}")[0])
    return bool(mark) and found == text + STAMP.format(_hash(text))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def card(
    record: dict[str, Any],
    above: Sequence[Ancestor],
    others: dict[str, Ancestor],
    gate: dict[str, Any] | None,
    measured: str | None = None,
) -> str:
    """The card, as Markdown under the YAML that the hub reads.

    Args:
        record: of the run.
        above: the models that it comes from, the nearest first.
        others: the rest of its parents by role: rows, a reference, a reward model.
        gate: what the run was held to, where it was.
        measured: what an evaluation found, as Markdown.
    """
    licence = None if _from_scratch(record) else ancestry.licence(list(above))
    splits = [(name, found) for name, found in (record.get("data") or {}).items() if "source" in found]
    rows = [card_parts.rows(name, found, others) for name, found in splits]
    parts = [
        f"# {_title(record)}",
        _summary(record, licence),
        _made(record),
        _lineage(above, others, record),
        card_parts.data(rows),
        card_parts.settings(record),
        card_parts.gate(gate),
        card_parts.evaluation(record, measured),
        _loading(record, above),
        card_parts.limits(record, rows, gate, licence, _scores(record, above)),
    ]
    return str(encodable(_front(record, above, rows, licence) + "\n" + "\n\n".join(filter(None, parts)) + "\n"))


def _from_scratch(record: dict[str, Any]) -> bool:
    """Was it begun from random weights, so that what it comes from is a tokenizer?"""
    return bool(record["config"].get("model_config"))


def _title(record: dict[str, Any]) -> str:
    return markdown.text(Path(str(record["config"].get("output_dir") or record["recipe"])).name)


def _scores(record: dict[str, Any], above: Sequence[Ancestor]) -> bool:
    """Is it a reward model, or one that was made whole?"""
    made = above[0].recipe if record["recipe"] == "merge-adapter" and above else record["recipe"]
    return made == "reward"


def _is_adapter(record: dict[str, Any]) -> bool:
    return bool(record["config"].get("use_peft"))


def _base(above: Sequence[Ancestor]) -> str | None:
    """The name on the hub of what was there first; None where that is known by a path only."""
    last = above[-1] if above else None
    return next((name for name in (last.origin.get("of"), last.path) if is_hub_id(name)), None) if last else None


def is_hub_id(name: Any) -> bool:
    """Is it the name of something on the hub, and no path here?"""
    return bool(HUB_ID.fullmatch(str(name))) and not str(name).startswith(("runs/", ".")) and not Path(name).exists()


def _front(record: dict[str, Any], above: Sequence[Ancestor], rows: list[card_parts.Rows], licence: str | None) -> str:
    """The YAML that the hub reads. Only names that it can know: no paths."""
    scores, adapter = _scores(record, above), _is_adapter(record)
    head: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification" if scores else "text-generation",
        "tags": [
            "align-recipes",
            record["recipe"],
            *(["reward-model"] if scores else []),
            *(["lora"] if adapter else []),
        ],
    }
    if base := None if _from_scratch(record) else _base(above):
        head |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if licence:
        head["license"] = licence.lower()
    sources = dict.fromkeys(re.sub(r" \([^()]*\)$", "", one.source) for one in rows)
    if named := [name for name in sources if is_hub_id(name)]:
        head["datasets"] = named
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def _summary(record: dict[str, Any], licence: str | None) -> str:
    what = METHODS.get(record["recipe"], f"what {record['recipe']} made")
    size = record.get("parameters")
    weights = f" {numerals.number(int(size))} weights" if size else ""
    if size and _is_adapter(record):
        weights += f", of which {numerals.number(int(record.get('trainable') or 0))} were trained: an adapter (LoRA)"
    known = f"Licence, from what it was made of: {markdown.text(licence)}." if licence else (
        "No licence is known of what it was made of: ask whoever made that before you pass this on.")  # fmt: skip
    return f"This is {what}.{weights}{'.' * bool(weights)}\n\n{known}"


def _made(record: dict[str, Any]) -> str:
    versions = record.get("versions") or {}
    known = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions
    )
    words = " ".join(card_parts.place(word) for word in str(record.get("command", "")).split(" "))
    tokens = record.get("tokens")
    facts = [
        f"by the recipe `{record['recipe']}` of align-recipes {versions.get('align-recipes', '')}".rstrip(),
        f"on {str(record.get('started', ''))[:10]}", f"with {known}" if known else "",
        f"{numerals.number(int(tokens))} tokens" if tokens else "",
        f"seed {record['seed']}" if record.get("seed") is not None else "",
    ]  # fmt: skip
    commit = (record.get("git") or {}).get("commit")
    told = f" Commit {str(commit)[:12]}{', with changes' if record['git'].get('dirty') else ''}." if commit else ""
    told = markdown.text(told) if told else ""
    return f"## How it was made\n\nMade {', '.join(filter(None, facts))}.{told and ' ' + told}\n\n{fenced(words)}"


def fenced(text: str) -> str:
    """A block of code that its text cannot end: no line breaks, no fence."""
    return "```bash\n" + plain(re.sub(r"\s+", " ", text).replace("```", "'''")) + "\n```"


def _lineage(above: Sequence[Ancestor], others: dict[str, Ancestor], record: dict[str, Any]) -> str:
    scratch = _from_scratch(record)
    rows = [_of("its tokenizer" if scratch else "comes from", one) for one in above]
    rows += [_of(role.replace("_", " "), one) for role, one in others.items() if not role.startswith("data")]
    note = "The nearest first. The hash is that of the files that were read."
    parts = [
        "It was begun from random weights." if scratch else "",
        markdown.table(Table("Lineage", ("", "what", "made by", "hash"), rows, note)) if rows else "",
    ]
    return "\n\n".join(["## Parents", *filter(None, parts)]) if any(parts) else ""


def _of(role: str, one: Ancestor) -> tuple[str, str, str, str]:
    origin = one.origin
    made = str(one.recipe or "")
    if origin:
        made += f": {origin.get('of')} from {origin.get('from')}"
    return role, card_parts.place(one.path), made or numerals.ABSENT, str(one.hash or numerals.ABSENT)[:12]


def _loading(record: dict[str, Any], above: Sequence[Ancestor]) -> str:
    scores, adapter = _scores(record, above), _is_adapter(record)
    kind = "SequenceClassification" if scores else "CausalLM"
    package, name = ("peft", f"AutoPeftModelFor{kind}") if adapter else ("transformers", f"AutoModelFor{kind}")
    extra = ", num_labels=1" if scores and adapter else ""
    asked = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]' if scores else (
        '[{"role": "user", "content": "…"}]')  # fmt: skip
    how = "" if scores else ", add_generation_prompt=True"
    last = "score = model(**ids).logits[0, 0]" if scores else (
        "answer = model.generate(**ids, max_new_tokens=128)\n"
        'print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))')  # fmt: skip
    code = (
        f"from {package} import {name}\nfrom transformers import AutoTokenizer\n\n"
        f'where = "."  # this folder, or its name on the hub\n'
        f"tokenizer = AutoTokenizer.from_pretrained(where)\nmodel = {name}.from_pretrained(where{extra})\n"
        f'ids = tokenizer.apply_chat_template({asked}{how}, return_dict=True, return_tensors="pt")\n{last}'
    )
    note = ""
    if adapter and above:
        note = (
            "\n\nThe adapter needs the weights that its settings name. To pass it on to others, who have not got them, "
            "make it whole first: `align merge-adapter`."
        )
    return f"## How to load it\n\n```python\n{code}\n```{note}"
