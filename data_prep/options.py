# SPDX-License-Identifier: Apache-2.0
"""The options of a build: those of each corpus, and those that apply to all corpora."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep import corpora
from data_prep.vocabulary import MAX_UNREAD


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One --corpus.

    converter: name of a module of data_prep/corpora, or path of a converter file of the user. location: file, folder or hub id of the
    data ("" for the hub id of the corpus). images: folder of the images, if they are elsewhere. columns: {name in the file: name that the
    converter expects}. answers: {spelling of a label: its meaning}, as vocabulary.parse returns them. quota: the largest number of records
    to take. weight: share relative to the weights of the other corpora.
    """

    converter: str
    location: str = ""
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    quota: int | None = None
    weight: float | None = None

    @property
    def module(self) -> Any:
        return corpora.load(self.converter)

    @property
    def name(self) -> str:
        return self.module.NAME


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that apply to all corpora.

    pixels: (least, most) pixels of a stored image. limit: raw rows to read of each corpus. val, test: records in these splits (None: the
    defaults, but at most a tenth of the records). base: the model whose processor measures prompts; None: prompts are not measured.
    ties: "keep", "drop", or the largest share of ties among the records of a corpus, in [0, 1). max_unread: the largest share of the rows
    of a corpus, in [0, 1], that may be lost to labels, or to prompts, that were not read.
    """

    pixels: tuple[int, int]
    seed: int = 0
    limit: int | None = None
    val: int | None = None
    test: int | None = None
    both_orders: bool = False
    ties: Literal["keep", "drop"] | float = "keep"
    decontaminate: Sequence[str] = ()
    base: str | None = None
    max_prompt_tokens: int = 0
    allow_remote: bool = False
    max_unread: float = MAX_UNREAD
    template: str = "critic"
    question_template: str = "policy"
    num_workers: int = 1
