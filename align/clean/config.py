"""What the clean recipe takes: where the documents are, which steps run, and each rule's thresholds.

The thresholds' defaults are the papers' as datatrove has them; the line names the paper. A rule's
field that is left empty is off.
    Gopher   Rae et al. 2021, arXiv:2112.11446, section A1.1 and table A1
    C4       Raffel et al. 2020, JMLR 21, section 2.2
    FineWeb  Penedo et al. 2024, arXiv:2406.17557, sections 3.3 to 3.6
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.clean.rules.personal import KINDS
from align.run.errors import ConfigError

# In the order in which they run; the names are those of the card, of `skip` and of the folders in dropped/.
STEPS = (
    "repair", "length", "language", "repetition", "quality", "boilerplate", "lists", "classifier",
    "decontamination", "exact", "near", "personal",
)  # fmt: skip
# Those that people can review: they rule on one document by itself, or take lines out of it
REVIEWED = tuple(step for step in STEPS if step not in ("repair", "exact", "near", "personal"))
COPIES = "near_duplicates"  # the rule as reviewers know it: they see a document beside the one kept in its place
# Settings that are shares or probabilities
SHARES = (
    "max_duplicate_lines", "max_duplicate_paragraphs", "max_duplicate_line_characters",
    "max_duplicate_paragraph_characters", "max_top_ngrams", "max_duplicate_ngrams", "max_bullet_lines",
    "max_ellipsis_lines", "min_alphabetic_words", "min_punctuated_lines", "max_short_lines",
    "max_repeated_line_characters", "min_language_score", "classifier_threshold", "classifier_review",
)  # fmt: skip
# Languages that are not written with spaces between words: the fast tokenizer would see one word a line.
UNSPACED = {"zh", "ja", "th", "lo", "km", "my", "bo", "dz"}


@dataclass
class CleanConfig:
    """Where the documents come from, which steps run, how, and where the result goes."""

    input: list[str] = field(
        default_factory=list, metadata={"help": "Files, folders, finished runs or hub names; several may be mixed."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "The run's folder: data/, card.json, report.html."})
    skip: list[str] = field(default_factory=list, metadata={"help": f"Steps to leave out: {', '.join(STEPS)}."})
    text_column: str = field(default="text", metadata={"help": "The column that holds the text."})
    text_documents: str = field(
        default="paragraph", metadata={"help": "What a document is in a plain text file: paragraph, line or file."}
    )
    split: str = field(default="train", metadata={"help": "Of a hub data set or of one that save_to_disk wrote."})
    hub_config: str | None = field(default=None, metadata={"help": "Configuration name of a hub data set."})
    on_damaged: str = field(
        default="stop", metadata={"help": "A file that is broken: stop, or skip what cannot be read and count it."}
    )
    max_line_bytes: int = field(
        default=16_000_000, metadata={"help": "A longer document or line is dropped and counted, never held whole."}
    )
    shard_megabytes: float = field(
        default=32.0, metadata={"help": "Text per shard: the unit of work, of memory and of what a kill can lose."}
    )
    workers: int = field(default=0, metadata={"help": "Processes; 0 is one for each core. The output is the same."})
    executor: str = field(default="local", metadata={"help": "Where the tasks run: local, slurm or ray."})
    executor_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Passed to datatrove's executor (YAML only): partition, time, …"}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "`last`: go on with an interrupted run."}
    )
    keep_work: bool = field(default=False, metadata={"help": "Keep the shards and logs in <output_dir>/work."})
    decisions: str | None = field(
        default=None, metadata={"help": "The reviewers' decisions; <output_dir>-decisions.jsonl by default."}
    )
    review_margin: float = field(
        # Our choice: wide enough that a reviewer sees both sides of a threshold, narrow enough to be read
        default=0.1,
        metadata={"help": "A document that a threshold moved by this share would keep is reviewed, not dropped."},
    )
    audit: int = field(
        # Our choice: 20 documents pin a share down to about a fifth either way, and take ten minutes to read
        default=20,
        metadata={"help": "Documents of each rule's drops, and of what was kept, that reviewers get as a sample."},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Tokenizer to count tokens with; words are counted without one."}
    )
    test_split_size: float = field(
        default=0.0, metadata={"help": "Share of the kept documents that goes to data/test, chosen by their ids."}
    )
    title: str = field(default="Cleaned corpus", metadata={"help": "Heading of the data card."})

    def __post_init__(self) -> None:
        problems = [
            f"skip: unknown step {name!r}; there are {', '.join(STEPS)}" for name in self.skip if name not in STEPS
        ]
        for key, allowed in (
            ("text_documents", ("paragraph", "line", "file")),
            ("on_damaged", ("stop", "skip")),
            ("executor", ("local", "slurm", "ray")),
        ):
            if self.__dict__[key] not in allowed:
                problems.append(f"{key}={self.__dict__[key]}: one of {', '.join(allowed)}")
        if not 0 <= self.test_split_size < 1:
            problems.append(f"test_split_size={self.test_split_size}: a share, at least 0 and below 1")
        if not 0 <= self.review_margin < 1:
            problems.append(f"review_margin={self.review_margin}: a share, at least 0 and below 1")
        if str(self.resume_from_checkpoint).lower() not in ("last", "none", "false"):
            problems.append(f"resume_from_checkpoint={self.resume_from_checkpoint}: last, for there is one state only")
        for key, least in (("shard_megabytes", 0.01), ("max_line_bytes", 1000), ("workers", 0), ("audit", 0)):
            if self.__dict__[key] < least:
                problems.append(f"{key}={self.__dict__[key]}: at least {least}")
        if self.executor_options and self.executor == "local":
            problems.append("executor_options are for --executor slurm and ray; local takes --workers")
        if problems:
            raise ConfigError("; ".join(problems))
        if self.decisions or self.output_dir:
            # as the run's record has it: `align review` may be started somewhere else
            self.decisions = str(self.decisions_path())

    def runs(self, step: str) -> bool:
        """Is this step on?"""
        return step not in self.skip

    def processes(self) -> int:
        """How many processes work at once."""
        if self.workers:
            return self.workers
        # cores that this process may use, where the system can say so (Linux)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def decisions_path(self) -> Path:
        """Where the reviewers' decisions are: beside the run, so that `--overwrite` does not take them."""
        if self.decisions:
            return Path(self.decisions).expanduser().resolve()
        return Path(f"{Path(str(self.output_dir)).resolve()}-decisions.jsonl")


@dataclass
class RuleConfig:
    """The rules' settings. An empty value (`null` in YAML) switches a single threshold off."""

    # repair
    unicode_form: str = field(
        # One spelling of the same text, so that equal words are equal bytes; FineWeb leaves it as it is
        default="NFC",
        metadata={"help": "Unicode normal form: NFC, NFKC or none."},
    )
    # length (Gopher A1.1)
    min_words: int | None = field(default=50, metadata={"help": "Gopher."})
    max_words: int | None = field(default=100_000, metadata={"help": "Gopher."})
    # repetition (Gopher table A1)
    max_duplicate_lines: float | None = field(default=0.3, metadata={"help": "Share of lines. Gopher."})
    max_duplicate_paragraphs: float | None = field(default=0.3, metadata={"help": "Share of paragraphs. Gopher."})
    max_duplicate_line_characters: float | None = field(default=0.2, metadata={"help": "Gopher."})
    max_duplicate_paragraph_characters: float | None = field(default=0.2, metadata={"help": "Gopher."})
    max_top_ngrams: list[float] = field(
        default_factory=lambda: [0.20, 0.18, 0.16],
        metadata={"help": "Share of characters in the most frequent 2-, 3- and 4-gram. Gopher."},
    )
    max_duplicate_ngrams: list[float] = field(
        default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        metadata={"help": "Share of characters in repeated 5- to 10-grams. Gopher."},
    )
    # quality (Gopher A1.1)
    min_mean_word_length: float | None = field(default=3, metadata={"help": "Characters. Gopher."})
    max_mean_word_length: float | None = field(default=10, metadata={"help": "Characters. Gopher."})
    max_symbols: float | None = field(default=0.1, metadata={"help": "# or … for each word. Gopher."})
    max_bullet_lines: float | None = field(default=0.9, metadata={"help": "Share of lines. Gopher."})
    max_ellipsis_lines: float | None = field(default=0.3, metadata={"help": "Share of lines. Gopher."})
    min_alphabetic_words: float | None = field(default=0.8, metadata={"help": "Share of words. Gopher."})
    min_stop_words: int | None = field(default=2, metadata={"help": "Different ones of eight English. Gopher."})
    # quality (FineWeb section 3.6; the figures are those of its code, datatrove's defaults)
    min_punctuated_lines: float | None = field(default=0.12, metadata={"help": "Share of lines. FineWeb."})
    max_short_lines: float | None = field(default=0.67, metadata={"help": "Share of lines. FineWeb."})
    short_line: int = field(default=30, metadata={"help": "Characters of a short line. FineWeb."})
    max_repeated_line_characters: float | None = field(default=0.01, metadata={"help": "FineWeb's 'char dup'."})
    max_newlines: float | None = field(default=0.3, metadata={"help": "Line breaks for each word. FineWeb."})
    # quality (C4 section 2.2)
    min_sentences: int | None = field(default=5, metadata={"help": "C4."})
    refuse_placeholder: bool = field(default=True, metadata={"help": "Drop pages with 'lorem ipsum'. C4."})
    refuse_curly: bool = field(default=True, metadata={"help": "Drop pages with a curly bracket (code). C4."})
    # language
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "ISO codes that are kept."})
    min_language_score: float = field(default=0.65, metadata={"help": "Of the identifier lid.176. FineWeb."})
    word_tokenizer: str = field(
        default="fast", metadata={"help": "fast (ours), or datatrove (its own for the first language; needs spacy)."}
    )
    # boilerplate lines (C4 section 2.2, and its code)
    remove_unpunctuated_lines: bool = field(
        default=False, metadata={"help": "Lines without an end mark. C4 does; FineWeb does not (verse, lists, tables)."}
    )
    remove_policy_lines: bool = field(default=True, metadata={"help": "Cookies, privacy, terms of use. C4."})
    remove_javascript_lines: bool = field(default=True, metadata={"help": "C4."})
    min_words_per_line: int | None = field(
        # C4 has 3. That would take every heading, name and short line of a dialogue with it.
        default=None,
        metadata={"help": "Shorter lines are removed. C4: 3."},
    )
    # unwanted content
    lists: list[str] = field(default_factory=list, metadata={"help": "Word lists: shipped names or files."})
    classifier_path: str | None = field(default=None, metadata={"help": "A text-classification checkpoint."})
    classifier_label: str | None = field(default=None, metadata={"help": "The label that is unwanted."})
    classifier_threshold: float = field(default=0.5, metadata={"help": "Probability from which it is dropped."})
    classifier_review: list[float] = field(
        default_factory=lambda: [0.3, 0.7], metadata={"help": "Probabilities between which people decide."}
    )
    # decontamination
    decontaminate: list[str] = field(default_factory=list, metadata={"help": "Evaluation sets: files or hub names."})
    decontaminate_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "The sets' columns, where they have names of their own: what is asked first, then answers."},
    )
    decontaminate_ngram: int = field(
        default=13, metadata={"help": "Words in common that are too many. GPT-3, arXiv:2005.14165, appendix C."}
    )
    # near-duplicates (FineWeb section 3.4): P(found) = 1 - (1 - J^8)^14, 0.92 at Jaccard 0.8
    minhash_ngram: int = field(default=5, metadata={"help": "Words of a shingle. FineWeb."})
    minhash_buckets: int = field(default=14, metadata={"help": "FineWeb."})
    minhash_hashes: int = field(default=8, metadata={"help": "In each bucket. FineWeb."})
    minhash_keep_numbers: bool = field(
        default=False,
        metadata={
            "help": "Texts that differ in numbers differ. FineWeb, and so the default, takes all numbers as one."
        },
    )
    # personal data
    personal_kinds: list[str] = field(default_factory=list, metadata={"help": "What is masked; all kinds where empty."})

    def __post_init__(self) -> None:
        problems = []
        if self.unicode_form not in ("NFC", "NFKC", "none"):
            problems.append(f"unicode_form={self.unicode_form}: NFC, NFKC or none")
        if self.word_tokenizer not in ("fast", "datatrove"):
            problems.append(f"word_tokenizer={self.word_tokenizer}: fast or datatrove")
        unspaced = sorted(UNSPACED & set(self.languages))
        if unspaced and self.word_tokenizer == "fast":
            problems.append(
                f"languages={','.join(unspaced)}: not written with spaces, so --word_tokenizer datatrove is needed"
            )
        if self.languages and "en" not in self.languages and self.min_stop_words:
            problems.append(
                f"languages={','.join(self.languages)}: min_stop_words counts English words; switch it off in YAML "
                "with min_stop_words: null"
            )
        for key in SHARES:
            given = self.__dict__[key]
            for share in given if isinstance(given, list) else [given]:
                if share is not None and not 0 <= share <= 1:
                    problems.append(f"{key}={share}: from 0 to 1")
        for key, most in (("max_top_ngrams", 3), ("max_duplicate_ngrams", 6)):
            if len(self.__dict__[key]) > most:
                problems.append(f"{key}: at most {most} numbers, got {len(self.__dict__[key])}")
        if len(self.classifier_review) != 2:
            problems.append(f"classifier_review={self.classifier_review}: two probabilities, low and high")
        if unknown := [kind for kind in self.personal_kinds if kind not in KINDS]:
            problems.append(f"personal_kinds: unknown {', '.join(unknown)}; there are {', '.join(KINDS)}")
        if None not in (self.min_words, self.max_words) and self.min_words > self.max_words:  # type: ignore[operator]
            problems.append(f"min_words={self.min_words}: more than max_words={self.max_words}, nothing would be left")
        if self.decontaminate_columns and not self.decontaminate:
            problems.append("decontaminate_columns are those of evaluation sets: name the sets with --decontaminate")
        for key in ("minhash_ngram", "minhash_buckets", "minhash_hashes", "decontaminate_ngram"):
            if self.__dict__[key] < 1:
                problems.append(f"{key}={self.__dict__[key]}: at least 1")
        if problems:
            raise ConfigError("; ".join(problems))
