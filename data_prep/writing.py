# SPDX-License-Identifier: Apache-2.0
"""Writes the rows of one split and its part of records.jsonl, record by record, and collects the numbers for the manifest."""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from critic_r1_verl import rows
from critic_r1_verl.data_folder import rows_file
from critic_r1_verl.prompts import Template
from critic_r1_verl.records import PairRecord, Record
from data_prep.notations import unpaid

CHECKED_ROWS = 8

Entry = tuple[Record, Sequence[str], Mapping[str, int]]
"""A record, the orders in which it is shown ("" for a question), and the tokens of its prompt by order (empty if not measured)."""


@dataclass
class Written:
    """What was written for one split: rows, records by kind, images {path: sha256}, prompt tokens, labels as stored and as shown.

    num_one_notation: the questions whose answer is not paid in a common other notation (notations.py).
    """

    num_rows: int = 0
    num_one_notation: int = 0
    records: Counter[str] = field(default_factory=Counter)
    images: dict[str, str] = field(default_factory=dict)
    tokens: array = field(default_factory=lambda: array("L"))
    stored: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    sample: list[rows.Row] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {"rows": self.num_rows, "pairs": self.records["pair"], "questions": self.records["question"]}


def write_split(out: Path, split: str, entries: Iterable[Entry], templates: Mapping[str, Template], records: TextIO) -> Written:
    """Write the parquet file of a split, with a row for each order of each record, and each record as a line of `records`."""
    written = Written()

    def stream() -> Iterator[rows.Row]:
        for record, orders, tokens in entries:
            record = replace(record, split=split)
            records.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
            written.images.update((image.path, image.sha256) for image in record.images)
            written.records[rows.kind_of(record)] += 1
            for order in orders:
                row = rows.record_row(record, order, templates=templates, split=split, index=written.num_rows)
                written.num_rows += 1
                if isinstance(record, PairRecord):
                    written.shown[row["reward_model"]["ground_truth"]] += 1
                if len(written.sample) < CHECKED_ROWS:
                    written.sample.append(row)
                yield row
            if isinstance(record, PairRecord):
                written.stored[record.preferred] += 1
            elif unpaid(record.answer):
                written.num_one_notation += 1
            written.tokens.extend(tokens[order] for order in orders if tokens)

    rows.write_parquet(out / rows_file(split), stream())
    return written


def preferred_first(written: Mapping[str, Written]) -> dict[str, dict[str, float | None]]:
    """The share of preferred responses that stand first, without ties, by split: before (as in the corpora) and after (as shown)."""
    return {
        "before": {split: share_first(summary.stored) for split, summary in written.items()},
        "after": {split: share_first(summary.shown) for split, summary in written.items()},
    }


def share_first(labels: Mapping[str, int]) -> float | None:
    """The share of label "1" among "1" and "2"; None if there is no such label."""
    decided = labels["1"] + labels["2"]
    return labels["1"] / decided if decided else None


def image_list(hashes: Iterable[str]) -> dict[str, Any]:
    """The number of distinct images, and a hash of the sorted list of their hashes."""
    distinct = sorted(set(hashes))
    return {"count": len(distinct), "sha256": hashlib.sha256("\n".join(distinct).encode()).hexdigest()}


def distribution(numbers: Iterable[int]) -> dict[str, int | None]:
    """Minimum, median, 95th percentile and maximum; each is None if there are no numbers."""
    ranked = sorted(numbers)

    def at(share: float) -> int | None:
        return ranked[round(share * (len(ranked) - 1))] if ranked else None

    return {"min": at(0), "median": at(0.5), "p95": at(0.95), "max": at(1)}
