# SPDX-License-Identifier: Apache-2.0
"""What a user asks of a build: the corpora, each with its own settings, and the settings that hold for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep import corpora


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One --corpus.

    converter is the name of a module of data_prep/corpora, or the path of a converter file of the user. location is where the data are
    ("" for the corpus's own hub id), images the folder of its images if that is elsewhere. columns: {column of the file: column that the
    converter expects}. quota is the largest number of records to take, weight the share beside the other corpora's weights.
    """

    converter: str
    location: str = ""
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
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
    """The settings that hold for all corpora.

    pixels: limits (least, most) of a stored image. limit: raw rows of each corpus. val, test: records held out (None for the defaults,
    which are at most a tenth of the records). base: the model whose processor measures prompts; None leaves lengths unmeasured.
    ties: "keep", "drop", or the largest share of a corpus's records that may be ties.
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
    template: str = "critic"
    question_template: str = "policy"
    num_workers: int = 1
